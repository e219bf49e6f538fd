//! With Kafka, it makes blocks for owners in other processes. On the local log nobody else can own partitions, so it
//! turns the whole log into blocks and ends (docs/adr/0004-roles-on-the-local-log.md).

use super::role::Role;
use crate::parts::PartKind::{Builder, Consumer, FlushAndEnd};

pub(super) static ROLE: Role = Role {
    name: "builder",
    help: "With Kafka: make blocks for consumers that ask. Else: turn everything in the log into blocks, then end",
    on_kafka: &[Builder],
    on_local_log: &[Consumer, FlushAndEnd],
    next_steps: "",
};
