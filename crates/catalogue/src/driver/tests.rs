use std::collections::VecDeque;

use tokio::time::advance;

use super::*;
use crate::rules::without;

const A: PartitionId = PartitionId::new(0);
const B: PartitionId = PartitionId::new(1);
const WAIT_MAX: Duration = Duration::from_secs(10);

fn offset(value: i64) -> Offset {
    Offset::new(value)
}

fn range(start: i64, end: i64) -> OffsetRange {
    OffsetRange::new(offset(start), offset(end))
}

/// A head with one block for each ten offsets below `flushed_to`.
fn head(partition: PartitionId, flushed_to: i64) -> HeadView {
    let mut head = Head::unled("log", partition);
    for start in (0..flushed_to).step_by(10) {
        let block = BlockEntry {
            key: format!("{partition}-{start}"),
            bytes: 1,
            tail_bytes: 1,
            range: range(start, start + 10),
            rows: 1,
            line_bytes: 1,
            time: None,
            tenants: Vec::new(),
            quarantined: 0,
        };
        head = head.with_cut(block.range, Some(&block));
    }
    HeadView { head: Arc::new(head), is_stale: false }
}

type Outcome = Result<(), Obstacle<&'static str>>;

/// Sources with two partitions that answer by a script.
struct Script {
    /// Heads of each plan; the last ones stay.
    heads: VecDeque<Vec<HeadView>>,
    compacted_to: Vec<Offset>,
    at_least: Option<Offset>,
    read: Box<dyn FnMut(&ReadPlan) -> Outcome + Send>,
    /// How long each read takes.
    each: Duration,
    asked: Vec<(Freshness, Freshness)>,
    replanned: Vec<&'static str>,
    skipped: Vec<OffsetRange>,
}

impl Script {
    fn new(heads: Vec<Vec<HeadView>>, read: impl FnMut(&ReadPlan) -> Outcome + Send + 'static) -> Self {
        Self {
            heads: heads.into(),
            compacted_to: vec![Offset::ZERO; 2],
            at_least: None,
            read: Box::new(read),
            each: Duration::ZERO,
            asked: Vec::new(),
            replanned: Vec::new(),
            skipped: Vec::new(),
        }
    }

    async fn run(&mut self) -> Result<ReadPlan, ReadError<&'static str>> {
        ReadDriver::new(WAIT_MAX).run(self).await.map(|read| read.plan)
    }
}

impl Sources for Script {
    type Answer = ();
    type Error = &'static str;

    async fn heads(&mut self, freshness: Freshness) -> Result<Vec<HeadView>, &'static str> {
        self.asked.push((freshness, Freshness::Cached));
        let now = if self.heads.len() > 1 { self.heads.pop_front() } else { self.heads.front().cloned() };
        now.ok_or("no heads")
    }

    async fn compacted_to(
        &mut self,
        at_least: &[(PartitionId, Offset)],
        freshness: Freshness,
    ) -> Result<Vec<Offset>, &'static str> {
        assert_eq!(at_least.iter().map(|(partition, _)| *partition).collect::<Vec<_>>(), [A, B]);
        self.asked.last_mut().expect("heads come first").1 = freshness;
        Ok(self.compacted_to.clone())
    }

    fn at_least(&self, partition: PartitionId) -> Option<Offset> {
        self.at_least.filter(|_| partition == B)
    }

    async fn read(&mut self, plan: &ReadPlan) -> Outcome {
        advance(self.each).await;
        (self.read)(plan)
    }

    fn replanned(&mut self, why: Replanned) {
        self.replanned.push(why.as_str());
    }

    fn skipped(&mut self, _: PartitionId, range: OffsetRange) {
        self.skipped.push(range);
    }
}

fn both(a: i64, b: i64) -> Vec<HeadView> {
    vec![head(A, a), head(B, b)]
}

/// Memory of both partitions holds these ranges.
fn holding(a: OffsetRange, b: OffsetRange) -> impl FnMut(&ReadPlan) -> Outcome {
    move |plan| plan.partitions.iter().zip([a, b]).try_for_each(|(p, held)| p.check(held).map(drop))
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_moved_on_is_planned_again_with_all_others() {
    let mut script = Script::new(vec![both(20, 30), both(20, 40)], holding(range(10, 25), range(40, 45)));
    script.compacted_to = vec![offset(10), offset(20)];
    let plan = script.run().await.expect("the second plan holds");
    assert_eq!((plan.number, &script.replanned[..]), (2, &["not_held"][..]));
    let found: Vec<_> = plan.partitions.iter().map(|p| (p.memory_from.value(), p.blocks().len())).collect();
    assert_eq!(found, [(20, 1), (40, 2)], "blocks below C belong to the catalogue");
    assert_eq!(script.asked[0], (Freshness::Cached, Freshness::Cached));
    assert!(matches!(script.asked[1], (Freshness::ReadAfter(_), Freshness::ReadAfter(_))));
}

#[tokio::test(start_paused = true)]
async fn plans_are_made_again_while_there_is_time() {
    let plans = async |each, obstacle: fn() -> Obstacle<&'static str>| {
        let mut script = Script::new(vec![both(20, 30)], move |_| Err(obstacle()));
        script.each = each;
        match script.run().await {
            Err(ReadError::Unsettled { plans, .. }) => plans,
            other => panic!("{other:?}"),
        }
    };
    let moved = || Obstacle::NotHeld { partition: A, held: range(20, 25) };
    let gone = || Obstacle::BlockGone { key: "x".to_owned() };
    let quick = plans(Duration::from_millis(50), moved).await;
    assert!((15..30).contains(&quick), "{quick}");
    assert_eq!(plans(Duration::from_secs(30), moved).await, PLANS_LEAST, "slow blocks have their tries, too");
    assert_eq!(plans(Duration::from_millis(50), gone).await, PLANS_LEAST, "a block that is gone stays gone");
}

