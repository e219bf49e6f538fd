//! A log in memory, for tests. It keeps the promises of every log and can inject faults.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use model::{Clock, Offset, PartitionId, Random, SystemClock, SystemRandom, TenantId, TimestampNs};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::{Assignment, FetchLimits, Fetched, LogBus, LogError, LogId, LogRecord, Watermarks};

/// The largest record that a [`MemoryLog`] takes: the default of the local log.
const RECORD_BYTES_MAX: usize = 4 << 20;

/// The faults to inject. They can be changed while the log is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Number of appends that fail without effect.
    pub fail_appends_before: u32,
    /// Number of appends that fail after those, although the record is in the log, as if a reply got lost.
    pub fail_appends_after: u32,
    /// Number of fetches that fail.
    pub fail_fetches: u32,
    /// Number of commits that fail.
    pub fail_commits: u32,
    /// The time that each append takes. Appends get their offsets when this time is over.
    pub append_delay: Duration,
    /// An additional wait of each fetch.
    pub fetch_delay: Duration,
    /// Skips one to three offsets each time a partition got this many records.
    pub gap_every: Option<u64>,
    /// Makes every operation fail, as if no broker could be reached.
    pub unavailable: bool,
}

/// A log in memory.
pub struct MemoryLog {
    id: LogId,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    arrivals: Vec<Notify>,
    assignments: Notify,
}

#[derive(Default)]
struct State {
    partitions: Vec<Partition>,
    assignments: VecDeque<Assignment>,
    faults: Faults,
    stopped: Option<String>,
    last_time: Option<TimestampNs>,
}

#[derive(Default)]
struct Partition {
    records: VecDeque<LogRecord>,
    first: i64,
    end: i64,
    appended: u64,
    committed: Option<Offset>,
}

impl Partition {
    fn held(&self) -> Watermarks {
        Watermarks { first: Offset::new(self.first), end: Offset::new(self.end) }
    }
}

impl State {
    fn partition(&mut self, partition: PartitionId) -> Result<&mut Partition, LogError> {
        let count = self.partitions.len() as u32;
        self.partitions.get_mut(partition.index() as usize).ok_or(LogError::NoPartition { partition, count })
    }

    fn check_available(&self) -> Result<(), LogError> {
        if self.faults.unavailable {
            return Err(injected());
        }
        Ok(())
    }

    fn check_running(&self) -> Result<(), LogError> {
        self.stopped.clone().map_or(Ok(()), |reason| Err(LogError::Stopped(reason)))
    }
}

fn injected() -> LogError {
    LogError::Unavailable("injected fault".to_owned())
}

/// Decrements the number of faults left. Returns true if there was one.
fn strikes(left: &mut u32) -> bool {
    let strikes = *left > 0;
    *left = left.saturating_sub(1);
    strikes
}

impl MemoryLog {
    /// Creates an empty log with the system's clock. All partitions are assigned to this process at first.
    pub fn new(partitions: u32) -> Self {
        Self::with_clock(partitions, Arc::new(SystemClock))
    }

    /// Creates an empty log with this clock.
    pub fn with_clock(partitions: u32, clock: Arc<dyn Clock>) -> Self {
        Self::with_random(partitions, clock, &SystemRandom)
    }

    /// Creates an empty log with this clock, and a log id from `random`.
    pub fn with_random(partitions: u32, clock: Arc<dyn Clock>, random: &dyn Random) -> Self {
        let all = (0..partitions).map(PartitionId::new).collect();
        let state = State {
            partitions: (0..partitions).map(|_| Partition::default()).collect(),
            assignments: VecDeque::from([Assignment::Assigned(all)]),
            ..State::default()
        };
        Self {
            id: LogId(random.unique_name()),
            clock,
            state: Mutex::new(state),
            arrivals: (0..partitions).map(|_| Notify::new()).collect(),
            assignments: Notify::new(),
        }
    }

