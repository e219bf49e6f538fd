use model::{Offset, OffsetRange, PartitionId, TenantId, TimeRange, TimestampNs};
use proptest::prelude::*;

use super::*;
use crate::{BlockEntry, Lost, TenantEntry};

fn range(start: i64, end: i64) -> OffsetRange {
    OffsetRange::new(Offset::new(start), Offset::new(end))
}

fn time(start: i64, end: i64) -> TimeRange {
    TimeRange::new(TimestampNs::from_nanos(start), TimestampNs::from_nanos(end))
}

/// A head with as many blocks, each of as many tenants, as a builder makes them.
fn large(blocks: i64, tenants: usize) -> Head {
    let random = std::cell::RefCell::new(fastrand::Rng::with_seed(1));
    let up_to = |bound: u64| random.borrow_mut().u64(..bound);
    let start = 1_790_000_000_000_000_000i64;
    let tenant = |block: i64, i: usize| TenantEntry {
        tenant: TenantId::new(&format!("team-{i}")).unwrap(),
        row_groups: i * 2..i * 2 + 2,
        rows: 100_000 + up_to(50_000),
        line_bytes: 10_000_000 + up_to(5_000_000),
        streams: 100 + up_to(400) as u32,
        time: time(
            start + block * 180_000_000_000 + up_to(1_000_000_000) as i64,
            start + (block + 1) * 180_000_000_000,
        ),
    };
    let block = |i: i64| {
        let range = range(i * 10_000, (i + 1) * 10_000);
        BlockEntry {
            key: crate::block_key("log-0123456789abcdef", PartitionId::new(3), range).unwrap().to_string(),
            bytes: 10_000_000 + up_to(1_000_000),
            tail_bytes: 30_000 + up_to(10_000),
            range,
            rows: 1_000_000 + up_to(100_000),
            line_bytes: 100_000_000 + up_to(10_000_000),
            time: Some(time(start + i * 180_000_000_000, start + (i + 1) * 180_000_000_000)),
            tenants: (0..tenants).map(|t| tenant(i, t)).collect(),
            quarantined: 0,
        }
    };
    let blocks: Vec<_> = (0..blocks).map(block).collect();
    let flushed_to = blocks.last().map_or(Offset::ZERO, |block| block.range.end);
    Head { flushed_to, blocks, ..Head::unled("log-0123456789abcdef", PartitionId::new(3)) }
}

#[test]
fn large_heads_stay_small() {
    let check = |blocks: i64, tenants: usize, bytes_max: usize| {
        let head = large(blocks, tenants);
        let started = std::time::Instant::now();
        let bytes = encode(&head);
        let encoded = started.elapsed();
        assert_eq!(decode(&bytes).unwrap(), head);
        let decoded = started.elapsed() - encoded;
        eprintln!("{blocks} blocks of {tenants} tenants: {} bytes, {encoded:?} + {decoded:?}", bytes.len());
        assert!(bytes.len() <= bytes_max, "{} bytes", bytes.len());
    };
    check(1, 1, 800);
    check(50, 3, 15_000);
    check(1_000, 3, 250_000);
    check(5_000, 3, 1_250_000);
}

