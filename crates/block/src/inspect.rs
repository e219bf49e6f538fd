//! What a block holds and where its bytes go, from the whole file; and the records that could not be decoded.

use std::collections::BTreeMap;

use bytes::Bytes;
use model::{Offset, TimeRange};
use serde::Serialize;

use crate::{
    BlockError, BlockIndex, BlockSummary, Provenance, TenantSummary,
    schema::{LINE, Layout, METADATA_PREFIX, STREAM, TS},
    table::{compress, decompress},
    wire::{Reader, put_bytes, put_varint, put_zigzag},
};

/// Version of the quarantine section.
pub(crate) const QUARANTINE_VERSION: u32 = 1;

/// What a block holds and where its bytes go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// As the writer reported it.
    pub summary: BlockSummary,
    /// Where the rows come from.
    pub provenance: Provenance,
    /// Metadata keys with a column of their own.
    pub metadata_keys: Vec<String>,
    /// How many row groups there are.
    pub row_groups: usize,
    /// How many streams there are.
    pub streams: usize,
    /// Stored bytes by column.
    pub columns: Vec<ColumnBytes>,
    /// Stored bytes of our sections.
    pub sections: Vec<SectionBytes>,
    /// Stored bytes of the rest: page index, footer, magic.
    pub footer_bytes: u64,
    /// What an opened index keeps in memory.
    pub index_memory_bytes: usize,
}

impl Inspection {
    /// Stored bytes by part of the file, by name: columns, sections, and the rest. They add up to the whole file.
    pub fn parts(&self) -> Vec<(String, u64)> {
        let columns = self.columns.iter().map(|c| (format!("column {}", c.name), c.bytes));
        let sections = self.sections.iter().map(|s| (format!("section {}", s.name), s.bytes));
        columns.chain(sections).chain([("footer".to_owned(), self.footer_bytes)]).collect()
    }
}

/// Stored bytes of one column, all row groups together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ColumnBytes {
    /// Its name; the columns of packed metadata have two.
    pub name: String,
    /// Its bytes, page headers included.
    pub bytes: u64,
    /// Its pages, dictionaries included.
    pub pages: usize,
}

/// Stored bytes of one of our sections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SectionBytes {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// Its bytes.
    pub bytes: u64,
}

/// Describes a block from its whole file.
///
/// # Errors
/// As [`BlockIndex::open`].
pub fn inspect(bytes: Bytes) -> Result<Inspection, BlockError> {
    let index = BlockIndex::open(bytes.len() as u64, bytes.clone())?;
    let quarantined = quarantined(&index, &bytes)?.len() as u64;
    let layout = index.layout();
    let mut columns: BTreeMap<usize, ColumnBytes> = BTreeMap::new();
    for group in index.groups() {
        for (i, column) in group.columns.iter().enumerate() {
            let pages = || column.dictionary.iter().chain(&column.pages);
            let name = || column_name(&index, layout, i);
            let sum = columns.entry(i).or_insert_with(|| ColumnBytes { name: name(), bytes: 0, pages: 0 });
            sum.bytes += pages().map(|page| u64::from(page.bytes)).sum::<u64>();
            sum.pages += pages().count();
        }
    }
    let columns: Vec<ColumnBytes> = columns.into_values().collect();
    let section =
        |s: &crate::section::Section| SectionBytes { name: s.name.clone(), version: s.version, bytes: s.length };
    let sections: Vec<SectionBytes> = index.sections().iter().map(section).collect();
    let accounted: u64 = columns.iter().map(|c| c.bytes).chain(sections.iter().map(|s| s.bytes)).sum();
    Ok(Inspection {
        summary: summary(&index, quarantined),
        provenance: index.provenance().clone(),
        metadata_keys: index.metadata_keys().iter().map(|key| key.to_string()).collect(),
        row_groups: index.groups().len(),
        streams: index.table().streams.len(),
        columns,
        sections,
        footer_bytes: index.file_bytes().saturating_sub(accounted),
        index_memory_bytes: index.memory_bytes(),
    })
}

fn column_name(index: &BlockIndex, layout: Layout, column: usize) -> String {
    match column {
        TS => "ts".to_owned(),
        STREAM => "stream".to_owned(),
        LINE => "line".to_owned(),
        _ if column == layout.packed_keys() => "metadata.key".to_owned(),
        _ if column == layout.packed_values() => "metadata.value".to_owned(),
        _ if column == layout.offset() => "offset".to_owned(),
        _ => format!("{METADATA_PREFIX}{}", index.metadata_keys()[column - layout.key(0)]),
    }
}

/// What a head lists of the block.
pub(crate) fn summary(index: &BlockIndex, quarantined: u64) -> BlockSummary {
    let tenants: Vec<TenantSummary> = index
        .tenants()
        .map(|tenant| TenantSummary {
            tenant: tenant.tenant.clone(),
            row_groups: tenant.row_groups,
            rows: tenant.rows,
            line_bytes: tenant.line_bytes,
            streams: tenant.streams.len() as u32,
            time: tenant.time,
        })
        .collect();
    let start = tenants.iter().map(|tenant| tenant.time.start).min();
    let end = tenants.iter().map(|tenant| tenant.time.end).max();
    BlockSummary {
        bytes: index.file_bytes(),
        tail_bytes: index.tail_bytes(),
        rows: tenants.iter().map(|tenant| tenant.rows).sum(),
        line_bytes: tenants.iter().map(|tenant| tenant.line_bytes).sum(),
        time: start.zip(end).map(|(start, end)| TimeRange::new(start, end)),
        offsets: index.provenance().range,
        tenants,
        quarantined,
    }
}

/// A record that could not be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuarantinedRecord {
    /// Which record.
    pub offset: Offset,
    /// Why it could not be decoded.
    pub reason: String,
    /// What it held.
    pub raw: Bytes,
}

/// The records of a block that could not be decoded, from the whole file.
///
/// # Errors
/// When the section is damaged or of a newer version.
pub fn quarantined(index: &BlockIndex, file: &Bytes) -> Result<Vec<QuarantinedRecord>, BlockError> {
    let Some(section) = index.quarantine(QUARANTINE_VERSION)? else {
        return Ok(Vec::new());
    };
    let bytes = Bytes::from(decompress(section.slice(file, 0)?)?);
    let mut reader = Reader::new(&bytes);
    let mut records = Vec::new();
    for _ in 0..reader.count()? {
        let offset = Offset::new(reader.zigzag()?);
        let reason = reader.text()?.to_owned();
        records.push(QuarantinedRecord { offset, reason, raw: bytes.slice_ref(reader.bytes()?) });
    }
    reader.finish()?;
    Ok(records)
}

/// Encodes the quarantine section.
pub(crate) fn encode_quarantine(records: &[(Offset, String, Vec<u8>)], zstd_level: i32) -> Result<Vec<u8>, BlockError> {
    let mut out = Vec::new();
    put_varint(&mut out, records.len() as u64);
    for (offset, reason, raw) in records {
        put_zigzag(&mut out, offset.value());
        put_bytes(&mut out, reason.as_bytes());
        put_bytes(&mut out, raw);
    }
    compress(&out, zstd_level)
}
