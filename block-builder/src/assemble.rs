//! Reads a range of the log into a segment, as an owner does record by record.

use std::sync::Arc;
use std::time::Duration;

use cut::{Segment, SegmentWriter};
use log_bus::{FetchLimits, LogBus, LogError};
use model::{OffsetRange, PartitionId};
use schemas::record::Record;

/// The size of one fetch, and how long it waits for records.
const FETCH: FetchLimits = FetchLimits { bytes_max: 4 << 20, wait_max: Duration::from_secs(5) };

/// After this many fetches without progress the range is given up.
const EMPTY_FETCHES_MAX: u32 = 3;

/// Reads all records of `range`. Records that cannot be decoded are set aside as they are, as an owner does.
///
/// # Errors
/// When the log fails, and [`LogError::Unavailable`] when fetches stop making progress. No record is left out silently.
pub async fn assemble(log: &dyn LogBus, partition: PartitionId, range: OffsetRange) -> Result<Arc<Segment>, LogError> {
    let mut writer = SegmentWriter::new();
    let (mut next, mut empty) = (range.start, 0);
    while next < range.end {
        let fetched = log.fetch(partition, next, FETCH).await?;
        empty = if fetched.next > next { 0 } else { empty + 1 };
        if empty >= EMPTY_FETCHES_MAX {
            return Err(LogError::Unavailable(format!(
                "partition {partition} returns no records from {next} on, though {range} was asked for"
            )));
        }
        for record in fetched.records.into_iter().filter(|record| record.offset < range.end) {
            match Record::decode(record.payload.clone()) {
                Ok(decoded) => writer.append(record.offset, &decoded),
                Err(error) => writer.quarantine(record.offset, record.payload, error.to_string()),
            };
        }
        next = fetched.next;
        // Decoding took a while, so other tasks of the thread run first.
        tokio::task::yield_now().await;
    }
    Ok(writer.freeze())
}
