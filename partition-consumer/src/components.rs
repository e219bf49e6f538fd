//! The components of a consumer.

use std::sync::Arc;

use control::Control;
use cut::CutSink;
use log_bus::LogBus;
use model::{Clock, Random};
use runtime::Processors;

/// The components of a [`Consumer`](crate::Consumer).
#[derive(Clone)]
pub struct Components {
    /// The log to consume.
    pub log: Arc<dyn LogBus>,
    /// Takes leads, and turns cuts into blocks.
    pub blocks: Arc<dyn CutSink>,
    /// Tells the time of day, for people. Ages use tokio's clock, which never jumps.
    pub clock: Arc<dyn Clock>,
    /// Spreads the pauses between tries.
    pub random: Arc<dyn Random>,
    /// Runs scans.
    pub processors: Processors,
    /// Where metrics are registered.
    pub metrics: prometheus::Registry,
    /// Tells which other processes exist and what they hold, so that partitions are handed over warm. `None` on the log
    /// of one machine, where this process is alone.
    pub control: Option<Arc<Control>>,
}
