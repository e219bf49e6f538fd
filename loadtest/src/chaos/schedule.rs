//! The schedule of faults: an endless, seeded list of steps.
//!
//! Kinds come from a deck that is reshuffled when it is empty, so that each kind appears in proportion to its weight and
//! all kinds appear early. The schedule does not depend on what processes do.

use std::{collections::VecDeque, time::Duration};

use crate::cluster::{Counts, Role};

/// A fault or a planned change, and its target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    /// SIGKILL; the process starts again after the hold.
    Kill { role: Role, index: usize },
    /// SIGSTOP, and SIGCONT after the hold.
    Pause { role: Role, index: usize, long: bool },
    /// SIGTERM; the process starts again after its exit.
    Terminate { role: Role, index: usize },
    /// A change of the number of consumers.
    Scale { consumers: usize },
    /// An increase of the number of partitions.
    Partitions { count: u32 },
    /// SIGKILL of a broker.
    BrokerKill { broker: usize },
    /// SIGSTOP of a broker.
    BrokerPause { broker: usize },
    /// A clean restart of a broker: the leaders of its partitions move to other brokers and back.
    LeaderMove { broker: usize },
    /// SIGSTOP of all brokers.
    KafkaAway,
    /// The store answers this share of requests with 5xx, in percent.
    StoreErrors { percent: u8 },
    /// Every request to the store is delayed.
    StoreSlow { millis: u64 },
    /// The store carries out this share of requests but loses the reply, in percent.
    StoreReplyLost { percent: u8 },
    /// The store is unreachable.
    StoreAway,
    /// The store is unreachable during heavy pushes, until the consumers' memory is full.
    MemoryFull,
    /// The wall clock of a process is shifted.
    ClockJump { role: Role, index: usize, millis: i64 },
    /// The control topic is deleted.
    ControlDeleted,
}

/// One step of the schedule.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Step {
    /// Faults that are active together. They are injected one after the other.
    pub(crate) faults: Vec<Fault>,
    /// Duration of the faults.
    pub(crate) hold: Duration,
    /// Whether the cluster must recover before the next step. Otherwise the next step follows after a short rest.
    pub(crate) settle: bool,
}

/// A kind of fault, for reports and excuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Kind {
    KillConsumer,
    KillGateway,
    KillBuilder,
    KillQueryService,
    PauseLong,
    PauseShort,
    DrainConsumer,
    DrainGateway,
    DrainBuilder,
    DrainQueryService,
    Scale,
    Partitions,
    BrokerKill,
    BrokerPause,
    LeaderMove,
    KafkaAway,
    StoreErrors,
    StoreSlow,
    StoreReplyLost,
    StoreAway,
    MemoryFull,
    ClockJump,
    ControlDeleted,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::KillConsumer => "consumer SIGKILL",
            Self::KillGateway => "gateway SIGKILL",
            Self::KillBuilder => "builder SIGKILL",
            Self::KillQueryService => "query-service SIGKILL",
            Self::PauseLong => "consumer SIGSTOP, long",
            Self::PauseShort => "consumer SIGSTOP, short",
            Self::DrainConsumer => "consumer SIGTERM",
            Self::DrainGateway => "gateway SIGTERM",
            Self::DrainBuilder => "builder SIGTERM",
            Self::DrainQueryService => "query-service SIGTERM",
            Self::Scale => "consumers scaled",
            Self::Partitions => "partitions raised",
            Self::BrokerKill => "broker SIGKILL",
            Self::BrokerPause => "broker SIGSTOP",
            Self::LeaderMove => "broker leaders moved",
            Self::KafkaAway => "all brokers SIGSTOP",
            Self::StoreErrors => "S3 5xx",
            Self::StoreSlow => "S3 slow",
            Self::StoreReplyLost => "S3 reply lost",
            Self::StoreAway => "S3 away",
            Self::MemoryFull => "memory full, S3 away",
            Self::ClockJump => "clock jump",
            Self::ControlDeleted => "control topic deleted",
        }
    }

    /// True for faults that take away what reads need. Reads may fail until they are over.
    pub(crate) fn takes_sources(self) -> bool {
        matches!(self, Self::KafkaAway | Self::StoreAway | Self::MemoryFull)
    }

    /// True for ordinary operation, during which no read may fail.
    pub(crate) fn is_planned(self) -> bool {
        matches!(self, Self::DrainConsumer | Self::DrainBuilder | Self::Scale | Self::Partitions)
    }

    /// True for faults of Kafka or of the store.
    fn is_below(self) -> bool {
        use Kind::{BrokerKill, BrokerPause, LeaderMove, StoreAway, StoreErrors, StoreReplyLost, StoreSlow};
        matches!(self, BrokerKill | BrokerPause | LeaderMove | StoreErrors | StoreSlow | StoreReplyLost | StoreAway)
    }

    /// True for faults of our own processes that may be combined with a fault below them.
    fn is_above(self) -> bool {
        use Kind::{ClockJump, KillBuilder, KillConsumer, KillGateway, KillQueryService, PauseLong, PauseShort};
        matches!(self, KillConsumer | KillGateway | KillBuilder | KillQueryService | PauseLong | PauseShort | ClockJump)
    }
}

