//! `blocks ls|inspect|verify`: reads the object store directly, with or without a running server.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command prints its answer")]

use std::{fs, path::Path, sync::Arc};

use anyhow::{Context as _, bail, ensure};
use block::{Inspection, Provenance, TenantSummary};
use bytes::Bytes;
use catalogue::{BlockEntry, Head, Heads};
use object_store::{ObjectKey, ObjectStore};
use settings::Settings;

use crate::{backends, cli::BlocksCommand, times::shown};

pub(crate) async fn run(command: &BlocksCommand, settings: &Settings) -> anyhow::Result<()> {
    let folder = settings.store_folder();
    let is_there = settings.uses_s3() || folder.is_dir();
    ensure!(
        is_there,
        "there is no object store in {}: name its folder with --data-dir, or a bucket in a file with --config",
        folder.display()
    );
    let store = backends::connect_store(settings, None).await?;
    match command {
        BlocksCommand::Ls => list(&store).await,
        BlocksCommand::Inspect { block } => {
            print_inspection(&block::inspect(read(&store, block).await?)?);
            Ok(())
        }
        BlocksCommand::Verify { blocks } if blocks.is_empty() => verify_all(&store).await,
        BlocksCommand::Verify { blocks } => {
            let mut problems = Vec::new();
            for name in blocks {
                problems.extend(verify_one(read(&store, name).await?).into_iter().map(|p| format!("{name}: {p}")));
            }
            conclude(blocks.len(), 0, &problems)
        }
    }
}

/// The bytes of the file with this name, or else of the object with this key.
async fn read(store: &Arc<dyn ObjectStore>, name: &str) -> anyhow::Result<Bytes> {
    if Path::new(name).is_file() {
        return Ok(fs::read(name).with_context(|| format!("cannot read {name}"))?.into());
    }
    let key = ObjectKey::new(name).with_context(|| format!("{name} is neither a file nor an object key"))?;
    Ok(store.get(&key).await?.bytes)
}

/// The heads of every log in the store.
async fn all_heads(store: &Arc<dyn ObjectStore>) -> anyhow::Result<Vec<Arc<Head>>> {
    let mut found = Vec::new();
    for log_id in catalogue::log_ids(store.as_ref()).await? {
        found.extend(Heads::new(store.clone(), &log_id)?.all().await?);
    }
    Ok(found)
}

async fn list(store: &Arc<dyn ObjectStore>) -> anyhow::Result<()> {
    println!("{:<9} {:>21} {:>10} {:>12} {:>12}  key", "partition", "offsets", "rows", "line bytes", "bytes");
    let (mut blocks, mut bytes) = (0, 0);
    for head in all_heads(store).await? {
        let partition = head.partition;
        for block in &head.blocks {
            let BlockEntry { key, range, rows, line_bytes, .. } = block;
            println!("{partition:<9} {:>21} {rows:>10} {line_bytes:>12} {:>12}  {key}", range.to_string(), block.bytes);
            blocks += 1;
            bytes += block.bytes;
        }
        for lost in &head.lost {
            println!(
                "{partition:<9} {:>21} lost: the log had removed it before its owner read it",
                lost.range.to_string()
            );
        }
    }
    println!("{blocks} blocks, {bytes} bytes");
    Ok(())
}

/// Every problem of one block, as text.
fn verify_one(bytes: Bytes) -> Vec<String> {
    match block::verify(bytes) {
        Ok(report) => report.problems.iter().map(ToString::to_string).collect(),
        Err(error) => vec![error.to_string()],
    }
}

fn print_inspection(found: &Inspection) {
    let Provenance { log_id, partition, range, created } = &found.provenance;
    println!("from      log {log_id}, partition {partition}, offsets {range}, made at {}", shown(*created));
    let summary = &found.summary;
    println!(
        "holds     {} rows, {} bytes of lines, {} streams, {} row groups, {} bytes in total",
        summary.rows, summary.line_bytes, found.streams, found.row_groups, summary.bytes
    );
    if summary.quarantined > 0 {
        println!("          {} records that could not be decoded, kept as they were received", summary.quarantined);
    }
    for TenantSummary { tenant, rows, line_bytes, streams, time, .. } in &summary.tenants {
        println!(
            "tenant    {tenant}: {rows} rows, {line_bytes} bytes of lines, {streams} streams, {} to {}",
            shown(time.start),
            shown(time.end)
        );
    }
    for (part, bytes) in found.parts() {
        println!("{part:<28} {bytes:>12} bytes");
    }
}

/// Checks every listed block, and that the blocks of each head cover its offsets without gap or overlap.
async fn verify_all(store: &Arc<dyn ObjectStore>) -> anyhow::Result<()> {
    let (mut count, mut rows, mut problems) = (0, 0, Vec::new());
    for head in all_heads(store).await? {
        let partition = head.partition;
        problems.extend(head.check().err().map(|e| format!("head of partition {partition}: {e}")));
        for entry in &head.blocks {
            count += 1;
            rows += entry.rows;
            let found = match read(store, &entry.key).await {
                Ok(bytes) if bytes.len() as u64 != entry.bytes => {
                    vec![format!("has {} bytes, the head says {}", bytes.len(), entry.bytes)]
                }
                Ok(bytes) => verify_one(bytes),
                Err(error) => vec![error.to_string()],
            };
            problems.extend(found.into_iter().map(|p| format!("{}: {p}", entry.key)));
        }
    }
    conclude(count, rows, &problems)
}

fn conclude(blocks: usize, rows: u64, problems: &[String]) -> anyhow::Result<()> {
    for problem in problems {
        println!("{problem}");
    }
    println!("{blocks} blocks, {rows} rows, {} problems", problems.len());
    if !problems.is_empty() {
        bail!(
            "the store has problems; rebuild the blocks concerned with `millrace replay --rebuild` while the log still holds their ranges"
        );
    }
    Ok(())
}
