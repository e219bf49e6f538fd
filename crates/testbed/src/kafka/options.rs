//! Options of a cluster of brokers.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Options of a cluster.
#[derive(Clone, Debug)]
pub struct KafkaOptions {
    /// Number of brokers: one, or three with replication 3 and at least two in-sync replicas.
    pub brokers: u16,
    /// Maximum heap of each broker, in Java's notation.
    pub heap: String,
    /// Folder of the brokers' data and logs. `None` uses a temporary folder.
    pub folder: Option<PathBuf>,
    /// Broker properties that override the ones set here.
    pub properties: BTreeMap<String, String>,
    /// Adds a TLS listener to each broker that asks for this name and password (SASL PLAIN).
    pub secure: Option<(String, String)>,
}

impl Default for KafkaOptions {
    fn default() -> Self {
        Self { brokers: 1, heap: "256m".to_owned(), folder: None, properties: BTreeMap::new(), secure: None }
    }
}
