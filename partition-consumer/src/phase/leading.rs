//! Leading: cuts and publishes everything that is consumed, until another process takes the head or the lead is given up.

use std::collections::VecDeque;
use std::sync::Arc;

use control::PartitionRole;
use cut::{Cut, CutError, CutReason, Lead};
use model::{Offset, OffsetRange};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::next::NextPhase;
use crate::Error;
use crate::head_watch::HeadWatch;
use crate::intake::{Intake, IntakeTurn};
use crate::memory::{MemorySegment, OpenedAt};
use crate::order::{Order, Orders};
use crate::publisher::{PublishError, PublishJob, publish_all};

/// Why cutting ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// The partition is revoked, or the process shuts down.
    Asked,
    /// The publisher has stopped. It returns the reason.
    Halted,
    /// Another process leads, as the head shows.
    Superseded,
    /// Retention removed the record to fetch next. The next lead records the gap as lost.
    Overtaken,
}

/// Leads until the lead ends. Publishes everything consumed first, if that is still possible.
pub(super) async fn lead(
    intake: &mut Intake<'_>,
    orders: &mut Orders,
    lead: Box<dyn Lead>,
) -> Result<NextPhase, Error> {
    let (state, partition, epoch) = (intake.state, intake.partition, lead.epoch());
    let start = lead.flushed_to();
    tracing::info!(%partition, epoch, from = %start, consumed = %intake.consumed(), "leading a partition");
    intake.begin_lead(start);
    intake.head_epoch = epoch;
    intake.set_lead_status(PartitionRole::Leading, true, epoch);
    let (jobs, queue) = mpsc::channel(state.config.waiting_cuts_max.get());
    // A set, so that dropping this future aborts the publisher.
    let mut publisher = JoinSet::new();
    publisher.spawn(publish_all(state.clone(), intake.memory.clone(), lead, queue, orders.clone()));
    let waiting = intake.memory.waiting();
    let mut cutter = Cutter { intake, epoch, cut_to: start, waiting, is_overdue_told: false };
    let ended = cutter.cut_on(&jobs, orders).await;
    match ended {
        // No further cut can be published, so there is nothing to wait for.
        Ok(Ended::Superseded) => publisher.abort_all(),
        Ok(Ended::Halted) => {}
        // Everything consumed is published, even if the log has failed.
        Ok(Ended::Asked | Ended::Overtaken) | Err(_) => cutter.cut_all(&jobs).await,
    }
    drop(jobs);
    let halted = match publisher.join_next().await {
        Some(Ok(outcome)) => outcome,
        Some(Err(error)) if error.is_cancelled() => Err(PublishError::Fenced),
        Some(Err(panic)) => Err(PublishError::Failed(CutError::Failed {
            partition,
            range: intake.memory.held(),
            reason: panic.to_string(),
        })),
        None => Ok(()),
    };
    match (ended, halted) {
        (_, Err(PublishError::Failed(error))) => Err(error.into()),
        (Err(error), _) => Err(error),
        (Ok(_), Err(PublishError::Fenced)) | (Ok(Ended::Superseded), _) => {
            state.metrics.fenced.inc();
            Ok(if state.peers.can_exist() { NextPhase::Drain { epoch } } else { NextPhase::Pause })
        }
        (Ok(_), Err(PublishError::GaveUp)) | (Ok(Ended::Asked | Ended::Halted), Ok(())) => Ok(NextPhase::End),
        (Ok(Ended::Overtaken), Ok(())) => Ok(NextPhase::Warm { take_now: true }),
    }
}

/// Cuts the segments of a leader.
struct Cutter<'i, 'a> {
    intake: &'i mut Intake<'a>,
    epoch: u64,
    /// Everything below is in blocks or handed to the publisher.
    cut_to: Offset,
    /// Segments that ended before the lead was taken, and that no head lists completely.
    waiting: VecDeque<(Arc<MemorySegment>, OffsetRange)>,
    is_overdue_told: bool,
}