impl Fault {
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Kill { role: Role::Consumer | Role::Follower, .. } => Kind::KillConsumer,
            Self::Kill { role: Role::Gateway, .. } => Kind::KillGateway,
            Self::Kill { role: Role::Builder, .. } => Kind::KillBuilder,
            Self::Kill { role: Role::QueryService, .. } => Kind::KillQueryService,
            Self::Pause { long: true, .. } => Kind::PauseLong,
            Self::Pause { long: false, .. } => Kind::PauseShort,
            Self::Terminate { role: Role::Consumer | Role::Follower, .. } => Kind::DrainConsumer,
            Self::Terminate { role: Role::Gateway, .. } => Kind::DrainGateway,
            Self::Terminate { role: Role::Builder, .. } => Kind::DrainBuilder,
            Self::Terminate { role: Role::QueryService, .. } => Kind::DrainQueryService,
            Self::Scale { .. } => Kind::Scale,
            Self::Partitions { .. } => Kind::Partitions,
            Self::BrokerKill { .. } => Kind::BrokerKill,
            Self::BrokerPause { .. } => Kind::BrokerPause,
            Self::LeaderMove { .. } => Kind::LeaderMove,
            Self::KafkaAway => Kind::KafkaAway,
            Self::StoreErrors { .. } => Kind::StoreErrors,
            Self::StoreSlow { .. } => Kind::StoreSlow,
            Self::StoreReplyLost { .. } => Kind::StoreReplyLost,
            Self::StoreAway => Kind::StoreAway,
            Self::MemoryFull => Kind::MemoryFull,
            Self::ClockJump { .. } => Kind::ClockJump,
            Self::ControlDeleted => Kind::ControlDeleted,
        }
    }
}

/// The deck: how often it contains each kind. Raising partitions happens once per run and is not in it.
const DECK: [(Kind, usize); 22] = [
    (Kind::KillConsumer, 4),
    (Kind::KillGateway, 1),
    (Kind::KillBuilder, 1),
    (Kind::KillQueryService, 1),
    (Kind::PauseLong, 2),
    (Kind::PauseShort, 1),
    (Kind::DrainConsumer, 1),
    (Kind::DrainGateway, 1),
    (Kind::DrainBuilder, 1),
    (Kind::DrainQueryService, 1),
    (Kind::Scale, 1),
    (Kind::BrokerKill, 2),
    (Kind::BrokerPause, 1),
    (Kind::LeaderMove, 1),
    (Kind::KafkaAway, 1),
    (Kind::StoreErrors, 1),
    (Kind::StoreSlow, 1),
    (Kind::StoreReplyLost, 1),
    (Kind::StoreAway, 1),
    (Kind::MemoryFull, 1),
    (Kind::ClockJump, 2),
    (Kind::ControlDeleted, 1),
];

/// Number of consumers after each part of a scaling: down to one, up to four, and back.
const SCALES: [usize; 5] = [1, 2, 4, 2, 3];

/// The step at, or soon after, which partitions are raised.
const PARTITIONS_AT: usize = 6;

/// An endless list of steps.
pub(crate) struct Schedule {
    random: fastrand::Rng,
    counts: Counts,
    partitions_later: u32,
    consumers: usize,
    /// The full deck, in order.
    kinds: Vec<Kind>,
    deck: VecDeque<Kind>,
    scales: VecDeque<usize>,
    steps: usize,
    raised: bool,
}

impl Schedule {
    /// Makes a schedule of the kinds in `only`, or of all kinds if it is empty.
    ///
    /// # Errors
    /// Fails if none of the kinds is possible in this cluster.
    pub(crate) fn new(seed: u64, counts: &Counts, partitions_later: u32, only: &[Kind]) -> anyhow::Result<Self> {
        let mut kinds: Vec<Kind> = DECK.iter().flat_map(|(kind, n)| std::iter::repeat_n(*kind, *n)).collect();
        kinds.retain(|kind| counts.brokers > 1 || !matches!(kind, Kind::BrokerKill | Kind::LeaderMove));
        kinds.retain(|kind| counts.builders > 0 || !matches!(kind, Kind::KillBuilder | Kind::DrainBuilder));
        kinds.retain(|kind| only.is_empty() || only.contains(kind));
        anyhow::ensure!(!kinds.is_empty(), "nothing is left that may go wrong, of {only:?} in such a cluster");
        Ok(Self {
            random: fastrand::Rng::with_seed(seed),
            counts: counts.clone(),
            partitions_later,
            consumers: counts.consumers,
            kinds,
            deck: VecDeque::new(),
            scales: VecDeque::new(),
            steps: 0,
            raised: partitions_later <= counts.partitions,
        })
    }

