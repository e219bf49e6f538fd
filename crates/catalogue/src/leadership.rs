//! What the leader of a partition may do: advance F.

use std::sync::Arc;

use model::{Offset, OffsetRange, PartitionId};
use object_store::{PutCondition, Version};

use crate::{
    BlockEntry, CatalogueError, Head, Heads, Lost,
    heads::{fresh_nonce, may_be_retried, no_attempts},
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

impl Leadership {
    pub(crate) fn new(heads: Heads, head: Arc<Head>, version: Version) -> Self {
        Self { heads, head, version, unresolved: None }
    }

    /// The head as this leader knows it.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// As [`Leadership::head`], to keep.
    pub fn head_shared(&self) -> Arc<Head> {
        self.head.clone()
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
                fresh_nonce()
            }
            None => fresh_nonce(),
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
        for attempt in 0..self.heads.retry().attempts {
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
                Err(error) if error.is_unavailable() && attempt + 1 < self.heads.retry().attempts => {
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
