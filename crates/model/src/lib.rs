//! The domain types that all crates share: tenants, labels, streams, entries, partitions, offsets, time.
//!
//! Values are checked when they are created and trusted afterwards. This crate does no I/O and reads no clock except
//! the [`Clock`] that a caller supplies.

#![forbid(unsafe_code)]

mod batch;
mod byte_column;
mod clock;
mod escape;
mod labels;
mod lines;
mod matcher;
mod needs;
mod offset;
mod random;
mod regex;
mod tenant;
mod tenant_ids;
mod time;
mod token;

pub use batch::{Batch, MetadataColumn, MetadataValues};
pub use byte_column::ByteColumn;
pub use clock::{Clock, ManualClock, SystemClock};
pub use escape::{EscapeError, read_go_escape};
pub use labels::{Labels, LabelsError, Quoted, StreamHash, parse_labels};
pub use lines::{LazyLines, LineSource, Lines};
pub use matcher::{MatchOp, Matcher};
pub use needs::{ByteClass, LineNeed, Literal, MetadataNeed, Needs, TextNeed};
pub use offset::{Offset, OffsetRange, PartitionId};
pub use random::{Random, SeededRandom, SystemRandom};
pub use regex::{RegexError, RegexMode, compile_regex, compile_regex_bytes, go_to_rust_regex};
pub use tenant::{TenantError, TenantId};
pub use tenant_ids::{TENANT_HEADER, TenantIds};
pub use time::{TimeRange, TimestampNs};
pub use token::{ReadToken, TokenError};
