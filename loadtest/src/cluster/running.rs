//! A running cluster: brokers, the S3 server, and the processes of all roles.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use testbed::kafka::{KafkaCluster, KafkaOptions};

use crate::http::Client;

use super::{layout::Layout, node::Node, role::Role, store::StoreServer, warden::Warden};

/// Time limit for a process to stop: the grace period of 30 s, and some more for a busy machine.
pub(crate) const STOP_MAX: Duration = Duration::from_secs(45);

/// Time limit for a flush.
const FLUSH_MAX: Duration = Duration::from_secs(600);

/// All processes of a cluster. Dropping it kills them.
pub(crate) struct Cluster {
    pub(crate) layout: Layout,
    // Fields are dropped in this order: roles first, then what they depend on.
    pub(crate) nodes: Vec<Node>,
    pub(crate) store: StoreServer,
    pub(crate) kafka: KafkaCluster,
    pub(crate) warden: Warden,
}

impl Cluster {
    /// Starts everything. Does not wait until the roles are ready.
    pub(crate) fn start(mut layout: Layout) -> anyhow::Result<Self> {
        for folder in [layout.kafka_folder(), layout.store_folder(), layout.logs()] {
            fs::create_dir_all(folder)?;
        }
        let warden = Warden::new(&layout.folder)?;
        let store = StoreServer::start(&layout.store_folder(), &layout.logs().join("s3.log"), &warden)?;
        let kafka = KafkaCluster::start(KafkaOptions {
            brokers: layout.counts.brokers,
            folder: Some(layout.kafka_folder()),
            ..KafkaOptions::default()
        })?;
        layout.set("kafka.brokers", kafka.bootstrap());
        layout.set("store.s3.endpoint", store.access.endpoint.clone());
        layout.set("store.s3.access_key_id", store.access.access_key.clone());
        layout.set("store.s3.secret_access_key", store.access.secret_key.clone());
        layout.write_config()?;
        let mut cluster = Self { layout, nodes: Vec::new(), store, kafka, warden };
        for role in Role::ALL {
            for _ in 0..cluster.layout.counts.of(role) {
                cluster.add(role)?;
            }
        }
        Ok(cluster)
    }

    /// Starts one more process of a role.
    pub(crate) fn add(&mut self, role: Role) -> anyhow::Result<()> {
        let index = self.of(role).count();
        let mut node = Node::new(&self.layout, role, index)?;
        node.start(&self.layout, &self.warden)?;
        self.nodes.push(node);
        Ok(())
    }

    pub(crate) fn of(&self, role: Role) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(move |n| n.role == role)
    }

    pub(crate) fn node(&mut self, role: Role, index: usize) -> anyhow::Result<&mut Node> {
        let mut all = self.nodes.iter_mut().filter(|n| n.role == role);
        all.nth(index).with_context(|| format!("there is no {role} {index}"))
    }

    /// Starts a node that does not run.
    pub(crate) fn start_node(&mut self, role: Role, index: usize) -> anyhow::Result<()> {
        let mut all = self.nodes.iter_mut().filter(|n| n.role == role);
        let node = all.nth(index).with_context(|| format!("there is no {role} {index}"))?;
        node.start(&self.layout, &self.warden)
    }

    /// Sends SIGKILL to a node.
    pub(crate) fn kill_node(&mut self, role: Role, index: usize) -> anyhow::Result<()> {
        let mut all = self.nodes.iter_mut().filter(|n| n.role == role);
        all.nth(index).with_context(|| format!("there is no {role} {index}"))?.kill(&self.warden)
    }

    /// Sends SIGTERM to a node and waits. Returns how long the exit took.
    pub(crate) fn terminate_node(&mut self, role: Role, index: usize) -> anyhow::Result<Duration> {
        let mut all = self.nodes.iter_mut().filter(|n| n.role == role);
        all.nth(index).with_context(|| format!("there is no {role} {index}"))?.terminate(&self.warden, STOP_MAX)
    }

    pub(crate) fn addresses(&self, role: Role) -> Vec<String> {
        self.of(role).map(Node::address).collect()
    }

    /// Returns the names of nodes that run and are not ready.
    pub(crate) fn not_ready(&self) -> Vec<String> {
        self.nodes.iter().filter(|n| n.runs() && !n.is_ready()).map(|n| n.id.clone()).collect()
    }

    /// Returns the nodes that ended by themselves since the last call, each with a description.
    pub(crate) fn ended_by_themselves(&mut self) -> anyhow::Result<Vec<(Role, usize, String)>> {
        let mut found = Vec::new();
        for role in Role::ALL {
            for (index, node) in self.nodes.iter_mut().filter(|n| n.role == role).enumerate() {
                found.extend(node.ended_by_itself(&self.warden)?.map(|text| (role, index, text)));
            }
        }
        Ok(found)
    }

    /// Waits until all running nodes are ready.
    pub(crate) fn wait_ready(&mut self, limit: Duration) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            if let Some((_, _, text)) = self.ended_by_themselves()?.into_iter().next() {
                bail!("{text}");
            }
            let waiting = self.not_ready();
            if waiting.is_empty() {
                return Ok(());
            }
            if began.elapsed() > limit {
                bail!("not ready within {limit:?}: {}; see {}", waiting.join(", "), self.layout.logs().display());
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Stops everything in order: gateways first, brokers and the store last.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        let mut problems = Vec::new();
        while let Some(mut node) = self.nodes.pop() {
            if node.pid().is_some()
                && let Err(error) = node.terminate(&self.warden, STOP_MAX)
            {
                problems.push(format!("{error:#}"));
            }
        }
        anyhow::ensure!(problems.is_empty(), "{}", problems.join("\n"));
        Ok(())
    }
}

/// Waits until everything that was pushed is in blocks.
pub(crate) fn flush(cluster: &Cluster) -> anyhow::Result<()> {
    let began = Instant::now();
    let address = cluster.addresses(Role::QueryService).into_iter().next().context("there is no query service")?;
    let client = Client::new(address, FLUSH_MAX);
    loop {
        let answer = client.post("/flush", "probe", &[], b"")?;
        if answer.is_success() {
            return Ok(());
        }
        if began.elapsed() > FLUSH_MAX {
            bail!("POST /flush answered {}: {}", answer.status, answer.text());
        }
        thread::sleep(Duration::from_millis(300));
    }
}
