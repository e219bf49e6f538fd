//! Reads rows exactly once each, from owners' memory and from blocks.
//!
//! ```text
//! Query + tenant + Goal ─▶ plan ─┬─ heads ─▶ Owner::scan    (memory, from the flushed-to offset on)
//!                                └─ blocks ◀─ index cache, store   (everything below)
//!            Vec<Partial> ◀─merge─┘      then Query::finish, which is the caller's
//! ```
//!
//! Invariants:
//! - Heads are read before memory is asked, and memory is asked for exactly the rows above them. So every consumed row
//!   is read once, whatever is cut or taken over meanwhile.
//! - All scans of a query share one plan and one answer of each partition's memory: both legs of `a / b` see the same
//!   moment, and a block that both need is read once.
//! - An answer reaches the offsets that its [`Goal`] asks for. This is checked on what owners answer.
//! - An answer is complete or an error. If memory or a block cannot be read, the read fails. If retention removed rows
//!   before they were stored, the answer has a warning.
//! - Parallel blocks, cached indexes, and work on processors are bounded.
//!
//! The only state is caches. Work on processors stops soon after the caller is gone.
//!
//! Not here: HTTP, limits of tenants, and what an answer looks like. The query service has these.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests own what they start"))]

mod config;
mod error;

mod admission;
mod byte_limit;
mod goal;

mod heads;
mod obstacles;
mod reader;
mod scan_times;
mod selection;

mod block_query;
mod block_rows;
mod block_work;
mod blocks;
mod index_cache;
mod wanted_time;

mod metrics;
mod stats;

pub use admission::{Admission, Admitted};
pub use block_rows::{RowVisitor, WholeBlocks, rows_in_memory};
pub use byte_limit::{ByteLimit, TooManyBytes};
pub use config::Config;
pub use error::{Error, Remedy};
pub use goal::{Consistency, Goal, UnknownConsistency};
pub use index_cache::BlockAddress;
pub use reader::{Components, QueryRead, Reader, StreamsRead};
pub use stats::ReadStats;