#[test]
fn small_heads_can_be_read_by_people() {
    let bytes = encode(&large(1, 1));
    let text = std::str::from_utf8(&bytes).unwrap();
    assert!(text.starts_with("millrace-head 1 json "), "{text}");
    assert!(text.contains(r#""flushed_to":10000"#), "{text}");
}

/// A head of this format that was written once. If this fails, old stores cannot be read any more.
#[test]
fn the_format_stays() {
    let json = concat!(
        r#"{"log_id":"l","partition":3,"nonce":"n","owner":"o","epoch":7,"flushed_to":30,"trimmed_to":5,"#,
        r#""blocks":[{"key":"data/l/3/x","bytes":9,"tail_bytes":4,"range":{"start":5,"end":20},"rows":2,"#,
        r#""line_bytes":6,"time":{"start":-1,"end":100},"tenants":[{"tenant":"t","row_groups":{"start":0,"end":1},"#,
        r#""rows":2,"line_bytes":6,"streams":1,"time":{"start":-1,"end":100}}],"quarantined":1}],"#,
        r#""lost":[{"range":{"start":20,"end":25},"recorded_at":1790000000000000000}],"empty":[{"start":25,"end":30}]}"#,
    );
    let bytes = format!("millrace-head 1 json f85aea1f4da5b3a5\n{json}");
    let head = decode(bytes.as_bytes()).unwrap();
    assert_eq!((head.epoch, head.flushed_to, head.blocks.len()), (7, Offset::new(30), 1));
    assert_eq!(head.blocks[0].tenants[0].row_groups, 0..1);
    assert_eq!(String::from_utf8(encode(&head)).unwrap(), bytes);
}

#[test]
fn what_is_no_head_is_refused() {
    let sealed = |format: u32, encoding: &str, body: &[u8]| {
        let mut bytes = format!("{MAGIC} {format} {encoding} {:016x}\n", xxh3_64(body)).into_bytes();
        bytes.extend_from_slice(body);
        bytes
    };
    let check = |bytes: Vec<u8>, expected: &str| match decode(&bytes) {
        Err(DecodeError::Corrupt(reason)) => assert!(reason.contains(expected), "{reason:?}, expected {expected:?}"),
        other => panic!("{other:?}, expected {expected:?}"),
    };
    let good = serde_json::to_vec(&large(2, 1)).unwrap();
    assert!(decode(&sealed(1, "json", &good)).is_ok());
    assert_eq!(decode(&sealed(2, "json", &good)), Err(DecodeError::Newer { format: 2 }));
    assert_eq!(decode(&sealed(9, "whatever comes", b"?")), Err(DecodeError::Newer { format: 9 }));
    check(vec![], "no first line");
    check(b"millrace-head 1 json".to_vec(), "no first line");
    check(b"{}\n".to_vec(), "not that of a head");
    check(b"millrace-head x json 0\n".to_vec(), "not that of a head");
    check(b"\xff\n".to_vec(), "no text");
    check(sealed(1, "gzip", &good), "not known");
    check(sealed(1, "zstd", &good), "");
    check(sealed(1, "json", &good[..good.len() - 1]), "EOF");
    let mut flipped = sealed(1, "json", &good);
    *flipped.last_mut().unwrap() ^= 1;
    check(flipped, "checksum");
    let replaced = |from: &str, to: &str| {
        let text = String::from_utf8(good.clone()).unwrap();
        assert!(text.contains(from), "{text}");
        sealed(1, "json", text.replace(from, to).as_bytes())
    };
    check(replaced(r#""epoch":0"#, r#""epoch":0,"more":1"#), "unknown field `more`");
    check(replaced(r#""flushed_to":20000"#, r#""flushed_to":20001"#), "what it lists ends at 20000");
    check(replaced(r#""start":10000"#, r#""start":10001"#), "leaves a gap");
    check(replaced(r#""start":10000"#, r#""start":9999"#), "overlaps");
    let bomb = zstd::bulk::compress(&vec![b' '; BODY_BYTES_MAX as usize + 1], 1).unwrap();
    check(sealed(1, "zstd", &bomb), "too large");
}

prop_compose! {
    fn any_head()(
        lengths in proptest::collection::vec((1i64..1_000, 0u8..4, any::<u64>()), 0..40),
        trimmed_to in 0i64..1_000,
        epoch in any::<u64>(),
        owner in ".*",
        nonce in "[0-9a-f]{32}",
        recorded in any::<i64>(),
    ) -> Head {
        let mut head = Head { epoch, owner, nonce, ..Head::unled("log", PartitionId::new(1)) };
        (head.trimmed_to, head.flushed_to) = (Offset::new(trimmed_to), Offset::new(trimmed_to));
        for (length, kind, number) in lengths {
            let range = range(head.flushed_to.value(), head.flushed_to.value() + length);
            head = match kind {
                0 => head.with_cut(range, None),
                1 => head.with_lost(&Lost { range, recorded_at: TimestampNs::from_nanos(recorded) }),
                _ => {
                    let mut block = large(1, usize::from(kind) - 1).blocks.remove(0);
                    (block.range, block.rows) = (range, number);
                    head.with_cut(range, Some(&block))
                }
            };
        }
        head
    }
}

proptest! {
    #[test]
    fn decode_undoes_encode(head in any_head()) {
        prop_assert_eq!(head.check(), Ok(()));
        prop_assert_eq!(decode(&encode(&head)).unwrap(), head);
    }

    #[test]
    fn trimming_keeps_the_chain(head in any_head(), pick in any::<usize>()) {
        let mut bounds: Vec<_> = head.blocks.iter().flat_map(|block| [block.range.start, block.range.end]).collect();
        bounds.extend([head.trimmed_to, head.flushed_to]);
        let to = bounds[pick % bounds.len()];
        let trimmed = head.trimmed(to);
        prop_assert_eq!(trimmed.check(), Ok(()));
        prop_assert_eq!(trimmed.lost, head.lost);
    }

    #[test]
    fn any_bytes_are_taken_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn any_body_is_taken_without_panic(body in proptest::collection::vec(any::<u8>(), 0..300), packed in any::<bool>()) {
        let encoding = if packed { "zstd" } else { "json" };
        let mut bytes = format!("{MAGIC} {FORMAT} {encoding} {:016x}\n", xxh3_64(&body)).into_bytes();
        bytes.extend_from_slice(&body);
        prop_assert!(decode(&bytes).is_err());
    }

    /// Whatever is damaged is noticed.
    #[test]
    fn damage_is_noticed(head in any_head(), at in any::<usize>(), bit in 0u8..8, cut in any::<bool>()) {
        let mut bytes = encode(&head);
        let at = at % bytes.len();
        if cut { bytes.truncate(at) } else { bytes[at] ^= 1 << bit }
        prop_assert!(decode(&bytes).is_err());
    }
}
