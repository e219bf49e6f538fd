//! Packs a corpus of push bodies into blocks as the builder would, and prints where bytes and CPU time go.
//!
//! ```text
//! python3 corpus.py --out corpus --lines 500000 --end 1795204800
//! cargo run --release -p millrace-block --example pack -- corpus [--line-level 1] [--level 1] [--page-kb 1024]
//!     [--rows 20000] [--cut-mb 64] [--runs 3] [--by-labels] [--tenants 1] [--out folder]
//! ```
//!
//! First it decodes the bodies, which is not timed, and gathers them into cuts of the given raw bytes of lines. It writes each
//! cut as one block, then reads all blocks in several ways. Writes are measured in CPU-seconds of the thread, reads in wall time; the
//! lowest of the runs counts. `--tenants` distributes the streams among several tenants.

#![allow(clippy::print_stdout, reason = "it prints its measurements")]

use std::{collections::BTreeMap, error::Error, fs, path::PathBuf, time::Instant};

use block::{
    BlockIndex, BlockOptions, BlockScan, BlockWriter, EncodedBlock, Provenance, Row, Step, StreamSketch, inspect,
    packing_order, verify,
};
use model::{Labels, Offset, OffsetRange, PartitionId, TenantId, TimeRange, TimestampNs};
use model::{LineNeed, Needs};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// One stream of a cut: timestamp, offset, line.
type Rows = Vec<(i64, i64, Vec<u8>)>;

struct Cut {
    range: OffsetRange,
    streams: BTreeMap<Labels, Rows>,
}

fn main() -> Result<()> {
    let mut folder = None;
    let mut options = BlockOptions::default();
    let (mut cut_mb, mut runs, mut out, mut by_labels, mut tenants) = (64, 3, None, false, 1);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--line-level" => options.line_zstd_level = value()?.parse()?,
            "--level" => options.zstd_level = value()?.parse()?,
            "--page-kb" => options.line_page_bytes = value()?.parse::<usize>()? << 10,
            "--rows" => options.page_rows_max = value()?.parse()?,
            "--cut-mb" => cut_mb = value()?.parse()?,
            "--runs" => runs = value()?.parse()?,
            "--tenants" => tenants = value()?.parse()?,
            "--by-labels" => by_labels = true,
            "--out" => out = Some(PathBuf::from(value()?)),
            _ => folder = Some(PathBuf::from(argument)),
        }
    }
    let folder = folder.ok_or("name the folder of the corpus")?;
    let cuts = load(&folder, cut_mb << 20)?;
    let rows: usize = cuts.iter().flat_map(|cut| cut.streams.values()).map(Vec::len).sum();
    println!("{options:?}\n{} cuts, {rows} rows", cuts.len());

    let mut blocks = Vec::new();
    let mut write_cpu = f64::MAX;
    for _ in 0..runs {
        blocks.clear();
        let start = cpu_seconds()?;
        for cut in &cuts {
            blocks.push(write(cut, &options, by_labels, tenants)?);
        }
        write_cpu = write_cpu.min(cpu_seconds()? - start);
    }
    let raw: u64 = blocks.iter().map(|block| block.summary.line_bytes).sum();
    let stored: u64 = blocks.iter().map(|block| block.summary.bytes).sum();
    let mut parts: BTreeMap<String, (u64, usize)> = BTreeMap::new();
    let mut add = |name: String, bytes, pages| {
        let part = parts.entry(name).or_default();
        *part = (part.0 + bytes, part.1 + pages);
    };
    let mut memory = 0;
    for block in &blocks {
        let inspection = inspect(block.bytes.clone())?;
        memory += inspection.index_memory_bytes;
        for (name, bytes) in inspection.parts() {
            let column = inspection.columns.iter().find(|column| name == format!("column {}", column.name));
            add(name, bytes, column.map_or(0, |column| column.pages));
        }
        add("(tails)".to_owned(), block.summary.tail_bytes, 0);
    }
    println!("{:26} {:>12} {:>7} {:>9}", "", "bytes", "pages", "bytes/row");
    for (name, (bytes, pages)) in &parts {
        println!("{name:26} {bytes:12} {pages:7} {:9.3}", *bytes as f64 / rows as f64);
    }
    println!("{:26} {stored:12}   of {raw} raw: {:.4}", "all", stored as f64 / raw as f64);
    println!("indexes in memory: {memory} bytes");
    println!("write: {write_cpu:.3} CPU-s, {:.2} CPU-s a raw GB", write_cpu / raw as f64 * 1e9);

    let lines = |lines| Needs { lines, ..Needs::default() };
    measure("open", runs, || {
        for block in &blocks {
            open(block)?;
        }
        Ok(0)
    })?;
    measure("timestamps", runs, || scan(&blocks, lines(LineNeed::None)))?;
    measure("lengths", runs, || scan(&blocks, lines(LineNeed::Lengths)))?;
    measure("lines", runs, || scan(&blocks, lines(LineNeed::Content)))?;
    let all = Needs::everything();
    measure("everything", runs, || scan(&blocks, all.clone()))?;
    for block in &blocks {
        let report = verify(block.bytes.clone())?;
        if !report.problems.is_empty() {
            return Err(format!("a block is not sound: {:?}", report.problems).into());
        }
    }
    if let Some(out) = out {
        fs::create_dir_all(&out)?;
        for (i, block) in blocks.iter().enumerate() {
            fs::write(out.join(format!("{i:04}.parquet")), &block.bytes)?;
        }
    }
    Ok(())
}

