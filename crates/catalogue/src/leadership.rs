//! Leadership of a partition: taking it, and what the leader may do, which is to advance F.

use std::sync::Arc;

use model::{Offset, OffsetRange, PartitionId};
use object_store::{PutCondition, Version};

use crate::{
    BlockEntry, CatalogueError, Head, Heads, LogBounds, Lost,
    heads::{may_be_retried, no_attempts},
    rules::{Rule, holds},
};

/// The lead of one partition in one epoch. Dropping it gives nothing back: the next [`Heads::acquire`] fences it.
///
/// Its methods are not cancel-safe in the sense that a dropped call may have happened; but the next call finds out.
pub struct Leadership {
    heads: Heads,
    head: Arc<Head>,
    version: Version,
    /// A change whose outcome is not known: the range that it covers and its nonce.
    unresolved: Option<(OffsetRange, String)>,
}

impl Heads {
    /// Takes the lead of a partition: epoch + 1, by compare-and-swap. Whoever led before is fenced from now on.
    ///
    /// When `bounds.first` lies above F, the records between are lost: that is recorded, and F moves on. A caller that
    /// warmed up says the first offset that it can read *from memory or log*, so that what it holds is not given up.
    ///
    /// # Errors
    /// [`CatalogueError::LogBehindHead`] when the log ends below F. The bounds were read before the head, so that
    /// another owner may have flushed what was appended in between: read the bounds again and call again, and take it
    /// seriously the second time. Otherwise as [`Heads::read`].
    pub async fn acquire(
        &self,
        partition: PartitionId,
        owner: &str,
        bounds: impl Into<LogBounds>,
    ) -> Result<Leadership, CatalogueError> {
        let bounds = bounds.into();
        let nonce = self.fresh_nonce();
        let mut last = None;
        for attempt in 0..self.attempts() {
            self.pause(attempt).await;
            let found = match self.read_once(partition).await {
                Err(error) if error.is_unavailable() => {
                    last = Some(error);
                    continue;
                }
                found => found?,
            };
            let (base, condition) = match found {
                // An earlier try went through; its reply got lost.
                Some((head, version)) if head.nonce == nonce => {
                    return Ok(Leadership::new(self.clone(), head, version));
                }
                Some((head, version)) => (head, PutCondition::IfVersion(version)),
                None => (Arc::new(Head::unled(self.log_id(), partition)), PutCondition::IfAbsent),
            };
            if let Some(end) = bounds.end.filter(|end| *end < base.flushed_to) {
                let (log_id, flushed_to) = (self.log_id().to_owned(), base.flushed_to);
                return Err(CatalogueError::LogBehindHead { log_id, partition, end, flushed_to });
            }
            let mut next = base.led_by(owner, bounds.first, self.now());
            next.nonce.clone_from(&nonce);
            let next = Arc::new(next);
            match self.write(&next, condition).await {
                Ok(version) => {
                    if next.lost.len() > base.lost.len() {
                        tracing::error!(%partition, from = %base.flushed_to, to = %next.flushed_to,
                            "records were removed by the log's retention before they were read; they are lost");
                    }
                    tracing::info!(%partition, epoch = next.epoch, flushed_to = %next.flushed_to, "leading a partition");
                    return Ok(Leadership::new(self.clone(), next, version));
                }
                Err(error) if may_be_retried(&error) => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| no_attempts(partition)))
    }
}

impl Leadership {
    fn new(heads: Heads, head: Arc<Head>, version: Version) -> Self {
        Self { heads, head, version, unresolved: None }
    }

    /// The head as this leader knows it.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The partition.
    pub fn partition(&self) -> PartitionId {
        self.head.partition
    }

    /// The epoch of this lead.
    pub fn epoch(&self) -> u64 {
        self.head.epoch
    }

    /// F, as this leader knows it. The next cut starts here.
    pub fn flushed_to(&self) -> Offset {
        self.head.flushed_to
    }

    /// Lists a cut: step 3, after the block was put. `None` when the range held no rows. Done and visible when answered.
    ///
    /// After an error that [is unavailable](CatalogueError::is_unavailable) it may or may not have happened: call again
    /// with the same range, also with another block for it. When it had happened the call is answered well, and the
    /// first block is the one that counts.
    ///
    /// # Errors
    /// [`CatalogueError::Fenced`] when another leads; [`CatalogueError::NotFlushedTo`] when the range does not start
    /// at F; [`CatalogueError::Invalid`] when the block does not hold exactly the range; otherwise when the store fails.
    pub async fn publish(&mut self, range: OffsetRange, block: Option<BlockEntry>) -> Result<(), CatalogueError> {
        if let Some(block) = block.as_ref().filter(|block| block.range != range) {
            let reason = format!("the block {} holds {}, not the cut {range}", block.key, block.range);
            return Err(CatalogueError::Invalid { partition: self.partition(), reason });
        }
        self.advance(range, |head| head.with_cut(range, block.as_ref())).await
    }

