use model::PartitionId;

use super::*;

fn offset(value: i64) -> Offset {
    Offset::new(value)
}

fn range(start: i64, end: i64) -> OffsetRange {
    OffsetRange::new(offset(start), offset(end))
}

/// T = 10, blocks [10, 20), [20, 30), [30, 40), F = 40.
fn head() -> Head {
    let mut head = Head::unled("log", PartitionId::new(0));
    (head.trimmed_to, head.flushed_to) = (offset(10), offset(10));
    for start in [10, 20, 30] {
        let block = BlockEntry {
            key: format!("block-{start}"),
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
    head
}

#[test]
fn plans() {
    let check = |compacted_to: i64, held: Option<(i64, i64)>, expected: Result<(&[&str], i64, i64), &str>| {
        let head = head();
        let memory = held.map(|(start, end)| MemoryView { held: range(start, end) });
        let found = plan(&PartitionView { head: &head, compacted_to: offset(compacted_to), memory });
        let keys = |blocks: &[BlockEntry]| blocks.iter().map(|block| block.key.clone()).collect::<Vec<_>>();
        let found = match found {
            Plan::Read { blocks, memory_from, complete_to, .. } => {
                Ok((keys(blocks), memory_from.value(), complete_to.value()))
            }
            Plan::MissingTail { blocks, from, .. } => Err(format!("missing {from}, blocks {}", keys(blocks).join(" "))),
            Plan::Replan(why) => Err(why.to_string()),
            Plan::Broken(why) => Err(why),
        };
        let expected = expected.map(|(blocks, from, to)| (blocks.iter().map(|k| (*k).to_owned()).collect(), from, to));
        assert_eq!(found, expected.map_err(str::to_owned), "C {compacted_to}, held {held:?}");
    };
    let all = &["block-10", "block-20", "block-30"][..];
    check(10, Some((40, 55)), Ok((all, 40, 55)));
    check(10, Some((0, 55)), Ok((all, 40, 55)));
    check(20, Some((25, 40)), Ok((&all[1..], 40, 40)));
    check(40, Some((40, 41)), Ok((&[], 40, 41)));
    // An owner that is behind the head, and one that has just begun.
    check(30, Some((15, 25)), Ok((&all[2..], 40, 40)));
    check(30, Some((40, 40)), Ok((&all[2..], 40, 40)));
    check(10, Some((41, 55)), Err("memory begins at 41, but is needed from 40 on"));
    check(0, Some((40, 55)), Err("the catalogue is compacted to 0, but the head is trimmed to 10"));
    check(50, Some((40, 55)), Err("the head is flushed to 40, but the catalogue is compacted to 50 already"));
    check(25, Some((40, 55)), Err("the catalogue ends at 25, within the block block-20 of [20, 30)"));
    check(20, None, Err("missing 40, blocks block-20 block-30"));
}

#[test]
fn a_partition_that_nobody_has_led_is_all_memory() {
    let head = Head::unled("log", PartitionId::new(0));
    let view =
        PartitionView { head: &head, compacted_to: Offset::ZERO, memory: Some(MemoryView { held: range(0, 7) }) };
    let expected = Plan::Read { blocks: &[], memory_from: Offset::ZERO, complete_to: offset(7), lost: &[] };
    assert_eq!(plan(&view), expected);
}
