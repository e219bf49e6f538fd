//! This process as others see it: its name, its address, and its first message on the control topic.

use std::{collections::BTreeMap, net::SocketAddr};

use control::ProcessState;
use rustix::system::uname;
use settings::{ClusterSettings, Settings};

use crate::roles::Role;

/// The name of this process: the configured one, else the host's name.
fn name(cluster: &ClusterSettings) -> String {
    if !cluster.name.is_empty() {
        return cluster.name.clone();
    }
    let host = uname().nodename().to_string_lossy().into_owned();
    if host.is_empty() { "millrace".to_owned() } else { host }
}

/// Where others reach this process.
fn address(cluster: &ClusterSettings, listening: SocketAddr) -> String {
    if !cluster.advertise_address.is_empty() {
        return cluster.advertise_address.clone();
    }
    if listening.ip().is_unspecified() {
        return format!("{}:{}", name(cluster), listening.port());
    }
    listening.to_string()
}

/// The state that this process publishes before it has done anything.
pub(crate) fn first_state(role: &Role, settings: &Settings, listening: SocketAddr) -> ProcessState {
    let follows = settings.follows();
    ProcessState {
        id: control::fresh_id(&name(&settings.cluster)),
        roles: role.parts(settings).iter().filter_map(|part| part.control_role(follows)).collect(),
        rpc: Some(address(&settings.cluster, listening)),
        zone: settings.cluster.zone.clone(),
        leaving: false,
        partition_count: 0,
        partitions: Vec::new(),
        rates: BTreeMap::new(),
    }
}
