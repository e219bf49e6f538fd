//! Cuts in, blocks out, listed in heads.
//!
//! ```text
//! Cut ─▶ encode (blocking thread, bounded) ─▶ PUT If-None-Match ─▶ head CAS ─▶ commit (advice)
//! ```
//!
//! [`Builder`] implements [`cut::CutSink`]: the consumer takes the lead of a partition through it and publishes the
//! cuts of that partition one after the other. Nothing is kept here but the epoch and, between a failed CAS and its
//! repetition, the name of the block that was uploaded.
//!
//! Builders may also run as processes of their own ([`Builder::router`]): an owner then asks one of them for the block,
//! which it makes from the log, and lists it itself. Nothing depends on them.
//!
//! Invariants: a cut is published only at the head's flushed-to offset and in the epoch of its leader; a block's key
//! is never used twice; rows of a block are sorted by (tenant, stream, time, offset, order of pushing).
//!
//! On failure: before the CAS the block is an orphan, and the consumer, or the next leader, publishes the range
//! again; a reply that got lost is found in the head by its nonce; after the CAS nothing matters.
//!
//! Beside that path, [`replay`] reads the log again: to compare it with blocks, to make blocks anew, to send it on.
//!
//! Not here: compaction, retention, garbage collection of orphans.

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
