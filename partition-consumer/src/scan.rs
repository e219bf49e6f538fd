//! Reads a snapshot of memory, with the code that all readers of segments share ([`owner::segments`]).

use model::TenantId;
use owner::segments::SegmentRows;

use crate::memory::Snapshot;

/// The rows of one tenant in a snapshot.
pub(crate) fn rows<'a>(snapshot: &'a Snapshot, tenant: &'a TenantId) -> SegmentRows<'a> {
    let segments = snapshot.segments.iter().map(|held| &*held.segment).collect();
    SegmentRows { segments, offsets: snapshot.range, tenant }
}
