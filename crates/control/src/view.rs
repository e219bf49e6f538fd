//! A snapshot of the states of all processes.

use std::cmp::Reverse;
use std::sync::Arc;

use model::{OffsetRange, PartitionId};

use crate::{PartitionRole, ProcessState, Role};

/// A process that holds rows of a partition, by its own account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The process's id.
    pub id: String,
    /// The address of its RPC. Empty only for this process itself, if it serves no RPC.
    pub rpc: String,
    /// The zone in which it runs.
    pub zone: String,
    /// Its role for the partition.
    pub role: PartitionRole,
    /// The epoch of that role.
    pub epoch: u64,
    /// The offsets that it held when it last published.
    pub held: OffsetRange,
}

/// The leader of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The process's id.
    pub id: String,
    /// The epoch with which it leads.
    pub epoch: u64,
}

/// The processes that are alive, with their last states. A view does not change; [`crate::Control::view`] returns the
/// newest one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    own: String,
    /// Sorted by id, but leaving processes come last.
    processes: Vec<Arc<ProcessState>>,
}

impl View {
    /// The view of process `own` on these processes.
    pub(crate) fn new(own: &str, mut processes: Vec<Arc<ProcessState>>) -> Self {
        processes.sort_by(|a, b| (a.leaving, &a.id).cmp(&(b.leaving, &b.id)));
        Self { own: own.to_owned(), processes }
    }

    /// All processes that are alive, including this one. Leaving processes come last.
    pub fn processes(&self) -> impl Iterator<Item = &ProcessState> {
        self.processes.iter().map(|process| &**process)
    }

    /// The process with this id, if it is alive.
    pub fn process(&self, id: &str) -> Option<&ProcessState> {
        self.processes().find(|process| process.id == id)
    }

    /// The processes that hold rows of a partition, best first: the leader with the highest epoch, other leaders,
    /// draining processes, followers, warming processes. Leaving processes come after all others. If the leader is in
    /// another zone, followers in this process's zone come before it, which saves traffic between zones and work for the
    /// leader. Processes without RPC are left out, except this process itself.
    pub fn holders(&self, partition: PartitionId) -> Vec<Holder> {
        let mut holders: Vec<(bool, Holder)> = Vec::new();
        for process in self.processes() {
            let rpc = match &process.rpc {
                Some(rpc) => rpc.clone(),
                None if process.id == self.own => String::new(),
                None => continue,
            };
            let Some(state) = process.partition(partition) else { continue };
            let holder = Holder {
                id: process.id.clone(),
                rpc,
                zone: process.zone.clone(),
                role: state.role,
                epoch: state.epoch,
                held: state.held,
            };
            holders.push((process.leaving, holder));
        }
        holders.sort_by_key(|(leaving, holder)| (*leaving, rank(holder.role), Reverse(holder.epoch)));
        let zone = self.process(&self.own).map(|own| own.zone.as_str()).unwrap_or_default();
        let is_near = |holder: &Holder| !zone.is_empty() && holder.zone == zone;
        let leader = holders.first().filter(|(leaving, holder)| !leaving && holder.role == PartitionRole::Leading);
        if !leader.is_some_and(|(_, holder)| is_near(holder)) {
            let follows_near = |holder: &Holder| holder.role == PartitionRole::Following && is_near(holder);
            holders.sort_by_key(|(leaving, holder)| *leaving || !follows_near(holder));
        }
        holders.into_iter().map(|(_, holder)| holder).collect()
    }

    /// The leader of a partition. `None` if there is none, or if the process with the highest epoch is draining: then
    /// processes that still claim to lead are outdated.
    pub fn leader(&self, partition: PartitionId) -> Option<Leader> {
        let states = || self.processes().filter_map(|process| Some((process, process.partition(partition)?)));
        let has_led = |role| matches!(role, PartitionRole::Leading | PartitionRole::Draining);
        let epoch = states().filter(|(_, state)| has_led(state.role)).map(|(_, state)| state.epoch).max()?;
        let leads = |state: &crate::PartitionState| state.role == PartitionRole::Leading && state.epoch == epoch;
        let (process, _) = states().find(|(_, state)| leads(state))?;
        Some(Leader { id: process.id.clone(), epoch })
    }

