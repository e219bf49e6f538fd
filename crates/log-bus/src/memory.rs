//! The log in memory, for tests: what Kafka and the local log promise, and faults on demand.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use model::{Clock, Offset, PartitionId, SystemClock, TenantId, TimestampNs};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::{Assignment, FetchLimits, Fetched, LogBus, LogError, LogId, LogRecord, Watermarks};

/// The largest record a [`MemoryLog`] takes, as the local log by default.
const RECORD_BYTES_MAX: usize = 4 << 20;

/// What goes wrong. All of it may be changed while the log is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// So many appends fail without having had an effect.
    pub fail_appends_before: u32,
    /// Then so many appends fail although the record is in the log, as when a reply gets lost.
    pub fail_appends_after: u32,
    /// So many fetches fail.
    pub fail_fetches: u32,
    /// So many commits fail.
    pub fail_commits: u32,
    /// Appends take this long. Their order is that of their ends.
    pub append_delay: Duration,
    /// Fetches take this much longer.
    pub fetch_delay: Duration,
    /// Skips one to three offsets after every so many records of a partition.
    pub gap_every: Option<u64>,
    /// Nothing works, as when no broker can be reached.
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

/// Counts a fault down; true when it strikes.
fn strikes(left: &mut u32) -> bool {
    let strikes = *left > 0;
    *left = left.saturating_sub(1);
    strikes
}

impl MemoryLog {
    /// An empty log with the machine's clock. All partitions are assigned at first.
    pub fn new(partitions: u32) -> Self {
        Self::with_clock(partitions, Arc::new(SystemClock))
    }

    /// An empty log with this clock.
    pub fn with_clock(partitions: u32, clock: Arc<dyn Clock>) -> Self {
        let all = (0..partitions).map(PartitionId::new).collect();
        let state = State {
            partitions: (0..partitions).map(|_| Partition::default()).collect(),
            assignments: VecDeque::from([Assignment::Assigned(all)]),
            ..State::default()
        };
        Self {
            id: LogId(uuid::Uuid::new_v4().simple().to_string()),
            clock,
            state: Mutex::new(state),
            arrivals: (0..partitions).map(|_| Notify::new()).collect(),
            assignments: Notify::new(),
        }
    }

    /// Changes what goes wrong.
    pub fn inject(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.state.lock().faults);
    }

    /// What still goes wrong.
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

    /// Raises a partition's end by so many offsets that hold no record, as Kafka's markers do.
    pub fn skip(&self, partition: PartitionId, offsets: u32) {
        if let Ok(p) = self.state.lock().partition(partition) {
            p.end += i64::from(offsets);
        }
        if let Some(arrival) = self.arrivals.get(partition.index() as usize) {
            arrival.notify_waiters();
        }
    }

    /// Appends bytes under any key, also ones that no gateway would write; answers their offset.
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

    /// Ends all appends and all waits, as a failed sync does.
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
                // Offsets without records may lie before the end.
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
    async fn skipped_offsets_are_passed_by_fetch() {
        let log = MemoryLog::new(1);
        log.skip(P, 3);
        let fetched = log.fetch(P, Offset::ZERO, LIMITS).await.unwrap();
        assert!(fetched.records.is_empty());
        assert_eq!(fetched.next, Offset::new(3));
    }

    #[tokio::test]
    async fn assignment_follows_the_test() {
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
