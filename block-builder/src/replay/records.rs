//! Reading a range of a partition, with patience and at a bounded rate.

use std::time::Duration;

use log_bus::{FetchLimits, LogBus, LogError, LogRecord};
use model::{OffsetRange, PartitionId};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Error, Progress, retries::Retries};

/// How much is fetched at once.
const FETCH: FetchLimits = FetchLimits { bytes_max: 4 << 20, wait_max: Duration::from_secs(1) };
/// How often a fetch may bring nothing before the range is given up.
const EMPTY_FETCHES_MAX: u32 = 30;

/// Reads the records of a range, in order.
pub(crate) struct Records<'a> {
    pub(crate) log: &'a dyn LogBus,
    pub(crate) partition: PartitionId,
    /// What is left to read.
    pub(crate) range: OffsetRange,
    pub(crate) pace: &'a Pace,
    pub(crate) retries: &'a Retries,
    pub(crate) progress: &'a Progress,
}

impl Records<'_> {
    /// The next records, at least one; none at the end of the range.
    ///
    /// # Errors
    /// What the log says, after some tries when it is unavailable; [`Error::Stopped`].
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<LogRecord>>, Error> {
        let (mut failures, mut empty) = (0, 0);
        while !self.range.is_empty() {
            let (partition, at, end) = (self.partition, self.range.start, self.range.end);
            let fetching = self.log.fetch(partition, at, self.pace.fetch_limits());
            let fetched = match self.retries.stop.run_until_cancelled(fetching).await {
                None => return Err(Error::Stopped),
                Some(Ok(fetched)) => fetched,
                Some(Err(source @ LogError::Unavailable(_))) if self.retries.allows_another(failures + 1) => {
                    failures += 1;
                    tracing::debug!(%partition, offset = %at, %source, "cannot read the log; trying again");
                    Progress::add(&self.progress.retries, 1);
                    self.retries.pause(failures).await?;
                    continue;
                }
                Some(Err(source)) => return Err(Error::Log { partition, at, source }),
            };
            empty = if fetched.next > at { 0 } else { empty + 1 };
            if empty >= EMPTY_FETCHES_MAX {
                return Err(Error::Stalled { partition, at, end });
            }
            self.range.start = fetched.next.min(end);
            let passed = self.range.start.value() - at.value();
            Progress::add(&self.progress.offsets_done, u64::try_from(passed).unwrap_or(0));
            let mut records = fetched.records;
            records.retain(|record| record.offset < end);
            if records.is_empty() {
                continue;
            }
            let bytes = records.iter().map(|record| record.payload.len() as u64).sum();
            Progress::add(&self.progress.log_bytes, bytes);
            if self.retries.stop.run_until_cancelled(self.pace.take(bytes)).await.is_none() {
                return Err(Error::Stopped);
            }
            return Ok(Some(records));
        }
        Ok(None)
    }
}

/// Bounds how many bytes are read in a second, by all partitions together.
#[derive(Debug)]
pub(crate) struct Pace {
    bytes_per_second: Option<u64>,
    /// When what was taken so far is paid for.
    paid_until: Mutex<Option<Instant>>,
}

impl Pace {
    pub(crate) fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second: bytes_per_second.filter(|rate| *rate > 0), paid_until: Mutex::new(None) }
    }

    /// At a bounded rate, a quarter of a second's worth is read at once.
    fn fetch_limits(&self) -> FetchLimits {
        let part = self.bytes_per_second.map_or(u64::MAX, |rate| rate / 4);
        FetchLimits { bytes_max: FETCH.bytes_max.min(usize::try_from(part).unwrap_or(usize::MAX)), ..FETCH }
    }

    /// Takes bytes, and waits until those taken before are paid for.
    async fn take(&self, bytes: u64) {
        let Some(rate) = self.bytes_per_second else { return };
        let cost = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let start = {
            let mut paid_until = self.paid_until.lock();
            let start = paid_until.map_or_else(Instant::now, |until| until.max(Instant::now()));
            *paid_until = Some(start + cost);
            start
        };
        tokio::time::sleep_until(start).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_pace_is_kept() {
        let check = async |rate: Option<u64>, expected_secs: u64| {
            let (pace, began) = (Pace::new(rate), Instant::now());
            for _ in 0..11 {
                pace.take(1_000_000).await;
            }
            assert_eq!(began.elapsed().as_millis().div_ceil(1000) as u64, expected_secs, "{rate:?}");
        };
        check(None, 0).await;
        check(Some(0), 0).await;
        check(Some(1_000_000), 10).await;
        check(Some(5_000_000), 2).await;
    }
}