    fn draw(&mut self) -> Kind {
        if self.deck.is_empty() {
            let mut all = self.kinds.clone();
            self.random.shuffle(&mut all);
            self.deck.extend(all);
        }
        self.deck.pop_front().expect("the deck is not empty")
    }

    /// Removes the first matching kind from the deck, if there is one.
    fn draw_that(&mut self, fits: impl Fn(Kind) -> bool) -> Option<Kind> {
        let at = self.deck.iter().position(|kind| fits(*kind))?;
        self.deck.remove(at)
    }

    /// Picks the target of a fault and its duration in milliseconds.
    fn fault(&mut self, kind: Kind) -> (Fault, u64) {
        let Self { random, counts, consumers, .. } = self;
        let consumer = random.usize(..*consumers);
        // If there are followers, a third of the consumer faults hit one of them.
        let (holder, at) = match counts.followers {
            0 => (Role::Consumer, consumer),
            followers if random.u8(..3) == 0 => (Role::Follower, random.usize(..followers)),
            _ => (Role::Consumer, consumer),
        };
        let index = |random: &mut fastrand::Rng, count: usize| random.usize(..count.max(1));
        let broker = random.usize(..usize::from(counts.brokers));
        match kind {
            // A third of the kills last longer than a session, so that others take over.
            Kind::KillConsumer => {
                let hold = if random.u8(..3) == 0 { random.u64(8_000..12_000) } else { random.u64(0..3_000) };
                (Fault::Kill { role: holder, index: at }, hold)
            }
            Kind::KillGateway => {
                (Fault::Kill { role: Role::Gateway, index: index(random, counts.gateways) }, random.u64(0..3_000))
            }
            Kind::KillBuilder => {
                (Fault::Kill { role: Role::Builder, index: index(random, counts.builders) }, random.u64(0..5_000))
            }
            Kind::KillQueryService => {
                let index = index(random, counts.query_services);
                (Fault::Kill { role: Role::QueryService, index }, random.u64(0..3_000))
            }
            Kind::PauseLong => (Fault::Pause { role: holder, index: at, long: true }, random.u64(8_000..13_000)),
            Kind::PauseShort => (Fault::Pause { role: holder, index: at, long: false }, random.u64(300..3_000)),
            Kind::DrainConsumer => (Fault::Terminate { role: holder, index: at }, 0),
            Kind::DrainGateway => (Fault::Terminate { role: Role::Gateway, index: index(random, counts.gateways) }, 0),
            Kind::DrainBuilder => (Fault::Terminate { role: Role::Builder, index: index(random, counts.builders) }, 0),
            Kind::DrainQueryService => {
                (Fault::Terminate { role: Role::QueryService, index: index(random, counts.query_services) }, 0)
            }
            Kind::Scale => {
                let to = self.scales.pop_front().unwrap_or(counts.consumers);
                *consumers = to;
                (Fault::Scale { consumers: to }, random.u64(1_000..3_000))
            }
            Kind::Partitions => (Fault::Partitions { count: self.partitions_later }, random.u64(2_000..4_000)),
            Kind::BrokerKill => (Fault::BrokerKill { broker }, random.u64(500..8_000)),
            Kind::BrokerPause => (Fault::BrokerPause { broker }, random.u64(1_000..6_000)),
            Kind::LeaderMove => (Fault::LeaderMove { broker }, 0),
            Kind::KafkaAway => (Fault::KafkaAway, random.u64(2_000..6_000)),
            Kind::StoreErrors => (Fault::StoreErrors { percent: random.u8(20..60) }, random.u64(4_000..9_000)),
            Kind::StoreSlow => (Fault::StoreSlow { millis: random.u64(100..1_500) }, random.u64(4_000..9_000)),
            Kind::StoreReplyLost => (Fault::StoreReplyLost { percent: random.u8(10..50) }, random.u64(4_000..9_000)),
            Kind::StoreAway => (Fault::StoreAway, random.u64(10_000..20_000)),
            Kind::MemoryFull => (Fault::MemoryFull, random.u64(12_000..18_000)),
            Kind::ClockJump => {
                let role = if random.bool() { Role::Consumer } else { Role::Gateway };
                let index = if role == Role::Consumer { consumer } else { index(random, counts.gateways) };
                let millis = random.i64(60_000..48 * 3_600_000) * if random.bool() { 1 } else { -1 };
                (Fault::ClockJump { role, index, millis }, random.u64(4_000..10_000))
            }
            Kind::ControlDeleted => (Fault::ControlDeleted, random.u64(2_000..6_000)),
        }
    }
}