    /// Records that retention took a range before it was read, and moves F behind it. For an owner that finds a hole
    /// while it consumes: publish everything before the hole first, then call this, and let memory begin anew behind
    /// the hole, so that no reader takes memory with a hole for whole.
    ///
    /// # Errors
    /// As [`Leadership::publish`].
    pub async fn record_lost(&mut self, range: OffsetRange) -> Result<(), CatalogueError> {
        let lost = Lost { range, recorded_at: self.heads.now() };
        self.advance(range, |head| head.with_lost(&lost)).await?;
        tracing::error!(partition = %self.partition(), from = %range.start, to = %range.end,
            "records were removed by the log's retention before they were read; they are lost");
        Ok(())
    }

    /// Replaces the head by one that is flushed to the range's end.
    async fn advance(&mut self, range: OffsetRange, change: impl Fn(&Head) -> Head) -> Result<(), CatalogueError> {
        if range.is_empty() {
            let reason = format!("the range {range} is backwards or empty");
            return Err(CatalogueError::Invalid { partition: self.partition(), reason });
        }
        // The same change keeps its nonce over all tries, so that also a try that comes to effect late is recognised.
        let nonce = match self.unresolved.take() {
            Some((unresolved, nonce)) if unresolved == range => nonce,
            Some(other) => {
                // What became of the other change decides where F is.
                self.unresolved = Some(other);
                self.refresh().await?;
                self.unresolved = None;
                self.heads.fresh_nonce()
            }
            None => self.heads.fresh_nonce(),
        };
        self.unresolved = Some((range, nonce.clone()));
        let outcome = self.advance_as(range, change, &nonce).await;
        if !outcome.as_ref().is_err_and(may_be_retried) {
            self.unresolved = None;
        }
        outcome
    }

    async fn advance_as(
        &mut self,
        range: OffsetRange,
        change: impl Fn(&Head) -> Head,
        nonce: &str,
    ) -> Result<(), CatalogueError> {
        let mut last = no_attempts(self.partition());
        for attempt in 0..self.heads.attempts() {
            self.heads.pause(attempt).await;
            if range.start != self.flushed_to() && holds(Rule::StartIsFlushedTo) {
                let (partition, flushed_to) = (self.partition(), self.flushed_to());
                return Err(CatalogueError::NotFlushedTo { partition, range, flushed_to });
            }
            let mut next = change(&self.head);
            nonce.clone_into(&mut next.nonce);
            let next = Arc::new(next);
            last = match self.heads.write(&next, PutCondition::IfVersion(self.version.clone())).await {
                Ok(version) => {
                    (self.head, self.version) = (next, version);
                    return Ok(());
                }
                Err(error) if !may_be_retried(&error) => return Err(error),
                Err(error) => error,
            };
            if last.is_unavailable() && !holds(Rule::LostReplyIsResolved) {
                self.head = next;
                return Ok(());
            }
            // Somebody else changed the head, or this try went through and its reply got lost: the head knows.
            match self.refresh_once().await {
                Ok(()) if self.head.nonce == nonce && holds(Rule::NonceTellsMine) => return Ok(()),
                // Not mine, but still my epoch: it was trimmed, or nothing happened. Build on what is there.
                Ok(()) => {}
                Err(error) if error.is_unavailable() => last = error,
                Err(error) => return Err(error),
            }
        }
        // A lost race with trimming ends here only when it was lost again and again: nothing is known to have happened.
        Err(last)
    }

    /// Reads the head again.
    ///
    /// # Errors
    /// [`CatalogueError::Fenced`] when another leads; otherwise when the store fails.
    pub async fn refresh(&mut self) -> Result<(), CatalogueError> {
        let mut attempt = 0;
        loop {
            match self.refresh_once().await {
                Err(error) if error.is_unavailable() && attempt + 1 < self.heads.attempts() => {
                    attempt += 1;
                    self.heads.pause(attempt).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn refresh_once(&mut self) -> Result<(), CatalogueError> {
        let partition = self.partition();
        let found = self.heads.read_once(partition).await?;
        let (head, version) =
            found.ok_or_else(|| CatalogueError::Gone(format!("the head of partition {partition}")))?;
        if head.epoch != self.epoch() && holds(Rule::EpochIsMine) {
            let (epoch, now, owner) = (self.epoch(), head.epoch, head.owner.clone());
            return Err(CatalogueError::Fenced { partition, epoch, now, owner });
        }
        (self.head, self.version) = (head, version);
        Ok(())
    }
}
