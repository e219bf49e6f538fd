//! What the gateway remembers of each tenant: its rate, its part of the limits, its active streams and their rates.
//!
//! It is all in memory and may be lost: a restarted gateway forgets who was near a limit, nothing else.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use limits::Limits;
use model::{StreamHash, TenantId, TimestampNs};
use parking_lot::Mutex;

use crate::bucket::Bucket;
use crate::rates::updated;
use crate::route::Placement;
use crate::sharding::Sharding;

/// All tenants that pushed lately.
#[derive(Debug, Default)]
pub(crate) struct Tenants(DashMap<TenantId, Arc<Tenant>>);

/// One tenant.
#[derive(Debug, Default)]
pub(crate) struct Tenant {
    pub(crate) bucket: Bucket,
    streams: Mutex<Streams>,
    /// Bytes that passed validation since they were last measured, taken or not.
    pub(crate) offered: AtomicU64,
    /// The part of its limits that is this gateway's, as the bits of a float; 0 when it is not measured yet.
    share: AtomicU64,
    /// How many partitions it is spread over; 0 when it is not measured yet.
    pub(crate) shards: AtomicU32,
    pub(crate) measured: Mutex<TenantRate>,
}

/// The measured rate of a tenant, and the number of partitions that follows from it.
#[derive(Debug, Default)]
pub(crate) struct TenantRate {
    rate: f64,
    measured_at: Option<Instant>,
    pub(crate) sharding: Sharding,
}

#[derive(Debug, Default)]
struct Streams {
    active: HashMap<StreamHash, Arc<ActiveStream>>,
    /// When idle streams were last looked for, so that a tenant at its limit does not pay for it with every push.
    swept_at: i64,
}

/// What a tenant has now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Active {
    pub(crate) tenant: TenantId,
    pub(crate) streams: usize,
    pub(crate) shards: u32,
}

/// One active stream.
#[derive(Debug, Default)]
pub(crate) struct ActiveStream {
    pub(crate) bucket: Bucket,
    pub(crate) placement: Placement,
    last_seen: AtomicI64,
    meter: StreamMeter,
}

/// How fast a stream comes: bytes of the second that runs, and a mean of those before.
///
/// Requests that come at the same moment may count a second's bytes to its neighbour; the mean does not care.
#[derive(Debug, Default)]
struct StreamMeter {
    bytes: AtomicU64,
    /// Seconds since the epoch, without their high bits.
    second: AtomicU32,
    /// The bits of a float.
    rate: AtomicU32,
    turns: AtomicU32,
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

    pub(crate) fn for_each(&self, mut look: impl FnMut(&TenantId, &Tenant)) {
        self.0.iter().for_each(|tenant| look(tenant.key(), tenant.value()));
    }

    /// How many streams and how many partitions each tenant has.
    pub(crate) fn active(&self) -> Vec<Active> {
        let active = |tenant: &Tenant| (tenant.streams.lock().active.len(), tenant.shards.load(Ordering::Relaxed));
        let mut all = Vec::new();
        self.for_each(|name, tenant| {
            let (streams, shards) = active(tenant);
            all.push(Active { tenant: name.clone(), streams, shards });
        });
        all
    }
}

impl Tenant {
    /// The part of its limits that is this gateway's, if it is measured.
    pub(crate) fn share(&self) -> Option<f64> {
        let share = f64::from_bits(self.share.load(Ordering::Relaxed));
        (share > 0.0).then_some(share)
    }

    pub(crate) fn set_share(&self, share: f64) {
        self.share.store(share.to_bits(), Ordering::Relaxed);
    }

    /// The stream, which is active now; `None` when it would be one more than `streams_max`.
    pub(crate) fn stream(
        &self,
        hash: StreamHash,
        now: TimestampNs,
        idle: Duration,
        streams_max: usize,
    ) -> Option<Arc<ActiveStream>> {
        let mut streams = self.streams.lock();
        if let Some(known) = streams.active.get(&hash) {
            known.last_seen.store(now.nanos(), Ordering::Relaxed);
            known.meter.roll(now);
            return Some(known.clone());
        }
        if streams.active.len() >= streams_max && now.since(TimestampNs::from_nanos(streams.swept_at)) >= SWEEP_PERIOD {
            streams.sweep(now, idle);
        }
        if streams.active.len() >= streams_max {
            return None;
        }
        let meter = StreamMeter { second: AtomicU32::new(second(now)), ..StreamMeter::default() };
        let stream =
            Arc::new(ActiveStream { last_seen: AtomicI64::new(now.nanos()), meter, ..ActiveStream::default() });
        streams.active.insert(hash, stream.clone());
        Some(stream)
    }
}

