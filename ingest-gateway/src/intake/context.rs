//! What the intake must know of a request besides its entries.

use std::sync::Arc;

use model::{TenantId, TimestampNs};

use crate::Config;
use crate::bucket::Rate;
use crate::route::Route;
use crate::rules::Rules;
use crate::tenants::Tenant;

/// The tenant of a request, its limits and partitions, and the time of arrival.
#[derive(Clone, Debug)]
pub(crate) struct PushContext {
    pub(crate) config: Arc<Config>,
    pub(crate) tenant_id: TenantId,
    pub(crate) tenant: Arc<Tenant>,
    pub(crate) rules: Arc<Rules>,
    pub(crate) route: Arc<Route>,
    /// What all requests of the tenant may bring to this gateway; `None` when there is no limit.
    pub(crate) rate: Option<Rate>,
    /// How many active streams the tenant may have on this gateway.
    pub(crate) streams_max: usize,
    pub(crate) now: TimestampNs,
    /// Stored with each record of the request.
    pub(crate) batch_id: Option<String>,
}
