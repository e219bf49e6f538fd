//! This version reads the files of earlier versions. A new format version adds a file here and keeps the old ones.
//!
//! `MILLRACE_WRITE_GOLDEN=1 cargo test -p millrace-block --test golden` writes the file of the current version, once.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::path::PathBuf;

use block::{BlockIndex, BlockOptions, BlockScan, quarantined, verify};
use bytes::Bytes;
use model::Needs;
use model::{Labels, TenantId, TimeRange};
use support::{NaiveBlock, NaiveRow, expected_rows, provenance, rows_of, run};

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

/// The content of the file of version 1. It must never change.
fn version_1() -> NaiveBlock {
    let row = |i: i64| NaiveRow {
        tenant: TenantId::new(if i % 5 == 0 { "blue" } else { "green" }).unwrap(),
        labels: Labels::from_pairs([("app", ["api", "db", "web"][i as usize % 3]), ("zone", "a\"\n")]),
        ts: 1_700_000_000_000_000_000 + i * 1_000_003,
        offset: i / 7,
        line: match i % 11 {
            0 => vec![0xff, 0x00, i as u8],
            1 => Vec::new(),
            _ => format!("level=info msg=\"request {i} served\" took={}ms", i * 37 % 1009).into_bytes(),
        },
        metadata: [
            ("trace_id".to_owned(), format!("{:016x}", i * 0x9e37_79b9)),
            ("pod".to_owned(), format!("pod-{}", i % 4)),
            ("rare".to_owned(), "spät".to_owned()),
        ]
        .into_iter()
        .enumerate()
        .filter(|(key, _)| i % (*key as i64 + 2) == 0)
        .map(|(_, pair)| pair)
        .collect(),
    };
    NaiveBlock {
        rows: (0..600).map(row).collect(),
        quarantine: vec![(90, vec![1, 2, 3, 0xff], "checksum differs".to_owned())],
        keys: vec!["trace_id".to_owned(), "pod".to_owned()],
        options: BlockOptions {
            page_rows_max: 64,
            row_group_rows_max: 256,
            line_page_bytes: 1500,
            ..BlockOptions::default()
        },
    }
}

#[test]
fn version_1_reads() {
    let path = path("v1.parquet");
    let block = version_1();
    if std::env::var_os("MILLRACE_WRITE_GOLDEN").is_some() && !path.exists() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, block.encode().bytes).unwrap();
    }
    let file = Bytes::from(std::fs::read(&path).unwrap());
    let report = verify(file.clone()).unwrap();
    assert_eq!((report.rows, report.problems), (600, Vec::new()));
    let index = BlockIndex::open(file.len() as u64, file.clone()).unwrap();
    assert_eq!(*index.provenance(), provenance());
    let columns = Needs::everything();
    for tenant in index.tenants() {
        let streams = tenant.streams.clone().collect();
        let batches = run(BlockScan::new(&index, streams, TimeRange::ALL, columns.clone()), &file).unwrap();
        let expected = expected_rows(&block, &columns, |row| row.tenant == *tenant.tenant);
        let mut rows = rows_of(&batches, &columns);
        rows.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(rows, expected);
    }
    let records = quarantined(&index, &file).unwrap();
    assert_eq!((records[0].offset.value(), &records[0].raw[..]), (90, &[1, 2, 3, 0xff][..]));
}
