//! `cluster.json`: all processes and their addresses, for `status`, `down`, and scripts.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{layout::TOPIC, running::Cluster};
use crate::procstat::start_ticks;

/// The content of `cluster.json`.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct State {
    pub(super) ready: bool,
    pub(super) supervisor: Process,
    pub(super) binary: PathBuf,
    pub(super) config: PathBuf,
    pub(super) bootstrap: String,
    pub(super) topic: String,
    pub(super) brokers: Vec<Process>,
    pub(super) store: Store,
    pub(super) nodes: Vec<Node>,
}

/// A process. Its start time tells it from a later process with the same pid.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Process {
    pub(super) pid: u32,
    started_ticks: u64,
}

#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Store {
    pub(super) endpoint: String,
    pub(super) process: Process,
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Node {
    pub(super) role: String,
    pub(super) id: String,
    pub(super) address: String,
    pub(super) process: Process,
}

impl Process {
    fn of(pid: Option<u32>) -> Self {
        let pid = pid.unwrap_or_default();
        Self { pid, started_ticks: start_ticks(pid).unwrap_or_default() }
    }

    pub(super) fn is_alive(&self) -> bool {
        start_ticks(self.pid).is_ok_and(|ticks| ticks == self.started_ticks)
    }
}

impl State {
    /// Returns the state of a cluster that is starting: only the supervisor, which is this process.
    pub(super) fn starting() -> anyhow::Result<Self> {
        Ok(Self { supervisor: Process::of(Some(std::process::id())), ..Self::default() })
    }

    pub(super) fn of(cluster: &Cluster, ready: bool) -> anyhow::Result<Self> {
        let nodes = cluster.nodes.iter().map(|node| Node {
            role: node.role.name().to_owned(),
            id: node.id.clone(),
            address: node.address(),
            process: Process::of(node.pid()),
        });
        Ok(Self {
            ready,
            binary: cluster.layout.binary.canonicalize()?,
            config: cluster.layout.config_file(),
            bootstrap: cluster.kafka.bootstrap(),
            topic: TOPIC.to_owned(),
            brokers: (0..cluster.kafka.len()).map(|i| Process::of(cluster.kafka.pid(i))).collect(),
            store: Store {
                endpoint: cluster.store.access.endpoint.clone(),
                process: Process::of(Some(cluster.store.pid())),
            },
            nodes: nodes.collect(),
            ..Self::starting()?
        })
    }

    /// Returns all processes but the supervisor, in the order in which they are stopped.
    pub(super) fn processes(&self) -> impl Iterator<Item = &Process> {
        let nodes = self.nodes.iter().rev().map(|n| &n.process);
        nodes.chain([&self.store.process]).chain(&self.brokers)
    }

    pub(super) fn read(folder: &Path) -> anyhow::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(folder.join("cluster.json"))?)?)
    }

    pub(super) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        // The rename makes the change atomic for readers.
        let beside = folder.join("cluster.json.new");
        fs::write(&beside, serde_json::to_string_pretty(self)?)?;
        Ok(fs::rename(beside, folder.join("cluster.json"))?)
    }
}
