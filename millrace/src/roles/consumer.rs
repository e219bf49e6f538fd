//! The log becomes memory and blocks; other processes may read both. With `consumer.mode: follow` it only reads along.

use super::role::Role;
use crate::parts::PartKind::Consumer;

pub(super) static ROLE: Role = Role {
    name: "consumer",
    help: "Read the log, keep recent entries in memory, cut and store blocks",
    on_kafka: &[Consumer],
    on_local_log: &[Consumer],
    next_steps: "",
};
