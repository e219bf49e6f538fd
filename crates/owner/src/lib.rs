//! What the owner of a partition answers, and how it is asked: the contract between those who read (the query
//! service) and those who hold recent rows in memory (the consumer).
//!
//! ```text
//! query service ── scan / streams / tail ──▶ dyn Owner ── memory of its partitions
//! ```
//!
//! Three rules make reads exact (design §10):
//!
//! - a reader reads the *head first* and asks memory for rows from the head's flushed-to offset on ([`ScanRequest::from`]);
//! - an owner answers for exactly `[from, held.end)` as of one moment, or says [`OwnerError::NotHeld`]; the reader then
//!   plans again with a newer head;
//! - what was evicted from memory is always below the flushed-to offset of a head that was visible before.
//!
//! There is no transport here: in one process the trait object is the consumer itself, between processes a client
//! and a server of the query RPC stand on both sides of the same trait.

#![forbid(unsafe_code)]

mod error;
mod request;
mod tail;

use async_trait::async_trait;
use model::{Offset, OffsetRange, PartitionId};
use tokio::time::Instant;

pub use error::OwnerError;
pub use request::{ScanReply, ScanRequest, StreamStat, StreamsReply, StreamsRequest, TailRequest};
pub use tail::{TailSender, TailStream, tail_channel};

/// Answers for the recent rows of some partitions.
#[async_trait]
pub trait Owner: Send + Sync + 'static {
    /// Which partitions are served here, ascending.
    fn partitions(&self) -> Vec<PartitionId>;

    /// The range of offsets whose rows are held for a partition now; `None` when it is not served here.
    /// Its end is what has been consumed. A hint: the range that an answer is about comes with the answer.
    fn held(&self, partition: PartitionId) -> Option<OffsetRange>;

    /// Runs scan number `scan` of a prepared query over the rows with offset `from` and above.
    ///
    /// # Errors
    /// [`OwnerError::NotHeld`] when `from` lies below what is held (plan again), [`OwnerError::NotLeading`] when the
    /// partition is not served here, [`OwnerError::Query`] when the query itself fails, [`OwnerError::Stopped`] when the
    /// owner is shutting down.
    async fn scan(&self, request: ScanRequest) -> Result<ScanReply, OwnerError>;

    /// The streams with rows of offset `from` and above that match and overlap the time range, with counts of the
    /// rows inside it.
    ///
    /// # Errors
    /// As [`Owner::scan`].
    async fn streams(&self, request: StreamsRequest) -> Result<StreamsReply, OwnerError>;

    /// Live rows as they are consumed, of all partitions served here, until the stream is dropped or the owner stops.
    /// A reader that is too slow loses rows, and can see how many.
    fn tail(&self, request: TailRequest) -> TailStream;

    /// Cuts everything up to the log's end now, in every partition served here, and waits until heads list it.
    ///
    /// # Errors
    /// [`OwnerError::NotLeading`] or [`OwnerError::Stopped`] when a partition stops being served meanwhile,
    /// [`OwnerError::Unavailable`] when the log cannot be asked, or not all partitions of this process are led yet.
    async fn flush(&self) -> Result<(), OwnerError>;

    /// Waits until everything of `partition` that was acknowledged before this call can be read here: until the partition
    /// is served and consumed up to what is the log's end now. With it a read sees all that its caller knows to be
    /// written. An owner that cannot ask the log answers at once.
    ///
    /// # Errors
    /// [`OwnerError::Deadline`] or [`OwnerError::NotLeading`] when that does not happen in time,
    /// [`OwnerError::Unavailable`] when the log cannot be asked, or not all partitions of this process are led yet.
    async fn catch_up(&self, partition: PartitionId, deadline: Instant) -> Result<(), OwnerError> {
        let _ = (partition, deadline);
        Ok(())
    }

    /// Waits until all of `partition` below `to` is in memory or in blocks.
    ///
    /// # Errors
    /// [`OwnerError::Deadline`] when that does not happen in time, [`OwnerError::NotLeading`] when the partition is
    /// not served here.
    async fn wait_consumed(&self, partition: PartitionId, to: Offset, deadline: Instant) -> Result<(), OwnerError>;
}