/// Reads the push bodies and gathers them into cuts.
fn load(folder: &PathBuf, cut_bytes: usize) -> Result<Vec<Cut>> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.retain(|file| file.extension().is_some_and(|e| e == "json") && !file.ends_with("manifest.json"));
    files.sort();
    let mut cuts: Vec<Cut> = Vec::new();
    let mut bytes = usize::MAX;
    for (offset, file) in files.iter().enumerate() {
        let offset = offset as i64;
        if bytes >= cut_bytes {
            let start = Offset::new(offset);
            cuts.push(Cut { range: OffsetRange::new(start, start), streams: BTreeMap::new() });
            bytes = 0;
        }
        let cut = cuts.last_mut().ok_or("no cut")?;
        cut.range.end = Offset::new(offset + 1);
        let body: serde_json::Value = serde_json::from_slice(&fs::read(file)?)?;
        for stream in body["streams"].as_array().ok_or("no streams")? {
            let labels: Labels = serde_json::from_value(stream["stream"].clone())?;
            let rows = cut.streams.entry(labels).or_default();
            for value in stream["values"].as_array().ok_or("no values")? {
                let ts = value[0].as_str().ok_or("no time")?.parse()?;
                let line = value[1].as_str().ok_or("no line")?.as_bytes().to_vec();
                bytes += line.len();
                rows.push((ts, offset, line));
            }
        }
    }
    for rows in cuts.iter_mut().flat_map(|cut| cut.streams.values_mut()) {
        rows.sort_by_key(|(ts, offset, _)| (*ts, *offset));
    }
    Ok(cuts)
}

fn write(cut: &Cut, options: &BlockOptions, by_labels: bool, tenants: usize) -> Result<EncodedBlock> {
    let created = TimestampNs::from_secs(1_795_204_800);
    let provenance =
        Provenance { log_id: "bench".to_owned(), partition: PartitionId::new(0), range: cut.range, created };
    let mut writer = BlockWriter::new(options.clone(), provenance, &[])?;
    for tenant in 0..tenants {
        writer.begin_tenant(&TenantId::new(&format!("bench-{tenant:06}"))?)?;
        let streams: Vec<_> = cut.streams.iter().skip(tenant).step_by(tenants).collect();
        let sketch = |(_, rows): &(&Labels, &Rows)| {
            StreamSketch::new(rows.iter().step_by(rows.len().div_ceil(16)).map(|(_, _, line)| line.as_slice()))
        };
        let sketches: Vec<StreamSketch> = streams.iter().map(sketch).collect();
        let order = if by_labels { (0..streams.len()).collect() } else { packing_order(&sketches) };
        for (labels, rows) in order.into_iter().map(|i| streams[i]) {
            writer.begin_stream(labels)?;
            for (ts, offset, line) in rows {
                let (ts, offset) = (TimestampNs::from_nanos(*ts), Offset::new(*offset));
                writer.append(Row { ts, offset, line, metadata: &[] })?;
            }
        }
    }
    Ok(writer.finish()?)
}

fn open(block: &EncodedBlock) -> Result<BlockIndex> {
    let tail = block.bytes.slice(block.bytes.len() - block.summary.tail_bytes as usize..);
    Ok(BlockIndex::open(block.summary.bytes, tail)?)
}

/// Reads all rows and returns their number.
fn scan(blocks: &[EncodedBlock], columns: Needs) -> Result<u64> {
    let mut rows = 0;
    for block in blocks {
        let index = open(block)?;
        let streams = index.tenants().flat_map(|tenant| tenant.streams).collect();
        let mut scan = BlockScan::new(&index, streams, TimeRange::ALL, columns.clone());
        loop {
            match scan.next()? {
                Step::Done => break,
                Step::Batch(batch) => rows += batch.len() as u64,
                Step::NeedsData(ranges) => {
                    let slice =
                        |range: &std::ops::Range<u64>| block.bytes.slice(range.start as usize..range.end as usize);
                    let data = ranges.iter().map(slice).collect();
                    scan.supply(ranges, data)?;
                }
            }
        }
    }
    Ok(rows)
}

fn measure(name: &str, runs: usize, mut run: impl FnMut() -> Result<u64>) -> Result<()> {
    let mut best = f64::MAX;
    let mut rows = 0;
    for _ in 0..runs * 3 {
        let start = Instant::now();
        rows = run()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    println!("{name:12} {:8.2} ms, {rows} rows, {:.2} ns a row", best * 1e3, best * 1e9 / rows.max(1) as f64);
    Ok(())
}

/// CPU time of this thread in user and kernel mode.
fn cpu_seconds() -> Result<f64> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanos: f64 = text.split(' ').next().ok_or("schedstat is empty")?.parse()?;
    Ok(nanos / 1e9)
}