    /// Changes the faults to inject.
    pub fn inject(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.state.lock().faults);
    }

    /// The faults that are still to be injected.
    pub fn faults(&self) -> Faults {
        self.state.lock().faults
    }

    /// Removes all records of a partition below `offset`, as retention does.
    pub fn trim(&self, partition: PartitionId, offset: Offset) {
        let mut state = self.state.lock();
        if let Ok(p) = state.partition(partition) {
            p.first = offset.value().clamp(p.first, p.end);
            let first = p.held().first;
            while p.records.front().is_some_and(|record| record.offset < first) {
                p.records.pop_front();
            }
        }
    }

    /// Raises a partition's end by a number of offsets that hold no record, like Kafka's transaction markers.
    pub fn skip(&self, partition: PartitionId, offsets: u32) {
        if let Ok(p) = self.state.lock().partition(partition) {
            p.end += i64::from(offsets);
        }
        if let Some(arrival) = self.arrivals.get(partition.index() as usize) {
            arrival.notify_waiters();
        }
    }

    /// Appends any bytes under any key, even such that no gateway would write. Returns the offset.
    ///
    /// # Errors
    /// [`LogError::NoPartition`], [`LogError::Stopped`].
    pub fn append_raw(&self, partition: PartitionId, key: Bytes, payload: Bytes) -> Result<Offset, LogError> {
        let mut state = self.state.lock();
        state.check_running()?;
        let append_time = state.last_time.map_or(self.clock.now(), |last| last.max(self.clock.now()));
        state.last_time = Some(append_time);
        let gap_every = state.faults.gap_every.filter(|every| *every > 0);
        let p = state.partition(partition)?;
        if let Some(every) = gap_every
            && p.appended > 0
            && p.appended.is_multiple_of(every)
        {
            p.end += 1 + (p.appended / every % 3) as i64;
        }
        p.appended += 1;
        let offset = Offset::new(p.end);
        p.end += 1;
        p.records.push_back(LogRecord { offset, append_time, key, payload });
        drop(state);
        self.arrivals[partition.index() as usize].notify_waiters();
        Ok(offset)
    }

    /// Gives partitions to this process, or takes them away.
    pub fn assign(&self, change: Assignment) {
        self.state.lock().assignments.push_back(change);
        self.assignments.notify_waiters();
    }

    /// Fails all appends and all waits from now on, like a failed sync.
    pub fn stop(&self, reason: &str) {
        self.state.lock().stopped = Some(reason.to_owned());
        for arrival in &self.arrivals {
            arrival.notify_waiters();
        }
    }

    fn find(&self, partition: PartitionId, from: Offset, limits: FetchLimits) -> Result<Option<Fetched>, LogError> {
        let mut state = self.state.lock();
        state.check_available()?;
        let stopped = state.check_running();
        let p = state.partition(partition)?;
        let held = p.held();
        if from < held.first || from > held.end {
            return Err(LogError::OutOfRange { partition, asked: from, held });
        }
        let mut records: Vec<LogRecord> = Vec::new();
        let mut bytes = 0;
        for record in p.records.range(p.records.partition_point(|record| record.offset < from)..) {
            bytes += record.payload.len();
            if !records.is_empty() && bytes > limits.bytes_max {
                break;
            }
            records.push(record.clone());
        }
        match records.last().map(|record| record.offset.next()) {
            Some(next) => Ok(Some(Fetched { records, next })),
            None => stopped.map(|()| None),
        }
    }
}

#[async_trait]
impl LogBus for MemoryLog {
    fn log_id(&self) -> &LogId {
        &self.id
    }

    fn partition_count(&self) -> u32 {
        self.arrivals.len() as u32
    }

    async fn append(&self, partition: PartitionId, key: &TenantId, payload: Bytes) -> Result<Offset, LogError> {
        if payload.len() > RECORD_BYTES_MAX {
            return Err(LogError::TooLarge { bytes: payload.len(), bytes_max: RECORD_BYTES_MAX });
        }
        let delay = self.state.lock().faults.append_delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let lost_reply = {
            let mut state = self.state.lock();
            state.check_available()?;
            state.partition(partition)?;
            if strikes(&mut state.faults.fail_appends_before) {
                return Err(injected());
            }
            strikes(&mut state.faults.fail_appends_after)
        };
        let offset = self.append_raw(partition, Bytes::copy_from_slice(key.as_str().as_bytes()), payload)?;
        if lost_reply { Err(injected()) } else { Ok(offset) }
    }

