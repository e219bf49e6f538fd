//! Everything in one process.

use super::role::Role;
use crate::parts::PartKind::{Consumer, Gateway, QueryService};

pub(super) static ROLE: Role = Role {
    name: "all",
    help: "Start everything in one process (the default)",
    on_kafka: &[Gateway, Consumer, QueryService],
    on_local_log: &[Gateway, Consumer, QueryService],
    next_steps: r#"
  next     make demo        in a second terminal, ships this machine's own logs, or by hand:
           echo hello | millrace push --label app=try
           millrace query '{app="try"}'
           millrace tail '{app="try"}'

  Ctrl-C stops it; what was acknowledged is kept.
"#,
};
