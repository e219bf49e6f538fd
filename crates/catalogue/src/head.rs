//! The head of a partition, as a value: what it lists and how it may change.

use std::ops::Range;

use model::{Offset, OffsetRange, PartitionId, TenantId, TimeRange, TimestampNs};
use serde::{Deserialize, Serialize};

use crate::rules::{Rule, holds};

/// What is known of one partition of one log. See the crate's documentation for its invariants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// The log.
    pub log_id: String,
    /// The partition.
    pub partition: PartitionId,
    /// Fresh for each change a leader makes; tells a leader whether a change whose reply got lost is its own.
    pub nonce: String,
    /// Who leads, in words for people. Safety is the epoch's.
    pub owner: String,
    /// Grows with each change of leadership; 0 before the first.
    pub epoch: u64,
    /// F: everything below is in blocks, lost, or empty.
    pub flushed_to: Offset,
    /// Everything below is served by the catalogue, and no longer listed here. At most what each catalogue shard has
    /// compacted to; a reader whose catalogue is older must refresh it.
    pub trimmed_to: Offset,
    /// Level-0 blocks in the order of their offsets.
    pub blocks: Vec<BlockEntry>,
    /// What retention removed before anybody read it, in the order of offsets; kept when the head is trimmed.
    pub lost: Vec<Lost>,
    /// Ranges that held no rows (markers and gaps of the log), in order, neighbours joined.
    pub empty: Vec<OffsetRange>,
}

/// A block as the head lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockEntry {
    /// The object.
    pub key: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// One ranged read of this many last bytes opens the file.
    pub tail_bytes: u64,
    /// The cut that it holds, exactly.
    pub range: OffsetRange,
    /// Rows of all tenants.
    pub rows: u64,
    /// Bytes of all lines.
    pub line_bytes: u64,
    /// The time of its rows; none when it has no rows (all quarantined).
    pub time: Option<TimeRange>,
    /// What it holds of each tenant, in tenant order.
    pub tenants: Vec<TenantEntry>,
    /// Records that could not be decoded and are kept raw.
    pub quarantined: u64,
}

/// What a block holds of one tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantEntry {
    /// The tenant.
    pub tenant: TenantId,
    /// Its row groups, by index in the file.
    pub row_groups: Range<usize>,
    /// Its rows.
    pub rows: u64,
    /// Bytes of its lines.
    pub line_bytes: u64,
    /// Its streams.
    pub streams: u32,
    /// The time of its rows.
    pub time: TimeRange,
}

/// A range that nobody will ever read again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lost {
    /// What is lost.
    pub range: OffsetRange,
    /// When that was noticed.
    pub recorded_at: TimestampNs,
}

impl Head {
    /// The head of a partition that nobody has led yet: there is no object for it.
    pub fn unled(log_id: &str, partition: PartitionId) -> Self {
        Self {
            log_id: log_id.to_owned(),
            partition,
            nonce: String::new(),
            owner: String::new(),
            epoch: 0,
            flushed_to: Offset::ZERO,
            trimmed_to: Offset::ZERO,
            blocks: Vec::new(),
            lost: Vec::new(),
            empty: Vec::new(),
        }
    }

    /// Checks that blocks, lost and empty ranges follow one another from `trimmed_to` up to `flushed_to`, without gap
    /// or overlap.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn check(&self) -> Result<(), String> {
        if !holds(Rule::StartIsFlushedTo) {
            return Ok(());
        }
        if self.trimmed_to < Offset::ZERO {
            return Err(format!("it is trimmed to {}", self.trimmed_to));
        }
        let lost = self.lost.iter().map(|lost| lost.range).filter(|range| range.end > self.trimmed_to);
        let blocks = self.blocks.iter().map(|block| block.range);
        let mut ranges: Vec<_> = blocks.chain(lost).chain(self.empty.iter().copied()).collect();
        ranges.sort_unstable_by_key(|range| (range.start, range.end));
        let mut at = self.trimmed_to;
        for range in ranges {
            if range.is_empty() {
                return Err(format!("{range} is backwards or empty"));
            }
            if range.start != at {
                let what = if range.start < at { "overlaps what lies before it" } else { "leaves a gap before it" };
                return Err(format!("{range} {what}, which ends at {at}"));
            }
            at = range.end;
        }
        if at != self.flushed_to {
            return Err(format!("it is flushed to {}, but what it lists ends at {at}", self.flushed_to));
        }
        let in_order = self.blocks.is_sorted_by_key(|block| block.range.start)
            && self.lost.is_sorted_by_key(|lost| lost.range.start)
            && self.empty.is_sorted_by_key(|range| range.start);
        if in_order { Ok(()) } else { Err("what it lists is not in the order of offsets".to_owned()) }
    }

    /// This head with another leader. What the log no longer has above F is lost.
    pub(crate) fn led_by(&self, owner: &str, first: Offset, now: TimestampNs) -> Self {
        let mut head = self.clone();
        owner.clone_into(&mut head.owner);
        head.epoch += 1;
        if first <= head.flushed_to {
            return head;
        }
        let range = OffsetRange::new(head.flushed_to, first);
        if holds(Rule::LostIsRecorded) {
            head.with_lost(&Lost { range, recorded_at: now })
        } else {
            head.with_cut(range, None)
        }
    }

    /// This head with a cut more. The caller checks that the cut starts at F.
    pub(crate) fn with_cut(&self, range: OffsetRange, block: Option<&BlockEntry>) -> Self {
        let mut head = self.clone();
        head.flushed_to = range.end;
        match (block, head.empty.last_mut()) {
            (Some(block), _) => head.blocks.push(block.clone()),
            (None, Some(last)) if last.end == range.start => last.end = range.end,
            (None, _) => head.empty.push(range),
        }
        head
    }

    /// This head with a lost range more. The caller checks that the range starts at F.
    pub(crate) fn with_lost(&self, lost: &Lost) -> Self {
        let mut head = self.clone();
        head.flushed_to = lost.range.end;
        head.lost.push(lost.clone());
        head
    }

    /// This head without what lies below `to`. Lost ranges stay: queries that touch them say so.
    pub(crate) fn trimmed(&self, to: Offset) -> Self {
        let mut head = self.clone();
        head.trimmed_to = to;
        head.blocks.retain(|block| block.range.end > to);
        head.empty.retain(|range| range.end > to);
        // An empty range may be joined from several cuts, so that `to` may lie inside.
        if let Some(first) = head.empty.first_mut() {
            first.start = first.start.max(to);
        }
        head
    }
}
