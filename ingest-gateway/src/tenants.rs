//! What the gateway remembers of each tenant: its rate, its active streams and their rates.
//!
//! It is all in memory and may be lost: a restarted gateway forgets who was near a limit, nothing else.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use limits::Limits;
use model::{StreamHash, TenantId, TimestampNs};
use parking_lot::Mutex;

use crate::bucket::Bucket;

/// All tenants that pushed lately.
#[derive(Debug, Default)]
pub(crate) struct Tenants(DashMap<TenantId, Arc<Tenant>>);

/// One tenant.
#[derive(Debug, Default)]
pub(crate) struct Tenant {
    pub(crate) bucket: Bucket,
    streams: Mutex<Streams>,
}

#[derive(Debug, Default)]
struct Streams {
    active: HashMap<StreamHash, Arc<Stream>>,
    /// When idle streams were last looked for, so that a tenant at its limit does not pay for it with every push.
    swept_at: i64,
}

/// One active stream.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    pub(crate) bucket: Bucket,
    last_seen: AtomicI64,
}

const SWEEP_PERIOD: Duration = Duration::from_secs(10);

impl Tenants {
    pub(crate) fn get(&self, tenant: &TenantId) -> Arc<Tenant> {
        if let Some(known) = self.0.get(tenant) {
            return known.clone();
        }
        self.0.entry(tenant.clone()).or_default().clone()
    }

    pub(crate) fn contains(&self, tenant: &TenantId) -> bool {
        self.0.contains_key(tenant)
    }

    /// Forgets streams that had no entry for `idle`, and tenants without streams.
    pub(crate) fn sweep(&self, now: TimestampNs, idle: Duration) {
        self.0.retain(|_, tenant| {
            let mut streams = tenant.streams.lock();
            streams.sweep(now, idle);
            !streams.active.is_empty()
        });
    }

    /// How many streams each tenant has.
    pub(crate) fn active(&self) -> Vec<(TenantId, usize)> {
        self.0.iter().map(|tenant| (tenant.key().clone(), tenant.streams.lock().active.len())).collect()
    }
}

impl Tenant {
    /// The stream, which is active now; `None` when it would be one more than `streams_max`.
    pub(crate) fn stream(
        &self,
        hash: StreamHash,
        now: TimestampNs,
        idle: Duration,
        streams_max: usize,
    ) -> Option<Arc<Stream>> {
        let mut streams = self.streams.lock();
        if let Some(known) = streams.active.get(&hash) {
            known.last_seen.store(now.nanos(), Ordering::Relaxed);
            return Some(known.clone());
        }
        if streams.active.len() >= streams_max && now.since(TimestampNs::from_nanos(streams.swept_at)) >= SWEEP_PERIOD {
            streams.sweep(now, idle);
        }
        if streams.active.len() >= streams_max {
            return None;
        }
        let stream = Arc::new(Stream { last_seen: AtomicI64::new(now.nanos()), ..Stream::default() });
        streams.active.insert(hash, stream.clone());
        Some(stream)
    }
}

impl Streams {
    fn sweep(&mut self, now: TimestampNs, idle: Duration) {
        let oldest = now.minus(idle).nanos();
        self.active.retain(|_, stream| stream.last_seen.load(Ordering::Relaxed) >= oldest);
        self.swept_at = now.nanos();
    }
}

/// How many active streams a tenant may have on this gateway.
pub(crate) fn streams_max(limits: &Limits, gateway_count: u32) -> usize {
    let global = limits.max_global_streams_per_user.div_ceil(gateway_count.max(1));
    let positive = [limits.max_streams_per_user, global].into_iter().filter(|max| *max > 0);
    positive.min().map_or(usize::MAX, |max| max as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_come_and_go() {
        let tenants = Tenants::default();
        let (tenant, idle) = (tenants.get(&TenantId::new("t").unwrap()), Duration::from_secs(60));
        let at = |s: i64| TimestampNs::from_secs(1_000_000 + s);
        let admitted = |hash, s| tenant.stream(StreamHash(hash), at(s), idle, 2).is_some();
        assert!(admitted(1, 0) && admitted(2, 30) && !admitted(3, 40) && admitted(1, 50));
        assert_eq!(tenants.active()[0].1, 2);
        assert!(admitted(3, 95), "stream 2 is idle by now");
        assert!(!admitted(2, 96));
        tenants.sweep(at(1000), idle);
        assert!(tenants.active().is_empty());
    }

    #[test]
    fn limits_of_streams() {
        let check = |local, global, gateways, expected| {
            let limits =
                Limits { max_streams_per_user: local, max_global_streams_per_user: global, ..Limits::default() };
            assert_eq!(streams_max(&limits, gateways), expected);
        };
        check(0, 0, 1, usize::MAX);
        check(0, 5000, 2, 2500);
        check(100, 5000, 2, 100);
        check(100, 0, 1, 100);
        check(9000, 5000, 1, 5000);
    }
}
