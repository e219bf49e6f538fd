//! This process among others: its name, its address, and what it tells on the control topic.

use std::{collections::BTreeMap, net::SocketAddr};

use control::{ProcessState, Role as ControlRole};
use rustix::system::uname;

use crate::{
    server::Role,
    settings::{Cluster, Settings},
};

/// What this process is called: as set, else the host's name.
pub(crate) fn name(cluster: &Cluster) -> String {
    if !cluster.name.is_empty() {
        return cluster.name.clone();
    }
    let host = uname().nodename().to_string_lossy().into_owned();
    if host.is_empty() { "millrace".to_owned() } else { host }
}

/// Where others reach this process.
pub(crate) fn address(cluster: &Cluster, listening: SocketAddr) -> String {
    if !cluster.advertise_address.is_empty() {
        return cluster.advertise_address.clone();
    }
    if listening.ip().is_unspecified() {
        return format!("{}:{}", name(cluster), listening.port());
    }
    listening.to_string()
}

/// What this process tells before it has done anything.
pub(crate) fn first_state(role: Role, settings: &Settings, listening: SocketAddr) -> ProcessState {
    let mut roles = Vec::new();
    if role.takes_pushes() {
        roles.push(ControlRole::Gateway);
    }
    if role.consumes(settings) {
        roles.push(if settings.follows() { ControlRole::Follower } else { ControlRole::Consumer });
    }
    if role.builds_for_others(settings) {
        roles.push(ControlRole::Builder);
    }
    if role.answers() {
        roles.push(ControlRole::QueryService);
    }
    ProcessState {
        id: control::fresh_id(&name(&settings.cluster)),
        roles,
        rpc: Some(address(&settings.cluster, listening)),
        zone: settings.cluster.zone.clone(),
        leaving: false,
        partition_count: 0,
        partitions: Vec::new(),
        rates: BTreeMap::new(),
    }
}
