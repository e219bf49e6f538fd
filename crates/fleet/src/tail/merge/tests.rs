//! Rows of sources that overlap, in many orders.

use std::sync::Arc;

use model::{Batch, Labels, Lines};
use proptest::prelude::*;

use super::*;

fn batch(offset: i64) -> TailBatch {
    of_rows(offset, vec![offset])
}

fn replayed(offset: i64) -> TailBatch {
    TailBatch { is_replayed: true, ..batch(offset) }
}

fn mark(offset: i64) -> TailBatch {
    TailBatch { is_replayed: true, ..of_rows(offset, Vec::new()) }
}

fn of_rows(offset: i64, offsets: Vec<i64>) -> TailBatch {
    let rows = Batch {
        labels: Labels::empty(),
        timestamps: offsets.clone(),
        lines: Lines::Absent,
        metadata: Vec::new(),
        offsets,
    };
    TailBatch { partition: PartitionId::new(0), offset: Offset::new(offset), batch: Arc::new(rows), is_replayed: false }
}

const HOLD: Duration = Duration::from_millis(500);

/// `a7`: source a sends offset 7. `a~7`: it replays offset 7. `a=7`: it reports that 7 was consumed before. `a!`: it is
/// gone. `+300`: 300 milliseconds pass.
fn check(script: &str, expected: &str) {
    let mut merge = Merge::new(HOLD);
    let (mut out, mut now) = (MergeOutput::default(), Instant::now());
    for word in script.split_whitespace() {
        let (source, rest) = word.split_at(1);
        let number = u64::from(source.as_bytes()[0]);
        match (source, rest) {
            ("+", ms) => {
                now += Duration::from_millis(ms.parse().unwrap());
                merge.expire(now, &mut out);
            }
            (_, "!") => merge.gone(number),
            (_, rest) if rest.starts_with('~') => {
                merge.take(number, replayed(rest[1..].parse().unwrap()), now, &mut out)
            }
            (_, rest) if rest.starts_with('=') => merge.take(number, mark(rest[1..].parse().unwrap()), now, &mut out),
            (_, offset) => merge.take(number, batch(offset.parse().unwrap()), now, &mut out),
        }
    }
    let offsets: Vec<String> = out.batches.iter().map(|b| b.offset.to_string()).collect();
    assert_eq!(offsets.join(" "), expected, "{script}");
}

#[test]
fn each_row_once() {
    check("", "");
    check("a1 a2 a2 a5", "1 2 2 5");
    check("a1 b1 a2 b2 b3 a3", "1 2 3");
    check("a1 b2 b3 a2 a3", "1 2 3");
    // The other source takes over when the first one is gone or silent.
    check("a1 b2 b3 a2 a! +499", "1 2");
    check("a1 b2 b3 a2 a! +500", "1 2 3");
    check("a1 b2 +499", "1");
    check("a1 b2 b3 +500 a2 b4 a4", "1 2 3 4");
    check("a1 a! b2 +499", "1");
    check("a1 a! b2 b3 +500 b4", "1 2 3 4");
    // Taking over from a source that lags loses no row.
    check("a1 c3 a! b2 b3 +500 b4 c4", "1 2 3 4");
    check("a1 c3 b2 b3 +500 b4", "1 2 3 4");
    check("a1 a2 b1 a! b3 b3 +500", "1 2 3 3");
    check("a1 a2 b3 a! a3 +500", "1 2 3");
    // Offsets of one source may not fall.
    check("a5 a4 a6", "5 6");
}

#[test]
fn rows_between_two_openings_are_replayed() {
    // The next owner, or the same one after a restart, has the rows that the first one did not send.
    check("a1 a2 a! b~1 b~2 b~3 b~3 b=3 b4 +500 b5", "1 2 3 3 4 5");
    check("a1 a! b~2 b=2 +500 c~2 c3 b! +500", "1 2 3");
    check("a=4 a! b~3 b~4 b~5 b=5 b6 +500", "5 6");
    // The first source is only late.
    check("a1 b~1 b~2 b~3 b=3 b4 a2 a3 a4 +500", "1 2 3 4");
    // The partition returns to its first owner, in the same opening.
    check("a1 b~1 b=1 b2 a! +500 a~3 a=3 a4 b! +500", "1 2 3 4");
    check("a1 a~2 a=2 a3", "1 2 3");
    // The consumed offset at the start of the tail is unknown.
    check("b~1 b~2 b=2 b3", "3");
    check("a=-1 a0 b=5 a1", "0 1");
}

#[test]
fn waiting_batches_are_bounded() {
    let mut merge = Merge::new(HOLD);
    let (mut out, now) = (MergeOutput::default(), Instant::now());
    merge.take(1, batch(0), now, &mut out);
    for offset in 1..=3000 {
        merge.take(2, batch(offset), now, &mut out);
    }
    assert_eq!(out.batches.len(), 3001);
    assert_eq!(merge.due(), None);
}

proptest! {
    /// A chain of owners. Each one starts to serve before the previous one ends, or later and then replays the rows between
    /// and some more. Rows of one owner keep their order; otherwise they come in any order.
    #[test]
    fn nothing_is_lost_or_doubled_when_owners_change(
        lengths in proptest::collection::vec((1i64..8, -4i64..4), 1..5),
        picks in proptest::collection::vec(any::<usize>(), 200),
    ) {
        let (mut queues, mut end) = (Vec::new(), 0);
        for (i, (length, overlap)) in lengths.iter().enumerate() {
            let live = if i == 0 { 0 } else { (end - overlap).max(0) };
            let new_end = end.max(live) + length;
            let replays = ((end - 3).max(0)..live).map(replayed).chain([mark(live - 1)]);
            let rows = replays.filter(|_| i > 0).chain((live..new_end).map(batch));
            queues.push(rows.map(Some).chain([None]).collect::<VecDeque<Option<TailBatch>>>());
            end = new_end;
        }
        let mut merge = Merge::new(HOLD);
        let (mut out, now) = (MergeOutput::default(), Instant::now());
        // The first owner's first row comes before the second owner serves.
        merge.take(0, queues[0].pop_front().unwrap().unwrap(), now, &mut out);
        for pick in picks {
            let source = pick % queues.len();
            match queues[source].pop_front() {
                Some(Some(batch)) => merge.take(source as u64, batch, now, &mut out),
                Some(None) => merge.gone(source as u64),
                None => {}
            }
        }
        for (source, queue) in queues.iter_mut().enumerate() {
            while let Some(next) = queue.pop_front() {
                match next {
                    Some(batch) => merge.take(source as u64, batch, now, &mut out),
                    None => merge.gone(source as u64),
                }
            }
        }
        for rounds in 1..=6 {
            merge.expire(now + HOLD * rounds, &mut out);
        }
        let found: Vec<i64> = out.batches.iter().map(|b| b.offset.value()).collect();
        prop_assert_eq!(found, (0..end).collect::<Vec<i64>>());
    }
}
