//! Reads a range of a partition, with retries and at a bounded rate.

use std::time::Duration;

use log_bus::{FetchLimits, LogBus, LogError, LogRecord};
use model::{OffsetRange, PartitionId};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Error, Progress, retries::Retries};

/// The size of one fetch, and how long it waits for records.
const FETCH: FetchLimits = FetchLimits { bytes_max: 4 << 20, wait_max: Duration::from_secs(1) };
/// After this many fetches without progress the range is given up.
const EMPTY_FETCHES_MAX: u32 = 30;

/// Reads the records of a range, in order.
pub(crate) struct Records<'a> {
    pub(crate) log: &'a dyn LogBus,
    pub(crate) partition: PartitionId,
    /// The offsets that are not read yet.
    pub(crate) range: OffsetRange,
    pub(crate) pace: &'a Pace,
    pub(crate) retries: &'a Retries,
    pub(crate) progress: &'a Progress,
}

impl Records<'_> {
    /// The next records, at least one. `None` at the end of the range.
    ///
    /// # Errors
    /// When the log fails, and stays unavailable over all tries; [`Error::Stopped`] when the replay is stopped.
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

/// Bounds the bytes per second that all partitions read together.
#[derive(Debug)]
pub(crate) struct Pace {
    bytes_per_second: Option<u64>,
    /// The time until which the bytes taken so far use up the rate.
    paid_until: Mutex<Option<Instant>>,
}

impl Pace {
    pub(crate) fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second: bytes_per_second.filter(|rate| *rate > 0), paid_until: Mutex::new(None) }
    }

    /// At a bounded rate, one fetch reads at most a quarter of a second's bytes.
    fn fetch_limits(&self) -> FetchLimits {
        let part = self.bytes_per_second.map_or(u64::MAX, |rate| rate / 4);
        FetchLimits { bytes_max: FETCH.bytes_max.min(usize::try_from(part).unwrap_or(usize::MAX)), ..FETCH }
    }

    /// Takes bytes, and waits until the bytes taken before are within the rate.
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
