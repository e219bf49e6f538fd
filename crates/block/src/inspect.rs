//! Describes the content of a block and the sizes of its parts, from the whole file.

use bytes::Bytes;
use model::TimeRange;
use serde::Serialize;

use crate::{
    BlockError, BlockIndex, BlockSummary, Provenance, TenantSummary, columns::LeafPages, quarantine::quarantined,
};

/// The content of a block, and the stored bytes of its parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// The summary that the writer reported.
    pub summary: BlockSummary,
    /// Where the rows come from.
    pub provenance: Provenance,
    /// Metadata keys with a column of their own.
    pub metadata_keys: Vec<String>,
    /// Number of row groups.
    pub row_groups: usize,
    /// Number of streams.
    pub streams: usize,
    /// Stored bytes by column.
    pub columns: Vec<ColumnBytes>,
    /// Stored bytes by section.
    pub sections: Vec<SectionBytes>,
    /// Stored bytes of the rest: page index, footer, magic.
    pub footer_bytes: u64,
    /// Memory of an opened index in bytes.
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
    /// Name of the leaf column.
    pub name: String,
    /// Stored bytes, page headers included.
    pub bytes: u64,
    /// Number of pages, dictionaries included.
    pub pages: usize,
}

/// Stored bytes of one section.
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
    let mut columns = Vec::new();
    for placed in index.columns().iter() {
        for (leaf, name) in placed.leaves.clone().zip(placed.column.leaf_names()) {
            let of_group = |leaves: &'_ Vec<LeafPages>| {
                let pages = leaves[leaf].dictionary.iter().chain(&leaves[leaf].pages);
                pages.fold((0, 0), |(bytes, pages), page| (bytes + u64::from(page.bytes), pages + 1))
            };
            let of_groups = index.groups().iter().map(of_group);
            let (bytes, pages) = of_groups.fold((0, 0), |sum, group| (sum.0 + group.0, sum.1 + group.1));
            columns.push(ColumnBytes { name, bytes, pages });
        }
    }
    let section =
        |s: &crate::section::Section| SectionBytes { name: s.name.clone(), version: s.version, bytes: s.length };
    let sections: Vec<SectionBytes> = index.sections().iter().map(section).collect();
    let accounted: u64 = columns.iter().map(|c: &ColumnBytes| c.bytes).chain(sections.iter().map(|s| s.bytes)).sum();
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

/// The summary of an opened block.
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
