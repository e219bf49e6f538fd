//! The components of a builder.

use std::sync::Arc;

use catalogue::Heads;
use control::Control;
use log_bus::LogBus;
use model::{Clock, Random};
use object_store::ObjectStore;
use runtime::Processors;

/// The components of a [`Builder`](crate::Builder).
#[derive(Clone)]
pub struct Components {
    /// The store for blocks.
    pub store: Arc<dyn ObjectStore>,
    /// The heads of the log's partitions, in the same store.
    pub heads: Heads,
    /// The log. Builder processes read it; committed offsets tell it what is in blocks, as advice.
    pub log: Arc<dyn LogBus>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Spreads the pauses between tries.
    pub random: Arc<dyn Random>,
    /// Encodes blocks.
    pub processors: Processors,
    /// Where metrics are registered.
    pub metrics: prometheus::Registry,
    /// The name of this process, for people. Heads say who leads.
    pub owner: String,
    /// Tells which builder processes exist; they are asked for blocks. `None` on one machine.
    pub control: Option<Arc<Control>>,
}
