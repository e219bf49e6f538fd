//! Loki's HTTP API for queries.
//!
//! Requests of Loki's clients come in, and answers in Loki's shapes go out. The rows come from `reading`.
//!
//! ```text
//! HTTP ─request, params─▶ checks ─admission─▶ reading::Reader
//!      ◀─encode, gzip── answer ◀─finish── partials ◀┘
//! ```
//!
//! Invariants:
//! - Tenants' limits are checked before anything is read (`check`).
//! - An answer is complete or an error (see `reading`). Warnings of the read are in the answer.
//! - Everything is bounded: running queries, waiting queries of a tenant, and the frames that a tail may be behind.
//!
//! The service has no state that matters: a restart loses only caches. Large answers are encoded and compressed on
//! processors, off the async threads.
//!
//! Not here yet: metric queries over several tenants, patterns, detected fields, deletion, rules.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests own what they start"))]

mod config;
mod error;

mod duration;
mod params;
mod request;
mod tenants;

mod check;
mod federation;
mod query;
mod service;

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

pub use config::Config;
pub use error::Error;
pub use reading::Consistency;
pub use respond::not_found;
pub use service::{Components, QueryService};
