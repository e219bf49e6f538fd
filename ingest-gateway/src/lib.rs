//! HTTP in, validated, limited, routed records in the log.
//!
//! ```text
//! http.rs, grpc.rs: headers, body ─▶ gateway.rs: take(protocol, arrival)
//!     ─▶ unpack.rs, protocols/: unpack and decode in one pass
//!     ─▶ intake/: validate, limit, route ─▶ schemas::RecordBuilder, one for each partition
//!     ─▶ append.rs: append all records, in parallel ─▶ success when all of them are durable
//! ```
//!
//! To add a push protocol, write one file in `protocols/` and name it in the list of `protocols.rs`; `protocol.rs` says
//! more. Every status, text and discard reason is in `refusal.rs`.
//!
//! Invariants:
//! - *Acknowledged means durable*: success is answered only after the log said so for every record.
//! - *All or a told part*: a request that cannot be decoded, or that passes the tenant's rate, leaves nothing in the
//!   log. Single entries that break a limit are refused, the others are stored, and the answer says so (400).
//! - *Bounded memory*: a request reserves what it takes before it takes it; above the bound it gets 503 and
//!   `Retry-After`. Dropping a request, as when its client goes away, gives everything back.
//! - *What was written can be read*: the answer tells the offsets it reached (`X-Millrace-Token`); a query that is given
//!   them waits for them.
//! - *Sent once*: a record whose append failed is not sent again, here or elsewhere; its fate is unknown, and repeating is
//!   the client's decision.
//! - Late, out-of-order and duplicate entries are accepted; only the configured age limits refuse.
//!
//! Beside that path: route.rs chooses a tenant's partitions and a stream's among them; once a second measure.rs looks
//! how many partitions the log has (partitions.rs), how fast tenants come and what other gateways tell (rates.rs), and
//! how many partitions each tenant needs (sharding.rs). breaker.rs keeps requests away from what does not work.
//!
//! The gateway keeps nothing but counters of rates and active streams, so it may die at any moment. When some records of
//! a request are durable and one is not, the client is told to repeat the request, and the durable records appear twice.
//! A batch that the client named (`X-Millrace-Batch-Id`) is stored with its name, but repeats are not dropped yet.

#![forbid(unsafe_code)]

mod append;
mod breaker;
mod bucket;
mod budget;
mod config;
mod error;
mod failures;
mod gateway;
mod grpc;
mod headers;
mod http;
mod intake;
mod labels_cache;
mod level;
mod measure;
mod metrics;
mod names;
mod otlp_rules;
mod pairs;
mod partitions;
mod protocol;
mod protocols;
mod rates;
mod refusal;
mod route;
mod rules;
mod sharding;
mod tally;
mod tenants;
mod times;
mod unpack;

pub use config::Config;
pub use error::Error;
pub use gateway::{Components, Gateway};
