//! What the work on all blocks of a query shares.

use std::sync::Arc;

use logql::Query;
use model::{TenantId, TimeRange};
use runtime::Abandoned;

use crate::scan_times::overlapping_groups;

/// A query that reads blocks of one tenant.
pub(crate) struct BlockQuery {
    pub(crate) query: Arc<Query>,
    pub(crate) tenant: TenantId,
    /// For each scan the number of its group: scans of one group have times that overlap, directly or through others.
    pub(crate) groups: Vec<usize>,
    pub(crate) abandoned: Abandoned,
}

impl BlockQuery {
    pub(crate) fn new(tenant: TenantId, query: Arc<Query>, abandoned: Abandoned) -> Self {
        let times: Vec<TimeRange> = query.scans().iter().map(|scan| scan.time()).collect();
        Self { groups: overlapping_groups(&times), query, tenant, abandoned }
    }
}
