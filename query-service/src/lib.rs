//! Loki's HTTP API: plan, owners and blocks, merged answer.
//!
//! In come requests of Loki's clients; out go answers in Loki's shapes, over rows that lie in owners' memory and in
//! blocks.
//!
//! ```text
//! HTTP ─request, params─▶ checks ─admission─▶ read ─┬─ heads ─▶ Owner::scan   (memory, from the flushed-to offset on)
//!                                                   └─ blocks ◀─ index cache, store   (all that lies below)
//!      ◀─encode, gzip── answer ◀─finish── partials ◀┘
//! ```
//!
//! Invariants:
//! - heads are read before memory is asked, and memory is asked for exactly what lies above them; so every row that was
//!   consumed is in the answer once, whatever is cut or taken over meanwhile (`read`);
//! - every answer holds what its request asks for at least (`goal`), which is checked on what owners answer;
//! - an answer is whole or an error: when memory cannot be read, or a block stays away, the query fails; what retention
//!   removed before it was stored is named in the answer;
//! - everything is bounded: queries that run, queries of a tenant that wait, blocks read at one time, indexes kept,
//!   frames a tail may be behind.
//!
//! There is no state here that matters: a restart loses caches only. Work on processors runs off the async threads, on
//! a bounded number of them, and stops soon after nobody waits for it any more.
//!
//! Not here yet: metric queries over several tenants, patterns, detected fields, deletion, rules.

#![forbid(unsafe_code)]

mod config;
mod error;

mod duration;
mod goal;
mod params;
mod request;

mod check;
mod federation;
mod query;
mod service;

mod admission;
mod blocks;
mod byte_limit;
mod heads;
mod index_cache;
mod plan;
mod planning;
mod read;
mod whole;

mod encode;
mod gzip;
mod respond;
mod stats;

mod labels;
mod misc;
mod router;
mod tail;
mod volume;

mod metrics;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use config::Config;
pub use error::Error;
pub use goal::Consistency;
pub use respond::not_found;
pub use service::{Components, QueryService};

/// Serves queries at [`Config::listen`] until `shutdown` is cancelled; requests that run then are completed.
///
/// # Errors
/// When the settings are wrong, the address cannot be listened at, or serving fails.
pub async fn run(config: Config, components: Components, shutdown: CancellationToken) -> Result<(), Error> {
    let listen = config.listen;
    let service = QueryService::new(config, components)?;
    let listener =
        TcpListener::bind(listen).await.map_err(|e| Error::Start(format!("cannot listen at {listen}: {e}")))?;
    tracing::info!(address = %listen, "query service listens");
    let router = service.router().fallback(not_found);
    let stop = {
        let service = service.clone();
        async move {
            shutdown.cancelled().await;
            // Tails never end by themselves; the server would wait for them.
            service.stop().await;
        }
    };
    let served = axum::serve(listener, router).with_graceful_shutdown(stop).await;
    served.map_err(|e| Error::Start(format!("serving failed: {e}")))
}
