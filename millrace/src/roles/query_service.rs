//! Answers queries. On the local log nobody else can own partitions, so it brings a consumer with it
//! (docs/adr/0004-roles-on-the-local-log.md).

use super::role::Role;
use crate::parts::PartKind::{Consumer, QueryService};

pub(super) static ROLE: Role = Role {
    name: "query-service",
    help: "Answer queries from memory and blocks; take no pushes",
    on_kafka: &[QueryService],
    on_local_log: &[Consumer, QueryService],
    next_steps: "",
};
