//! What is known of all processes at one moment.

use std::cmp::Reverse;
use std::sync::Arc;

use model::{OffsetRange, PartitionId};

use crate::{PartitionRole, ProcessState, Role};

/// A process that says it holds rows of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Which process.
    pub id: String,
    /// Where its RPC is reached. Empty only for the own process, when that serves no RPC.
    pub rpc: String,
    /// Where it runs.
    pub zone: String,
    /// How it stands to the partition.
    pub role: PartitionRole,
    /// Under which epoch.
    pub epoch: u64,
    /// What it holds, or held when it last told.
    pub held: OffsetRange,
}

/// Who leads a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Which process.
    pub id: String,
    /// Under which epoch.
    pub epoch: u64,
}

/// The processes that are alive, and what they said last. It does not change; [`crate::Control::view`] gives the
/// newest one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    own: String,
    /// Those that leave last, otherwise by id.
    processes: Vec<Arc<ProcessState>>,
}

impl View {
    /// A view of these processes, as process `own` has it.
    pub(crate) fn new(own: &str, mut processes: Vec<Arc<ProcessState>>) -> Self {
        processes.sort_by(|a, b| (a.leaving, &a.id).cmp(&(b.leaving, &b.id)));
        Self { own: own.to_owned(), processes }
    }

    /// All that are alive, the own one included; those that leave come last.
    pub fn processes(&self) -> impl Iterator<Item = &ProcessState> {
        self.processes.iter().map(|process| &**process)
    }

    /// One process, if it is alive.
    pub fn process(&self, id: &str) -> Option<&ProcessState> {
        self.processes().find(|process| process.id == id)
    }

    /// Who holds rows of a partition, best first: the leader of the highest epoch, other leaders, who drains, who
    /// follows, who warms; each of processes that leave after all others. When the leader is in another zone, those that
    /// follow in the own zone come before it: they spare the way between zones, and the leader work. Processes without RPC
    /// are left out, but for the own one.
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

    /// Who leads a partition. None when nobody does, or when the highest epoch is that of a process which gave the
    /// partition away: then those that still say they lead are behind.
    pub fn leader(&self, partition: PartitionId) -> Option<Leader> {
        let states = || self.processes().filter_map(|process| Some((process, process.partition(partition)?)));
        let has_led = |role| matches!(role, PartitionRole::Leading | PartitionRole::Draining);
        let epoch = states().filter(|(_, state)| has_led(state.role)).map(|(_, state)| state.epoch).max()?;
        let leads = |state: &crate::PartitionState| state.role == PartitionRole::Leading && state.epoch == epoch;
        let (process, _) = states().find(|(_, state)| leads(state))?;
        Some(Leader { id: process.id.clone(), epoch })
    }

    /// The processes that have a role; those that leave come last.
    pub fn with_role(&self, role: Role) -> impl Iterator<Item = &ProcessState> {
        self.processes().filter(move |process| process.roles.contains(&role))
    }

    /// How many partitions the log has: the largest number that anybody told.
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

    /// `id role epoch`, each with `!` in front of the id when the process leaves, `-` when it has no RPC, and `@zone`
    /// behind it.
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
        // The own process follows something, too; it is in zone x.
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
    fn those_that_leave_come_last() {
        let view = view("!a leads 1, b warms 1, ccc warms 1");
        let ids: Vec<&str> = view.processes().map(|p| p.id.as_str()).collect();
        assert_eq!(ids, ["b", "ccc", "a"]);
        assert_eq!(view.partition_count(), 3);
        assert!(view.process("a").is_some_and(|p| p.leaving) && view.process("d").is_none());
    }
}
