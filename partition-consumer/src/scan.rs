//! Reading a snapshot of memory; the work itself is shared with other readers of segments ([`owner::segments`]).

use model::TenantId;
use owner::segments::SegmentRows;

use crate::memory::Snapshot;

/// A tenant's rows in a snapshot.
pub(crate) fn rows<'a>(snapshot: &'a Snapshot, tenant: &'a TenantId) -> SegmentRows<'a> {
    let segments = snapshot.segments.iter().map(|held| &*held.segment).collect();
    SegmentRows { segments, offsets: snapshot.range, tenant }
}