impl Cutter<'_, '_> {
    /// Fetches and cuts until there is a reason to end.
    async fn cut_on(&mut self, jobs: &mpsc::Sender<PublishJob>, orders: &mut Orders) -> Result<Ended, Error> {
        let (state, partition) = (self.intake.state, self.intake.partition);
        let memory = self.intake.memory.clone();
        let mut changes = state.peers.changes();
        let mut head = HeadWatch::on_hint(state, partition);
        loop {
            if self.is_asked_to_end(orders.now()) {
                return Ok(Ended::Asked);
            }
            if jobs.is_closed() {
                return Ok(Ended::Halted);
            }
            if state.peers.know_later(partition, self.epoch) {
                // This is only a hint. The head decides.
                head.hurry();
            }
            while !self.waiting.is_empty()
                && let Ok(slot) = jobs.try_reserve()
            {
                slot.send(self.job_of_waiting());
            }
            if let Some(reason) = self.cut_due() {
                // If too many cuts wait for the publisher, this waits and fetches nothing: the log is the buffer.
                let slot = tokio::select! {
                    biased;
                    () = orders.changed() => continue,
                    slot = jobs.reserve() => slot,
                };
                if let Ok(slot) = slot {
                    slot.send(self.next_job(reason));
                }
                continue;
            }
            let woken = async {
                tokio::select! {
                    biased;
                    () = orders.changed() => None,
                    () = jobs.closed() => None,
                    () = memory.flush_wanted() => None,
                    found = head.next() => Some(found),
                    () = changes.next() => None,
                }
            };
            match self.intake.turn(woken).await? {
                IntakeTurn::Woken(Some(found)) => {
                    if found?.epoch > self.epoch {
                        tracing::info!(%partition, epoch = self.epoch, "another process has taken over a partition");
                        return Ok(Ended::Superseded);
                    }
                }
                IntakeTurn::Overtaken => {
                    tracing::error!(%partition, consumed = %self.intake.consumed(),
                        "retention has passed this consumer: records were removed before they were read");
                    return Ok(Ended::Overtaken);
                }
                IntakeTurn::Woken(None) | IntakeTurn::Went => {}
            }
        }
    }

    /// True when the lead should end now. If there are other processes, a revocation is no reason: the new owner takes
    /// the lead when it is ready, and until then nobody else would lead.
    fn is_asked_to_end(&mut self, order: Order) -> bool {
        let state = self.intake.state;
        let role = match order {
            Order::Own { .. } => PartitionRole::Leading,
            Order::Release { .. } | Order::Leave { .. } if !state.peers.can_exist() => return true,
            Order::Leave { .. } if state.is_time_to_leave(order) => return true,
            Order::Release { since } => {
                if !self.is_overdue_told && since.elapsed() >= state.config.handoff_max.get() {
                    self.is_overdue_told = true;
                    tracing::warn!(partition = %self.intake.partition, epoch = self.epoch,
                        "a partition was revoked, and no other process takes it; still leading it");
                }
                PartitionRole::Draining
            }
            Order::Leave { .. } => PartitionRole::Draining,
        };
        self.intake.set_lead_status(role, true, self.epoch);
        false
    }

    /// The reason to cut now, if there is one.
    fn cut_due(&self) -> Option<CutReason> {
        let Self { intake, cut_to, .. } = self;
        let (config, budget) = (&intake.state.config, &intake.state.budget);
        if intake.memory.is_flush_due(*cut_to) {
            return Some(CutReason::Forced);
        }
        let (bytes, opened) = intake.filling();
        if bytes == 0 || intake.consumed() <= *cut_to {
            return None;
        }
        if bytes >= config.cut_bytes.as_usize() {
            return Some(CutReason::Full);
        }
        // Setting the time of day must neither delay cuts nor cut everything at once, so this clock never jumps.
        if opened.is_some_and(|OpenedAt { at, .. }| at.elapsed() >= config.cut_age.get()) {
            return Some(CutReason::MaxAge);
        }
        // A cut frees no memory while earlier cuts of the partition still wait to be published.
        let is_idle = intake.memory.segment_counts().1 == 0;
        (budget.is_short() && is_idle && budget.is_large(bytes)).then_some(CutReason::Pressure)
    }

    /// Cuts everything consumed, or as much as the publisher still accepts.
    async fn cut_all(&mut self, jobs: &mpsc::Sender<PublishJob>) {
        while self.cut_to < self.intake.consumed()
            && let Ok(slot) = jobs.reserve().await
        {
            slot.send(self.next_job(CutReason::NotOwned));
        }
    }

    /// The next cut, in offset order. Something must be left to cut.
    fn next_job(&mut self, reason: CutReason) -> PublishJob {
        if !self.waiting.is_empty() {
            return self.job_of_waiting();
        }
        let (frozen, range) = self.intake.roll();
        self.job(&frozen, range, reason)
    }

    fn job_of_waiting(&mut self) -> PublishJob {
        let (held, range) = self.waiting.pop_front().expect("the caller checked that a segment waits");
        self.job(&held, range, CutReason::Full)
    }

    /// Makes a cut of a segment, from the end of the last cut on.
    fn job(&mut self, held: &MemorySegment, whole: OffsetRange, reason: CutReason) -> PublishJob {
        let Intake { state, partition, .. } = *self.intake;
        assert!(whole.start <= self.cut_to, "cuts leave nothing out");
        let range = OffsetRange::new(self.cut_to, whole.end);
        self.cut_to = whole.end;
        let opened = held.opened.get().map_or_else(|| state.components.clock.now(), |opened| opened.time);
        tracing::debug!(%partition, %range, reason = reason.as_str(), "cut");
        let cut = Cut { partition, range, segment: held.segment.clone(), reason, opened };
        PublishJob { cut, frozen: tokio::time::Instant::now() }
    }
}
