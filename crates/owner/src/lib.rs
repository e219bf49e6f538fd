//! What the owner of a partition answers, and how it is asked: the contract between those who read (the query
//! service) and those who hold recent rows in memory (the consumer).
//!
//! ```text
//! query service ── scan / streams / tail ──▶ dyn Owner ── memory of its partitions
//! ```
//!
//! Three rules make reads exact (design §10):
//!
//! - a reader reads the *head first* and asks memory for rows from the head's flushed-to offset on ([`Where::from`]);
//! - an owner answers for exactly `[from, held.end)` as of one moment, or says [`OwnerError::NotHeld`]; the reader then
//!   plans again with a newer head;
//! - what was evicted from memory is always below the flushed-to offset of a head that was visible before.
//!
//! A strong read asks for the log's ends first ([`Owner::ends`]) and then for answers that reach them
//! ([`Where::at_least`]): what an answer reaches is checked on the answer, whoever gave it.
//!
//! When nobody holds a partition, [`LogTail`] reads what is missing from the log itself.
//!
//! There is no transport here: in one process the trait object is the consumer itself, between processes a client
//! and a server of the query RPC stand on both sides of the same trait.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests own what they start"))]

mod error;
mod log_tail;
mod request;
pub mod segments;
mod tail;

use async_trait::async_trait;
use model::{Offset, OffsetRange, PartitionId};

pub use error::OwnerError;
pub use log_tail::{LogTail, LogTailConfig};
pub use request::{CatchUp, ScanReply, ScanRequest, StreamStat, StreamsReply, StreamsRequest, TailRequest, Where};
pub use tail::{TailBatch, TailSender, TailStream, tail_channel};

/// Answers for the recent rows of some partitions.
#[async_trait]
pub trait Owner: Send + Sync + 'static {
    /// How many partitions the log has, numbered from 0, as far as is known here. It may grow.
    fn partition_count(&self) -> u32;

    /// The end of every partition of the log, asked now: whatever was acknowledged before the call lies below. Its length
    /// is the number of partitions.
    ///
    /// # Errors
    /// [`OwnerError::Unavailable`] when the log cannot be asked.
    async fn ends(&self) -> Result<Vec<Offset>, OwnerError>;

    /// Which partitions are served here, ascending.
    fn partitions(&self) -> Vec<PartitionId>;

    /// The range of offsets whose rows are held for a partition now; `None` when it is not served here.
    /// Its end is what has been consumed. A hint: the range that an answer is about comes with the answer.
    fn held(&self, partition: PartitionId) -> Option<OffsetRange>;

    /// Runs all scans of a prepared query over the rows with offset [`Where::from`] and above, once everything below
    /// [`Where::at_least`] is consumed. All scans see the same rows.
    ///
    /// # Errors
    /// [`OwnerError::Deadline`] when it is not consumed that far in time, [`OwnerError::NotHeld`] when `from` lies below what is held (plan again), [`OwnerError::NotLeading`] when the
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
}
