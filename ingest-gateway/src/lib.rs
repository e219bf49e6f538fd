//! HTTP in, validated, limited, routed records in the log.
//!
//! ```text
//! body ─ body.rs: read and unpack, bounded ─▶ json / protobuf / legacy / otlp: decode in one pass
//!      ─▶ intake.rs: validate, limit, add labels, route ─▶ schemas::RecordBuilder, one for each partition
//!      ─▶ append.rs: append all records, in parallel ─▶ 204 when all of them are durable
//! ```
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
//! The gateway keeps nothing but counters of rates and active streams; it may die at any moment. When some of a
//! request's records are durable and one is not, the client is told to repeat the request, and those may appear
//! twice unless it named its batch (`X-Millrace-Batch-Id`).

#![forbid(unsafe_code)]

mod append;
mod body;
mod breaker;
mod bucket;
mod budget;
mod config;
mod error;
mod failures;
mod gateway;
mod http;
mod intake;
mod json;
mod legacy;
mod level;
mod measure;
mod metrics;
mod names;
mod otlp;
mod pairs;
mod partitions;
mod protobuf;
mod rates;
mod route;
mod sharding;
mod tenants;
mod times;

pub use config::Config;
pub use error::Error;
pub use gateway::{Components, Gateway};
use tokio_util::sync::CancellationToken;

/// Makes a gateway and keeps house for it until `shutdown`. Whoever wants its routes makes the [`Gateway`] instead.
///
/// # Errors
/// As [`Gateway::new`].
pub async fn run(config: Config, components: Components, shutdown: CancellationToken) -> Result<(), Error> {
    Gateway::new(config, components)?.run(shutdown).await;
    Ok(())
}
