//! A range of the log in, a segment with all its rows out: what an owner does record by record, at once.

use std::sync::Arc;
use std::time::Duration;

use cut::{Segment, SegmentWriter};
use log_bus::{FetchLimits, LogBus, LogError};
use model::{OffsetRange, PartitionId};
use schemas::record::Record;

/// How much is fetched at once.
const FETCH: FetchLimits = FetchLimits { bytes_max: 4 << 20, wait_max: Duration::from_secs(5) };

/// How often a fetch may bring nothing before the range is given up.
const EMPTY_FETCHES_MAX: u32 = 3;

/// Reads all records of `range`. Records that cannot be decoded are kept as they are, as an owner keeps them.
///
/// # Errors
/// What the log says; [`LogError::Unavailable`] too when it does not bring the end of the range in time. Nothing is
/// left out silently.
pub async fn assemble(log: &dyn LogBus, partition: PartitionId, range: OffsetRange) -> Result<Arc<Segment>, LogError> {
    let mut writer = SegmentWriter::new();
    let (mut next, mut empty) = (range.start, 0);
    while next < range.end {
        let fetched = log.fetch(partition, next, FETCH).await?;
        empty = if fetched.next > next { 0 } else { empty + 1 };
        if empty >= EMPTY_FETCHES_MAX {
            return Err(LogError::Unavailable(format!(
                "partition {partition} brings nothing from {next} on, wanted {range}"
            )));
        }
        for record in fetched.records.into_iter().filter(|record| record.offset < range.end) {
            match Record::decode(record.payload.clone()) {
                Ok(decoded) => writer.append(record.offset, &decoded),
                Err(error) => writer.quarantine(record.offset, record.payload, error.to_string()),
            };
        }
        next = fetched.next;
        // Decoding took a while: others have their turn.
        tokio::task::yield_now().await;
    }
    Ok(writer.freeze())
}