    async fn fetch(&self, partition: PartitionId, from: Offset, limits: FetchLimits) -> Result<Fetched, LogError> {
        let deadline = Instant::now().checked_add(limits.wait_max);
        let deadline = deadline.unwrap_or_else(|| Instant::now() + Duration::from_secs(24 * 3600));
        let delay = {
            let mut state = self.state.lock();
            state.partition(partition)?;
            if strikes(&mut state.faults.fail_fetches) {
                return Err(injected());
            }
            state.faults.fetch_delay
        };
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        loop {
            let mut arrival = std::pin::pin!(self.arrivals[partition.index() as usize].notified());
            arrival.as_mut().enable();
            if let Some(fetched) = self.find(partition, from, limits)? {
                return Ok(fetched);
            }
            if tokio::time::timeout_at(deadline, arrival).await.is_err() {
                // The end may be preceded by offsets without records, which the reader must pass.
                let next = self.watermarks(partition).await?.end;
                let late = self.find(partition, from, limits)?;
                return Ok(late.unwrap_or(Fetched { records: Vec::new(), next }));
            }
        }
    }

    async fn watermarks(&self, partition: PartitionId) -> Result<Watermarks, LogError> {
        let mut state = self.state.lock();
        state.check_available()?;
        state.partition(partition).map(|p| p.held())
    }

    async fn offset_at(&self, partition: PartitionId, time: TimestampNs) -> Result<Option<Offset>, LogError> {
        let mut state = self.state.lock();
        state.check_available()?;
        let p = state.partition(partition)?;
        let at = p.records.partition_point(|record| record.append_time < time);
        Ok(p.records.get(at).map(|record| record.offset))
    }

    async fn assignment(&self) -> Result<Assignment, LogError> {
        loop {
            let mut change = std::pin::pin!(self.assignments.notified());
            change.as_mut().enable();
            {
                let mut state = self.state.lock();
                if let Some(next) = state.assignments.pop_front() {
                    return Ok(next);
                }
                state.check_running()?;
            }
            change.await;
        }
    }

    async fn commit(&self, partition: PartitionId, offset: Offset) -> Result<(), LogError> {
        let mut state = self.state.lock();
        state.check_available()?;
        state.partition(partition)?;
        if strikes(&mut state.faults.fail_commits) {
            return Err(injected());
        }
        state.partition(partition)?.committed = Some(offset);
        Ok(())
    }

    async fn committed(&self, partition: PartitionId) -> Result<Option<Offset>, LogError> {
        let mut state = self.state.lock();
        state.check_available()?;
        state.partition(partition).map(|p| p.committed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PartitionId = PartitionId::new(0);
    const LIMITS: FetchLimits = FetchLimits { bytes_max: 1 << 20, wait_max: Duration::ZERO };

    fn tenant() -> TenantId {
        TenantId::new("t").unwrap()
    }

    #[tokio::test]
    async fn failed_appends_with_and_without_effect() {
        let log = MemoryLog::new(1);
        log.inject(|f| (f.fail_appends_before, f.fail_appends_after) = (1, 1));
        for (payload, works) in [("a", false), ("b", false), ("c", true)] {
            assert_eq!(log.append(P, &tenant(), Bytes::from(payload)).await.is_ok(), works, "{payload}");
        }
        let fetched = log.fetch(P, Offset::ZERO, LIMITS).await.unwrap();
        let payloads: Vec<_> = fetched.records.iter().map(|record| &record.payload[..]).collect();
        assert_eq!(payloads, [b"b", b"c"]);
        assert_eq!(log.faults(), Faults::default());
    }

    #[tokio::test]
    async fn a_fetch_passes_skipped_offsets() {
        let log = MemoryLog::new(1);
        log.skip(P, 3);
        let fetched = log.fetch(P, Offset::ZERO, LIMITS).await.unwrap();
        assert!(fetched.records.is_empty());
        assert_eq!(fetched.next, Offset::new(3));
    }

    #[tokio::test]
    async fn assignments_are_reported_in_order() {
        let log = MemoryLog::new(2);
        let all = vec![PartitionId::new(0), PartitionId::new(1)];
        assert_eq!(log.assignment().await.unwrap(), Assignment::Assigned(all));
        let (seen, ()) = tokio::join!(log.assignment(), async { log.assign(Assignment::Revoked(vec![P])) });
        assert_eq!(seen.unwrap(), Assignment::Revoked(vec![P]));
    }

    #[tokio::test]
    async fn unavailable_and_stopped() {
        let log = MemoryLog::new(1);
        log.inject(|f| f.unavailable = true);
        assert!(matches!(log.watermarks(P).await, Err(LogError::Unavailable(_))));
        log.inject(|f| f.unavailable = false);
        log.stop("no more");
        assert!(matches!(log.append(P, &tenant(), Bytes::new()).await, Err(LogError::Stopped(_))));
        assert!(matches!(log.fetch(P, Offset::ZERO, LIMITS).await, Err(LogError::Stopped(_))));
    }
}
