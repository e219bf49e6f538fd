//! The whole work of `builder` on the local log: everything in the log becomes blocks, then the process ends.

use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use owner::Owner as _;
use partition_consumer::Consumer;

use super::{
    consumer::until_ready,
    part::{Part, Phase},
};

pub(super) fn part(consumer: Arc<Consumer>) -> Part {
    Part::new("flush", Router::new()).with_task("flush and end", Phase::Serving, async move |token| {
        // After a signal the consumer makes a last cut of its own.
        if token.run_until_cancelled(until_ready(&consumer)).await.is_some() {
            consumer.flush().await.context("not everything could be made into blocks")?;
        }
        Ok(())
    })
}
