//! The roles of processes.

use std::fmt;

/// The role of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Role {
    Gateway,
    Consumer,
    /// A consumer that follows partitions in a group of its own and never leads one.
    Follower,
    Builder,
    QueryService,
}

impl Role {
    /// All roles in the order in which they start. They stop in the opposite order.
    pub(crate) const ALL: [Self; 5] =
        [Self::Builder, Self::Consumer, Self::Follower, Self::QueryService, Self::Gateway];

    /// Returns the binary's command for the role.
    pub(super) fn command(self) -> &'static str {
        if self == Self::Follower { Self::Consumer.name() } else { self.name() }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Consumer => "consumer",
            Self::Follower => "follower",
            Self::Builder => "builder",
            Self::QueryService => "query-service",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
