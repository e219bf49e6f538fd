//! What a role is.

use settings::Settings;

use crate::parts::PartKind;

/// What a process does.
///
/// Every role needs a listener, the log and the object store; with Kafka, also the control topic.
#[derive(Debug)]
pub(crate) struct Role {
    /// The command that starts it.
    pub(crate) name: &'static str,
    /// Its line in the help.
    pub(crate) help: &'static str,
    /// The parts it runs when Kafka is the log, which many processes share.
    pub(crate) on_kafka: &'static [PartKind],
    /// The parts it runs on the local log, which one process uses at a time.
    pub(crate) on_local_log: &'static [PartKind],
    /// What a person may try next, printed after the start.
    pub(crate) next_steps: &'static str,
}

impl Role {
    /// The parts it runs with these settings.
    pub(crate) fn parts(&self, settings: &Settings) -> &'static [PartKind] {
        if settings.kafka.is_set() { self.on_kafka } else { self.on_local_log }
    }

    /// True when one of its parts is `kind`.
    pub(crate) fn runs(&self, kind: PartKind, settings: &Settings) -> bool {
        self.parts(settings).contains(&kind)
    }
}
