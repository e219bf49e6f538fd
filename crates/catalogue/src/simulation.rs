//! The protocol under random interleavings, on the real code.
//!
//! One partition, its log, a store with faults, and actors that are ordinary async functions: owners, compactors,
//! rebuilders, readers. Every call of the store yields before and after its effect, and so do the steps between; a scheduler polls
//! one actor at a time, chosen at random. So any order of steps can happen, an actor that is not chosen for long is a
//! paused one, and dropping an actor's future is a crash at any point, between a write and its reply too. Replies get
//! lost, and some puts come to effect only long after they were answered as failed.
//!
//! A read is right when it has every row below the offset it claims, once, but for ranges reported as lost, which must
//! be gone from the log. At the end of an episode the store is healed, and a read must get everything.
//!
//! `MILLRACE_SEED` repeats a run; `MILLRACE_READS` makes it longer.

mod compactor;
mod owner;
mod reader;
mod rebuilder;
mod store;
mod world;

use std::{pin::Pin, sync::Arc, task::Context, time::Duration};

use model::{ManualClock, Random, SeededRandom, SystemRandom, TimestampNs};
use object_store::{Effect, Fault, Faults, MemoryStore, Operation};
use runtime::Backoff;

use self::{store::SteppedStore, world::World};
use crate::{
    Heads,
    rules::{Rule, holds, without},
};

const OWNERS: usize = 3;
const COMPACTORS: usize = 2;
const REBUILDERS: usize = 1;
const READERS: usize = 4;
/// Steps of one episode before it is healed.
const STEPS: usize = 1_600;
/// Steps in which a healed episode must come to a complete read.
const HEALING_STEPS: usize = 20_000;

type Actor = Pin<Box<dyn Future<Output = ()>>>;

/// What came of some episodes.
#[derive(Debug, Default)]
struct Tally {
    episodes: u64,
    reads: u64,
    /// Reads that gave no answer, as they may: nobody held the tail, and the log no longer did.
    unanswered: u64,
    /// Episodes that went wrong, with the first reason.
    wrong: u64,
    first_wrong: Option<String>,
    cuts: u64,
    takeovers: u64,
    crashes: u64,
    compactions: u64,
    trims: u64,
    /// Blocks that were swapped for rebuilt ones.
    swaps: u64,
    lost: u64,
    replans: u64,
    lost_replies: u64,
    /// Puts that came to effect long after they were answered as failed.
    late_puts: u64,
}

/// One episode.
struct Episode {
    world: Arc<World>,
    faults: Arc<Faults>,
    heads: Heads,
    actors: Vec<Actor>,
    paused: Vec<bool>,
    /// Every other episode has a log that forgets.
    retention: bool,
}

impl Episode {
    fn new(seed: u64) -> Self {
        let faults = Arc::new(Faults::new(Arc::new(MemoryStore::new()), seed));
        let strike = |operations: &[Operation], effect, probability| {
            faults.add(Fault { operations: operations.to_vec(), probability, ..Fault::always(effect) });
        };
        // One episode in three has a store that is down half of the time.
        let severity = if seed.is_multiple_of(3) { 6.0 } else { 1.0 };
        strike(&[Operation::Put], Effect::ErrorBefore, 0.03 * severity);
        strike(&[Operation::Put], Effect::ErrorAfter, 0.05 * severity);
        strike(&[Operation::Get, Operation::Delete], Effect::ErrorBefore, 0.03 * severity);
        let store = Arc::new(SteppedStore::new(faults.clone(), seed));
        // One try or a few: what is given up for good or made again happens often.
        let backoff = Backoff { attempts: 1 + (seed % 4) as u32, first: Duration::ZERO, max: Duration::ZERO };
        let clock = Arc::new(ManualClock::new(TimestampNs::from_secs(1)));
        let heads = Heads::with(store.clone(), "simulated", backoff, clock, Arc::new(SeededRandom::new(seed))).unwrap();
        let world = Arc::new(World::new(seed, store, OWNERS));
        let mut episode =
            Self { world, faults, heads, actors: Vec::new(), paused: Vec::new(), retention: seed.is_multiple_of(2) };
        for i in 0..OWNERS + COMPACTORS + REBUILDERS + READERS {
            let actor = episode.actor(i);
            episode.actors.push(actor);
            episode.paused.push(false);
        }
        episode
    }

    /// Actor number `i`, from its beginning.
    fn actor(&self, i: usize) -> Actor {
        // A cache of its own, as in a process of its own.
        let (world, heads) = (self.world.clone(), self.heads.fresh());
        match i {
            _ if i < OWNERS => Box::pin(owner::run(world, heads, i)),
            _ if i < OWNERS + COMPACTORS => Box::pin(compactor::run(world, heads)),
            _ if i < OWNERS + COMPACTORS + REBUILDERS => Box::pin(rebuilder::run(world, heads)),
            _ => Box::pin(reader::run(world, heads)),
        }
    }

    fn crash(&mut self, i: usize) {
        if i < OWNERS {
            self.world.owners[i].lock().forget();
        }
        self.actors[i] = self.actor(i);
        self.paused[i] = false;
    }

