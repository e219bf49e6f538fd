//! Rows of sources that overlap, in many orders.

use std::sync::Arc;

use model::{Batch, ByteColumn, Labels};
use proptest::prelude::*;

use super::*;

fn batch(offset: i64) -> TailBatch {
    let rows = Batch {
        labels: Labels::empty(),
        timestamps: vec![offset],
        lines: ByteColumn::default(),
        metadata: Vec::new(),
        offsets: vec![offset],
    };
    TailBatch { partition: PartitionId::new(0), offset: Offset::new(offset), batch: Arc::new(rows) }
}

const HOLD: Duration = Duration::from_millis(500);

/// `a7`: source a sends offset 7; `a!`: source a is gone; `+300`: so many milliseconds pass.
fn check(script: &str, expected: &str) {
    let mut merge = Merge::new(HOLD);
    let (mut out, mut now) = (Taken::default(), Instant::now());
    for word in script.split_whitespace() {
        let (source, rest) = word.split_at(1);
        let number = u64::from(source.as_bytes()[0]);
        match (source, rest) {
            ("+", ms) => {
                now += Duration::from_millis(ms.parse().unwrap());
                merge.expire(now, &mut out);
            }
            (_, "!") => merge.gone(number),
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
    // The other one takes over when the first is gone, or silent.
    check("a1 b2 b3 a2 a! +499", "1 2");
    check("a1 b2 b3 a2 a! +500", "1 2 3");
    check("a1 b2 +499", "1");
    check("a1 b2 b3 +500 a2 b4 a4", "1 2 3 4");
    check("a1 a! b2 +499", "1");
    check("a1 a! b2 b3 +500 b4", "1 2 3 4");
    // The one that is further behind misses nothing.
    check("a1 c3 a! b2 b3 +500 b4 c4", "1 2 3 4");
    check("a1 c3 b2 b3 +500 b4", "1 2 3 4");
    check("a1 a2 b1 a! b3 b3 +500", "1 2 3 3");
    check("a1 a2 b3 a! a3 +500", "1 2 3");
    // Of the same source offsets may not fall.
    check("a5 a4 a6", "5 6");
}

#[test]
fn what_waits_is_bounded() {
    let mut merge = Merge::new(HOLD);
    let (mut out, now) = (Taken::default(), Instant::now());
    merge.take(1, batch(0), now, &mut out);
    for offset in 1..=3000 {
        merge.take(2, batch(offset), now, &mut out);
    }
    assert_eq!(out.batches.len(), 3001);
    assert_eq!(merge.due(), None);
}

proptest! {
    /// A chain of owners, each of which serves from before the end of the one before; their rows come in any order that
    /// keeps each one's own.
    #[test]
    fn nothing_is_lost_or_doubled_when_owners_change(
        lengths in proptest::collection::vec((1i64..8, 0i64..4), 1..5),
        picks in proptest::collection::vec(any::<usize>(), 200),
    ) {
        let (mut queues, mut end) = (Vec::new(), 0);
        for (i, (length, overlap)) in lengths.iter().enumerate() {
            let start = if i == 0 { 0 } else { (end - overlap).max(0) };
            let new_end = end + length;
            queues.push((start..new_end).map(Some).chain([None]).collect::<VecDeque<Option<i64>>>());
            end = new_end;
        }
        let mut merge = Merge::new(HOLD);
        let (mut out, now) = (Taken::default(), Instant::now());
        // The first owner's first row is there before the second owner serves.
        merge.take(0, batch(queues[0].pop_front().unwrap().unwrap()), now, &mut out);
        for pick in picks {
            let source = pick % queues.len();
            match queues[source].pop_front() {
                Some(Some(offset)) => merge.take(source as u64, batch(offset), now, &mut out),
                Some(None) => merge.gone(source as u64),
                None => {}
            }
        }
        for (source, queue) in queues.iter_mut().enumerate() {
            while let Some(next) = queue.pop_front() {
                match next {
                    Some(offset) => merge.take(source as u64, batch(offset), now, &mut out),
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