impl Iterator for Schedule {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        self.steps += 1;
        let kind = if !self.scales.is_empty() {
            // A scaling in progress continues.
            Kind::Scale
        } else if self.steps >= PARTITIONS_AT && !self.raised {
            self.raised = true;
            Kind::Partitions
        } else {
            self.draw()
        };
        if kind == Kind::Scale && self.scales.is_empty() {
            self.scales = SCALES.into();
        }
        let (fault, mut millis) = self.fault(kind);
        let mut faults = vec![fault];
        // A third of the steps combine a fault of our processes with one below them.
        let wants_second = self.random.u8(..3) == 0;
        let second = match kind {
            kind if wants_second && kind.is_below() => self.draw_that(Kind::is_above),
            kind if wants_second && kind.is_above() => self.draw_that(Kind::is_below),
            _ => None,
        };
        if let Some(second) = second {
            let (fault, hold) = self.fault(second);
            faults.push(fault);
            millis = millis.max(hold);
        }
        let settle = kind.is_planned() || self.random.u8(..5) < 3;
        Some(Step { faults, hold: Duration::from_millis(millis), settle })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn steps(seed: u64, n: usize) -> Vec<Step> {
        Schedule::new(seed, &Counts::default(), 16, &[]).expect("kinds are left").take(n).collect()
    }

    #[test]
    fn a_seed_repeats() {
        assert_eq!(steps(1, 300), steps(1, 300));
        assert_ne!(steps(1, 300), steps(2, 300));
    }

    #[test]
    fn every_kind_comes_early() {
        let seen: BTreeSet<Kind> = steps(3, 40).iter().flat_map(|s| s.faults.iter().map(|f| f.kind())).collect();
        assert!(DECK.iter().all(|(kind, _)| seen.contains(kind)), "{seen:?}");
        assert!(seen.contains(&Kind::Partitions));
    }

    #[test]
    fn some_kinds_only() {
        let counts = Counts { brokers: 1, ..Counts::default() };
        let schedule = |only: &[Kind]| Schedule::new(2, &counts, counts.partitions, only);
        let kinds: BTreeSet<Kind> = schedule(&[Kind::Scale, Kind::BrokerKill])
            .expect("consumers can be scaled")
            .take(50)
            .flat_map(|step| step.faults)
            .map(Fault::kind)
            .collect();
        assert_eq!(kinds, BTreeSet::from([Kind::Scale]));
        assert!(schedule(&[Kind::BrokerKill]).is_err(), "the only broker is never killed");
    }

    #[test]
    fn followers_are_struck_where_there_are_some() {
        let struck = |followers| {
            let counts = Counts { followers, ..Counts::default() };
            let schedule = Schedule::new(9, &counts, 16, &[]).expect("kinds are left");
            let faults = schedule.take(500).flat_map(|step| step.faults);
            let mut kinds = BTreeSet::new();
            for fault in faults {
                if let Fault::Kill { role: Role::Follower, index }
                | Fault::Pause { role: Role::Follower, index, .. }
                | Fault::Terminate { role: Role::Follower, index } = fault
                {
                    assert!(index < followers);
                    kinds.insert(fault.kind());
                }
            }
            kinds
        };
        assert!(struck(0).is_empty());
        assert_eq!(
            struck(2),
            BTreeSet::from([Kind::KillConsumer, Kind::PauseLong, Kind::PauseShort, Kind::DrainConsumer])
        );
    }

    #[test]
    fn planned_steps_stand_alone_and_targets_exist() {
        let mut consumers = Counts::default().consumers;
        let mut scales = Vec::new();
        for step in steps(5, 2000) {
            let planned = step.faults.iter().any(|f| f.kind().is_planned());
            assert!(!planned || (step.faults.len() == 1 && step.settle), "{step:?}");
            for fault in step.faults {
                match fault {
                    Fault::Scale { consumers: to } => {
                        consumers = to;
                        scales.push(to);
                    }
                    Fault::Kill { role: Role::Consumer, index }
                    | Fault::Terminate { role: Role::Consumer, index }
                    | Fault::Pause { role: Role::Consumer, index, .. } => {
                        assert!(index < consumers, "{fault:?} of {consumers}")
                    }
                    _ => {}
                }
            }
        }
        assert!(scales.chunks_exact(SCALES.len()).all(|c| c == SCALES), "{scales:?}");
        let raised = steps(5, 2000).iter().filter(|s| s.faults[0].kind() == Kind::Partitions).count();
        assert_eq!(raised, 1);
    }
}