    fn poll(&mut self, i: usize) {
        let done = self.actors[i].as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())).is_ready();
        assert!(!done, "actors run until they are dropped");
    }

    fn step(&mut self) {
        let i = self.world.below(self.actors.len());
        match self.world.below(1_000) {
            0..150 => self.world.append(),
            150..153 if self.retention => self.world.retain(),
            153..157 if i < OWNERS + COMPACTORS + REBUILDERS => {
                self.crash(i);
                self.world.count(|tally| tally.crashes += 1);
            }
            157..163 => self.paused[i] = true,
            163..200 => self.paused[i] = false,
            200..215 => self.world.store.land_late_put(),
            _ if !self.paused[i] => self.poll(i),
            _ => {}
        }
    }

    fn run(mut self) -> Tally {
        for _ in 0..STEPS {
            self.step();
            if self.world.is_wrong() {
                break;
            }
        }
        if !self.world.is_wrong() {
            self.heal();
        }
        let mut tally = std::mem::take(&mut *self.world.tally.lock());
        tally.episodes = 1;
        tally.lost_replies = self.faults.counts(Operation::Put).errors_after;
        tally.late_puts = self.world.store.landed();
        tally
    }

    /// No more faults, appends, crashes or pauses: a read must come to the log's end.
    fn heal(&mut self) {
        self.world.store.heal();
        self.faults.clear();
        self.world.heal();
        for _ in 0..HEALING_STEPS {
            let i = self.world.below(self.actors.len());
            self.poll(i);
            if self.world.is_wrong() || self.world.is_complete() {
                return;
            }
        }
        self.world.wrong("a healed partition never came to a complete read".to_owned());
    }
}

impl Tally {
    fn add(&mut self, other: Self, seed: u64) {
        self.episodes += other.episodes;
        self.reads += other.reads;
        self.unanswered += other.unanswered;
        self.cuts += other.cuts;
        self.takeovers += other.takeovers;
        self.crashes += other.crashes;
        self.compactions += other.compactions;
        self.trims += other.trims;
        self.swaps += other.swaps;
        self.lost += other.lost;
        self.replans += other.replans;
        self.lost_replies += other.lost_replies;
        self.late_puts += other.late_puts;
        self.wrong += other.wrong;
        if let Some(reason) = other.first_wrong {
            self.first_wrong.get_or_insert_with(|| format!("episode seed {seed}: {reason}"));
        }
    }
}

/// Episodes with seeds from `seed` on, until `enough`.
fn episodes(seed: u64, enough: impl Fn(&Tally) -> bool) -> Tally {
    let mut tally = Tally::default();
    for seed in seed.. {
        if enough(&tally) {
            break;
        }
        tally.add(Episode::new(seed).run(), seed);
    }
    tally
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

fn seed() -> u64 {
    let seed = from_environment("MILLRACE_SEED").unwrap_or_else(|| SystemRandom.next_u64() >> 24);
    eprintln!("MILLRACE_SEED={seed}");
    seed
}

#[test]
fn reads_are_exact() {
    let (seed, reads) = (seed(), from_environment("MILLRACE_READS").unwrap_or(100_000));
    let tally = episodes(seed, |tally| tally.reads >= reads || tally.wrong > 0);
    eprintln!("{tally:#?}");
    assert_eq!(tally.first_wrong, None);
    // The run is worth something only when all of it happened.
    for (what, count) in [
        ("cuts", tally.cuts),
        ("takeovers", tally.takeovers),
        ("crashes", tally.crashes),
        ("compactions", tally.compactions),
        ("trims", tally.trims),
        ("swaps", tally.swaps),
        ("lost ranges", tally.lost),
        ("plans made again", tally.replans),
        ("lost replies", tally.lost_replies),
        ("late puts", tally.late_puts),
    ] {
        assert!(count > tally.episodes / 20, "{what}: {count}");
    }
    assert!(tally.unanswered < tally.reads / 4, "too many reads gave no answer");
}

/// Without any one rule something goes wrong, and the checker sees it.
#[test]
fn each_rule_is_needed() {
    const EPISODES_MAX: u64 = 6_000;
    use Rule::{
        BlockBeforeHead, BlocksFromCompacted, CatalogueReachesTrim, CompareAndSwap, EpochIsMine, EvictBelowHead,
        HeadReachesCatalogue, HoleRestartsMemory, LostIsRecorded, LostReplyIsResolved, MemoryMustReachDown,
        NonceTellsMine, OneHeadPerPlan, RootInOneStep, StartIsFlushedTo, SwapKeepsNonce, TrimAfterRoot,
    };
    let rules = [
        StartIsFlushedTo,
        EpochIsMine,
        CompareAndSwap,
        LostReplyIsResolved,
        NonceTellsMine,
        LostIsRecorded,
        HeadReachesCatalogue,
        MemoryMustReachDown,
        CatalogueReachesTrim,
        OneHeadPerPlan,
        BlocksFromCompacted,
        EvictBelowHead,
        BlockBeforeHead,
        HoleRestartsMemory,
        RootInOneStep,
        TrimAfterRoot,
        SwapKeepsNonce,
    ];
    let seed = seed();
    let mut unnoticed = Vec::new();
    for rule in rules {
        let tally = without(Some(rule), || {
            assert!(!holds(rule));
            episodes(seed, |tally| tally.wrong > 0 || tally.episodes >= EPISODES_MAX)
        });
        match tally.first_wrong {
            Some(reason) => eprintln!("without {rule:?}: wrong after {} reads: {reason}", tally.reads),
            None => unnoticed.push(rule),
        }
    }
    assert!(unnoticed.is_empty(), "nothing went wrong without {unnoticed:?}");
}
