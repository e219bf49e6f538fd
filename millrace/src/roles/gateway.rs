//! Pushes go into the log.

use super::role::Role;
use crate::parts::PartKind::Gateway;

pub(super) static ROLE: Role = Role {
    name: "gateway",
    help: "Take pushes and append them to the log; nothing else",
    on_kafka: &[Gateway],
    on_local_log: &[Gateway],
    next_steps: "",
};
