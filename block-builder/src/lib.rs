//! Makes blocks of cuts and lists them in heads.
//!
//! ```text
//! Cut ─▶ encode (on a processor) ─▶ PUT If-None-Match ─▶ head CAS ─▶ commit (advice)
//! ```
//!
//! [`Builder`] implements [`cut::CutSink`]: the consumer takes the lead of a partition through it and publishes the cuts of
//! that partition one after the other. The builder keeps only the epoch and, between a failed CAS and the next try, the
//! entry of the uploaded block.
//!
//! Builders can also be processes of their own ([`Builder::router`]). An owner asks one of them for a block; the builder
//! makes it from the log, and the owner lists it. Owners work without them, too.
//!
//! Invariants: a cut is published only at the head's flushed-to offset and in the epoch of its leader; a block's key
//! is never used twice; rows of a block are sorted by (tenant, stream, time, offset, order of pushing).
//!
//! On failure: before the CAS the block is an orphan, and the consumer or the next leader publishes the range again. If the
//! reply to a CAS is lost, the head's nonce tells whether it succeeded. After the CAS the cut is durable and visible.
//!
//! Beside that path, [`replay`] reads the log again: to compare it with blocks, to rebuild blocks, or to send it on.
//!
//! Not here: compaction, retention, and the removal of orphans.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests own what they start"))]

mod assemble;
mod components;
mod config;
mod encode;
mod error;
mod metrics;
mod proto;
mod publish;
mod remote;
pub mod replay;
mod service;

#[cfg(test)]
mod tests;
mod upload;

pub use assemble::assemble;
pub use components::Components;
pub use config::Config;
pub use encode::encode;
pub use error::Error;
pub use publish::Builder;
