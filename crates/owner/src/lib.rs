//! The contract between readers (the query service) and owners (the consumer), which hold recent rows in memory: requests,
//! replies, and the trait [`Owner`].
//!
//! ```text
//! query service ── scan / streams / tail ──▶ dyn Owner ── memory of its partitions
//! ```
//!
//! Three rules make reads exact (design §10):
//!
//! - a reader reads the *head first* and asks memory for the rows from the head's flushed-to offset on ([`Where::from`]);
//! - an owner answers for exactly `[from, held.end)` as of one moment, or with [`OwnerError::NotHeld`]; then the reader plans
//!   again with a newer head;
//! - owners evict only rows below the flushed-to offset of a head that was visible before.
//!
//! A strong read asks for the log's ends first ([`Owner::ends`]) and then for answers that reach them ([`Where::at_least`]).
//! Every answer is checked for this, whichever process gave it.
//!
//! If no process holds a partition, [`LogTail`] reads the missing rows from the log itself.
//!
//! There is no transport here. In one process the trait object is the consumer itself. Between processes, a client of the
//! query RPC implements the same trait (`fleet`).

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

/// Answers requests about the recent rows of some partitions.
#[async_trait]
pub trait Owner: Send + Sync + 'static {
    /// Number of partitions of the log, as far as this process knows. They are numbered from 0. It may grow.
    fn partition_count(&self) -> u32;

    /// Asks the log for the end of each of its partitions. Everything acknowledged before the call lies below.
    ///
    /// # Errors
    /// [`OwnerError::Unavailable`] when the log cannot be asked.
    async fn ends(&self) -> Result<Vec<Offset>, OwnerError>;

    /// The partitions that are served here, ascending.
    fn partitions(&self) -> Vec<PartitionId>;

    /// The offsets whose rows are held now, or `None` if the partition is not served here. The end is the consumed offset.
    /// This is a hint: each answer says which range it covers.
    fn held(&self, partition: PartitionId) -> Option<OffsetRange>;

    /// Runs all scans of a prepared query over the rows with offset [`Where::from`] and above, once everything below
    /// [`Where::at_least`] is consumed. All scans see the same rows.
    ///
    /// # Errors
    /// [`OwnerError::Deadline`] when the partition is not consumed that far in time, [`OwnerError::NotHeld`] when `from` lies
    /// below the held range (plan again), [`OwnerError::NotLeading`] when the partition is not served here,
    /// [`OwnerError::Query`] when the query itself fails, [`OwnerError::Stopped`] when the owner is shutting down.
    async fn scan(&self, request: ScanRequest) -> Result<ScanReply, OwnerError>;

    /// The matching streams with rows from [`Where::from`] on in the time range, with counts of these rows.
    ///
    /// # Errors
    /// As [`Owner::scan`].
    async fn streams(&self, request: StreamsRequest) -> Result<StreamsReply, OwnerError>;

    /// Streams the rows of all partitions served here as they are consumed, until the stream is dropped or the owner stops.
    /// A slow reader loses rows, and can see how many.
    fn tail(&self, request: TailRequest) -> TailStream;

    /// Cuts every partition led here up to the log's current end, and waits until heads list everything.
    ///
    /// # Errors
    /// [`OwnerError::NotLeading`] or [`OwnerError::Stopped`] when a lead ends meanwhile, [`OwnerError::Unavailable`] when the
    /// log cannot be asked or not all partitions of this process are led yet.
    async fn flush(&self) -> Result<(), OwnerError>;
}