impl TenantRate {
    /// The rate when `bytes` came since this was last asked, bytes a second.
    pub(crate) fn measure(&mut self, bytes: u64, now: Instant) -> f64 {
        let before = self.measured_at.replace(now);
        // Of the first bytes nobody knows how long they took: they count as a second's.
        let seconds = before.map_or(1.0, |before| now.saturating_duration_since(before).as_secs_f64());
        self.rate = updated(self.rate, bytes, seconds);
        self.rate
    }
}

impl ActiveStream {
    /// So many bytes of it came.
    pub(crate) fn came(&self, bytes: u64) {
        self.meter.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How fast it came lately, bytes a second; as of the last whole second.
    pub(crate) fn rate(&self) -> f32 {
        f32::from_bits(self.meter.rate.load(Ordering::Relaxed))
    }

    /// Counts up, for whoever spreads it.
    pub(crate) fn turn(&self) -> usize {
        self.meter.turns.fetch_add(1, Ordering::Relaxed) as usize
    }
}

impl StreamMeter {
    /// Brings the mean up to date when a second is over.
    fn roll(&self, now: TimestampNs) {
        let second = second(now);
        if second == self.second.load(Ordering::Relaxed) {
            return;
        }
        let before = self.second.swap(second, Ordering::Relaxed);
        // A clock that goes back counts as a second.
        let seconds = second.wrapping_sub(before).cast_signed().max(1);
        let rate = f32::from_bits(self.rate.load(Ordering::Relaxed));
        let rate = updated(rate.into(), self.bytes.swap(0, Ordering::Relaxed), seconds.into());
        self.rate.store((rate as f32).to_bits(), Ordering::Relaxed);
    }
}

fn second(now: TimestampNs) -> u32 {
    now.nanos().div_euclid(1_000_000_000) as u32
}

impl Streams {
    fn sweep(&mut self, now: TimestampNs, idle: Duration) {
        let oldest = now.minus(idle).nanos();
        self.active.retain(|_, stream| stream.last_seen.load(Ordering::Relaxed) >= oldest);
        self.swept_at = now.nanos();
    }
}

/// How many active streams a tenant may have on this gateway.
pub(crate) fn streams_max(limits: &Limits, share: f64) -> usize {
    let global = (f64::from(limits.max_global_streams_per_user) * share).ceil() as u32;
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
        assert_eq!(tenants.active()[0].streams, 2);
        assert!(admitted(3, 95), "stream 2 is idle by now");
        assert!(!admitted(2, 96));
        tenants.sweep(at(1000), idle);
        assert!(tenants.active().is_empty());
    }

    #[test]
    fn limits_of_streams() {
        let check = |local, global, share, expected| {
            let limits =
                Limits { max_streams_per_user: local, max_global_streams_per_user: global, ..Limits::default() };
            assert_eq!(streams_max(&limits, share), expected);
        };
        check(0, 0, 1.0, usize::MAX);
        check(0, 5000, 0.5, 2500);
        check(0, 5, 0.5, 3);
        check(0, 5, 1e-9, 1);
        check(100, 5000, 0.5, 100);
        check(100, 0, 1.0, 100);
        check(9000, 5000, 1.0, 5000);
    }

    #[test]
    fn rates_of_streams() {
        let (tenant, idle) = (Tenant::default(), Duration::from_secs(60));
        let at = |ms: i64| TimestampNs::from_millis(1_790_000_000_000 + ms);
        let stream = |ms| tenant.stream(StreamHash(1), at(ms), idle, 2).unwrap();
        // A hundred bytes ten times a second.
        (0..600).for_each(|i| stream(100 * i).came(100));
        let rate = stream(60_000).rate();
        assert!((990.0..1001.0).contains(&rate), "{rate}");
        assert_eq!(stream(60_999).rate(), rate, "a mean of whole seconds");
        assert!((300.0..400.0).contains(&stream(70_000).rate()));
        // Clocks that jump, far or back, leave a rate.
        assert!(stream(10_000).rate() < 400.0 && stream(-1 << 40).rate() >= 0.0 && stream(1 << 42).rate() < 1.0);
        assert_eq!([stream(0).turn(), stream(0).turn()], [0, 1]);
    }

    #[test]
    fn rates_of_tenants() {
        let (mut rate, start) = (TenantRate::default(), Instant::now());
        let mut after = |second: u64, bytes| rate.measure(bytes, start + Duration::from_secs(second)) as u64;
        assert_eq!((after(0, 1000), after(10, 10_000), after(10, 5), after(1000, 0)), (95, 667, 667, 0));
    }

    #[test]
    fn shares_are_known_once_measured() {
        let tenant = Tenant::default();
        assert_eq!(tenant.share(), None);
        tenant.set_share(0.25);
        assert_eq!(tenant.share(), Some(0.25));
    }
}