    /// The processes that have a role. Leaving processes come last.
    pub fn with_role(&self, role: Role) -> impl Iterator<Item = &ProcessState> {
        self.processes().filter(move |process| process.roles.contains(&role))
    }

    /// The number of partitions of the log: the largest number that any process published.
    pub fn partition_count(&self) -> u32 {
        self.processes().map(|process| process.partition_count).max().unwrap_or(0)
    }
}

const fn rank(role: PartitionRole) -> u8 {
    match role {
        PartitionRole::Leading => 0,
        PartitionRole::Draining => 1,
        PartitionRole::Following => 2,
        PartitionRole::Warming => 3,
    }
}

#[cfg(test)]
mod tests {
    use model::Offset;

    use super::*;
    use crate::PartitionState;

    /// A view of processes given as `id role epoch`, separated by commas. `!` before an id means that the process is
    /// leaving, `-` that it has no RPC. `@zone` may follow the id.
    fn view(text: &str) -> View {
        let process = |line: &str| {
            let mut words = line.split_whitespace();
            let mut next = || words.next().unwrap();
            let (id, zone) = {
                let id = next();
                id.split_once('@').unwrap_or((id, ""))
            };
            let role = match next() {
                "warms" => PartitionRole::Warming,
                "leads" => PartitionRole::Leading,
                "follows" => PartitionRole::Following,
                _ => PartitionRole::Draining,
            };
            Arc::new(ProcessState {
                id: id.trim_start_matches(['!', '-']).to_owned(),
                leaving: id.starts_with('!'),
                zone: zone.to_owned(),
                rpc: (!id.starts_with('-')).then(|| "h:1".to_owned()),
                partition_count: id.len() as u32,
                partitions: vec![PartitionState {
                    partition: PartitionId::new(1),
                    role,
                    epoch: next().parse().unwrap(),
                    held: OffsetRange::new(Offset::ZERO, Offset::ZERO),
                }],
                ..ProcessState::default()
            })
        };
        View::new("own", text.split(',').filter(|t| !t.trim().is_empty()).map(process).collect())
    }

    #[test]
    fn the_best_holder_comes_first() {
        let check = |text: &str, expected: &str| {
            let ids: Vec<String> = view(text).holders(PartitionId::new(1)).into_iter().map(|h| h.id).collect();
            assert_eq!(ids.join(" "), expected, "{text}");
        };
        check("", "");
        check("a warms 5, b follows 5, c drains 5, d leads 4, e leads 6", "e d c b a");
        check("!a leads 6, b warms 1", "b a");
        check("-a leads 6, b leads 1", "b");
        check("-own leads 6, b leads 7", "b own");
        assert!(view("a leads 1").holders(PartitionId::new(2)).is_empty());
        // This process holds the partition too, in zone x.
        check("own@x warms 0, a@y leads 6, b@x follows 0, c@y follows 0", "b a c own");
        check("own@x warms 0, a@x leads 6, b@x follows 0, c@y follows 0", "a b c own");
        check("own@x warms 0, a@y leads 6, !b@x follows 0, c@x drains 5", "a c own b");
        check("own@x warms 0, !a@x leads 6, b@x follows 0, c@y follows 0", "b c own a");
        check("own warms 0, a leads 6, b follows 0", "a b own");
    }

    #[test]
    fn the_leader_has_the_highest_epoch() {
        let check = |text: &str, expected: Option<(&str, u64)>| {
            let leader = view(text).leader(PartitionId::new(1));
            assert_eq!(leader.as_ref().map(|l| (l.id.as_str(), l.epoch)), expected, "{text}");
        };
        check("", None);
        check("a warms 5", None);
        check("a leads 5, b leads 6", Some(("b", 6)));
        check("a drains 5, b leads 6", Some(("b", 6)));
        check("a leads 5, b drains 6", None);
        check("a leads 5, b follows 6, c warms 7", Some(("a", 5)));
        check("!a leads 5", Some(("a", 5)));
    }

    #[test]
    fn leaving_processes_come_last() {
        let view = view("!a leads 1, b warms 1, ccc warms 1");
        let ids: Vec<&str> = view.processes().map(|p| p.id.as_str()).collect();
        assert_eq!(ids, ["b", "ccc", "a"]);
        assert_eq!(view.partition_count(), 3);
        assert!(view.process("a").is_some_and(|p| p.leaving) && view.process("d").is_none());
    }
}
