//! What the gateway learns each second: tenants' rates, and with those of other gateways their parts and partitions.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use control::{Role, View};
use limits::{Limits, RateStrategy};
use model::TenantId;

use crate::gateway::Gateway;
use crate::partitions::known_to_readers;
use crate::rates::{Others, to_tell};
use crate::sharding::Demand;
use crate::tenants::Tenant;

impl Gateway {
    /// Looks at the log's partitions, measures, tells other gateways, and takes from what they told.
    pub(crate) fn measure(&self, now: Instant) {
        let view = self.control.as_ref().map(|control| control.view());
        self.look_at_partitions(view.as_deref(), now);
        let others = match (&self.control, view.as_deref()) {
            (Some(control), Some(view)) => Some(Others::of(view, control.id())),
            _ => None,
        };
        let mut told = Vec::new();
        self.tenants.for_each(|name, tenant| {
            let limits = self.overrides.for_tenant(name);
            let rate = self.measure_tenant(name, tenant, &limits, others.as_ref(), now);
            if self.control.is_some() {
                told.push((name.clone(), rate as u64));
            }
        });
        if let Some(control) = &self.control {
            let count = self.log.partition_count();
            let rates = to_tell(told).collect();
            control.update(|state| {
                state.rates = rates;
                state.partition_count = state.partition_count.max(count);
            });
        }
        let (is_open, partitions) = self.appender.breaker.open();
        self.metrics.breaker(is_open, partitions);
    }

    fn look_at_partitions(&self, view: Option<&View>, now: Instant) {
        let count = self.log.partition_count();
        let known = view.and_then(known_to_readers);
        if let Some(partitions) = self.partitions.observe(count, known, now) {
            tracing::info!(partitions, "the log has grown: new partitions are used from now on");
        }
        self.metrics.partitions(self.partitions.in_use());
    }

    /// A tenant's rate here, bytes a second.
    fn measure_tenant(
        &self,
        name: &TenantId,
        tenant: &Tenant,
        limits: &Arc<Limits>,
        others: Option<&Others<'_>>,
        now: Instant,
    ) -> f64 {
        let mut measured = tenant.measured.lock();
        let own = measured.measure(tenant.offered.swap(0, Ordering::Relaxed), now);
        let everywhere = own + others.map_or(0.0, |others| others.rate(name));
        // Offered may be far more than what the tenant's rate lets in.
        let mut rate_max = limits.ingestion_rate_mb * f64::from(1u32 << 20);
        if limits.ingestion_rate_strategy == RateStrategy::Local {
            let gateways = others.map_or(self.config.gateway_count, |others| others.gateways.saturating_add(1));
            rate_max *= f64::from(gateways);
        }
        let rate = if rate_max > 0.0 { everywhere.min(rate_max) } else { everywhere };
        let demand = Demand { rate, partitions: self.partitions.in_use() };
        let shards = measured.sharding.update(demand, limits, &self.config, now);
        tenant.shards.store(shards, Ordering::Relaxed);
        if let Some(others) = others {
            tenant.set_share(others.own_share(name, own));
        }
        own
    }

    /// Tells that this process is about to end, when it is nothing but a gateway: one that holds partitions says so
    /// itself when it has given them away.
    pub(crate) fn say_leaving(&self) {
        if let Some(control) = &self.control {
            control.update(|state| state.leaving |= state.roles.iter().all(|role| *role == Role::Gateway));
        }
    }
}