#[tokio::test(start_paused = true)]
async fn a_head_that_never_reaches_what_was_compacted_is_broken() {
    let mut script = Script::new(vec![both(20, 30)], |_| Ok(()));
    script.compacted_to[1] = offset(60);
    script.each = Duration::from_secs(30);
    let error = script.run().await.expect_err("the rows are nowhere").to_string();
    assert!(error.contains("partition 1: the head ends at 30, but 60 was seen"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn heads_and_catalogues_that_do_not_fit_are_read_again() {
    let mut script = Script::new(vec![both(20, 30), both(20, 40)], |_| Ok(()));
    script.compacted_to[1] = offset(40);
    let plan = script.run().await.expect("the second head fits");
    assert_eq!((plan.number, &script.replanned[..]), (2, &["head_older"][..]));
    script.compacted_to.pop();
    assert!(matches!(script.run().await, Err(ReadError::Broken(_))));
    script.compacted_to.push(offset(5));
    let error = script.run().await.expect_err("C lies within a block").to_string();
    assert!(error.contains("the catalogue ends at 5, within the block"), "{error}");
}

/// Answers that are behind are refused until memory comes there, or time is up.
#[tokio::test(start_paused = true)]
async fn answers_reach_what_was_asked_for() {
    let mut end = 30;
    let mut script = Script::new(vec![both(20, 30)], move |plan| {
        end += 1;
        plan.partitions[1].check(range(30, end)).map(drop)
    });
    script.at_least = Some(offset(35));
    let plan = script.run().await.expect("memory comes there");
    assert_eq!((plan.number, &script.replanned[..]), (1, &["behind"; 4][..]));
    assert!(script.asked.iter().all(|asked| asked.0 == Freshness::Cached), "waiting asks for no new heads");
    script.at_least = Some(offset(1_000_000));
    let late = script.run().await;
    assert!(matches!(late, Err(ReadError::NotReached { waited, .. }) if waited >= WAIT_MAX), "{late:?}");
}

#[tokio::test(start_paused = true)]
async fn a_partition_without_an_owner_is_waited_for() {
    let unanswered = || Obstacle::NotAnswered { partition: A, is_not_leading: true, source: "no owner" };
    let mut script = Script::new(vec![both(20, 30)], move |_| Err(unanswered()));
    let late = script.run().await;
    assert!(matches!(late, Err(ReadError::NotAnswered { source: "no owner", .. })), "{late:?}");
    assert!(script.replanned.len() > 40 && script.replanned.iter().all(|why| *why == "not_leading"));
    let mut script = Script::new(vec![both(20, 30)], |_| Err(Obstacle::Failed("bad query")));
    assert!(matches!(script.run().await, Err(ReadError::Failed("bad query"))));
    assert!(script.replanned.is_empty());
}

/// Reads over a log that begins at 50, where heads end at 30. The heads of the first plans are stale.
async fn read_behind_a_removed_range(stale_plans: usize) -> (Result<ReadPlan, ReadError<&'static str>>, usize) {
    let mut heads = vec![both(20, 30); stale_plans + 1];
    for view in heads.iter_mut().take(stale_plans).flatten() {
        view.is_stale = true;
    }
    let mut script = Script::new(heads, |plan| {
        let partition = &plan.partitions[1];
        let (from, log) = (partition.memory_from, range(50, 60));
        if from < log.start {
            return Err(Obstacle::Removed { partition: B, range: OffsetRange::new(from, log.start) });
        }
        partition.check(OffsetRange::new(from, log.end)).map(drop)
    });
    let outcome = script.run().await;
    assert!(script.skipped.len() <= 1);
    (outcome, script.replanned.len())
}

#[tokio::test(start_paused = true)]
async fn a_removed_range_is_left_out_after_several_plans() {
    let (plan, replans) = read_behind_a_removed_range(0).await;
    let plan = plan.expect("it does without");
    assert_eq!(plan.partitions[1].removed, Some(range(30, 50)));
    assert_eq!((plan.partitions[0].removed, plan.partitions[1].memory_from), (None, offset(50)));
    assert_eq!(replans, PLANS_BEFORE_SKIP as usize);
    let (plan, replans) = read_behind_a_removed_range(7).await;
    assert!(plan.is_ok() && replans == 8, "{replans}: stale heads do not say that blocks lack it");
    let (error, _) = read_behind_a_removed_range(1_000).await;
    assert!(matches!(error, Err(ReadError::Removed { .. })), "{error:?}");
}

#[test]
fn each_rule_of_the_driver_is_noticed() {
    fn paused(future: impl Future<Output = bool>) -> bool {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().start_paused(true).build().expect("a runtime starts").block_on(future)
    }
    let behind = || {
        let mut script = Script::new(vec![both(20, 30)], holding(range(20, 25), range(30, 31)));
        script.at_least = Some(offset(35));
        paused(async { script.run().await.is_ok() })
    };
    let skips_early = || paused(async { read_behind_a_removed_range(0).await.1 < PLANS_BEFORE_SKIP as usize });
    let skips_stale = || paused(async { read_behind_a_removed_range(7).await.1 < 8 });
    assert!(!behind() && !skips_early() && !skips_stale());
    assert!(without(Some(Rule::AnswerReachesTarget), behind));
    assert!(without(Some(Rule::SkipAfterPlans), skips_early));
    assert!(without(Some(Rule::SkipWithFreshHeads), skips_stale));
}
