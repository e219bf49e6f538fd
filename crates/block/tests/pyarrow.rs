//! pyarrow reads the same rows. `MILLRACE_TEST_PYTHON` names a Python with pyarrow. Without it the test prints a notice and is
//! skipped, except in CI, where the variable must be set.

#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::{collections::BTreeMap, process::Command};

use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};
use serde::Deserialize;
use support::{NaiveBlock, any_block, open};

#[derive(Debug, PartialEq, Eq, Deserialize)]
struct PythonRow {
    ts: i64,
    stream: u32,
    line: String,
    metadata: BTreeMap<String, String>,
    offset: i64,
}

fn read_with(python: &str, file: &std::path::Path) -> Vec<PythonRow> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/read_with_pyarrow.py");
    let output = Command::new(python).arg(script).arg(file).output().expect("MILLRACE_TEST_PYTHON cannot be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn expected(block: &NaiveBlock, encoded: &block::EncodedBlock) -> Vec<PythonRow> {
    let index = open(encoded);
    let mut rows = Vec::new();
    for tenant in index.tenants() {
        for stream in tenant.streams.filter_map(|ordinal| index.stream(ordinal)) {
            let is_of = |row: &&support::NaiveRow| row.tenant == *tenant.tenant && row.labels == *stream.labels;
            let mut of_stream: Vec<_> = block.rows.iter().filter(is_of).collect();
            of_stream.sort_by_key(|row| (row.ts, row.offset));
            rows.extend(of_stream.into_iter().map(|row| PythonRow {
                ts: row.ts,
                stream: stream.ordinal,
                line: row.line.iter().map(|byte| format!("{byte:02x}")).collect(),
                metadata: row.metadata.clone(),
                offset: row.offset,
            }));
        }
    }
    rows
}

#[test]
fn pyarrow_reads_the_same_rows() {
    let Ok(python) = std::env::var("MILLRACE_TEST_PYTHON") else {
        assert!(std::env::var_os("CI").is_none(), "set MILLRACE_TEST_PYTHON to a Python that has pyarrow");
        eprintln!("skipped: MILLRACE_TEST_PYTHON, a Python that has pyarrow, is not set");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("block.parquet");
    let mut runner = TestRunner::deterministic();
    for rows in [1, 50, 400, 3000] {
        let block = any_block(rows).new_tree(&mut runner).unwrap().current();
        let encoded = block.encode();
        std::fs::write(&file, &encoded.bytes).unwrap();
        assert_eq!(read_with(&python, &file), expected(&block, &encoded));
    }
}
