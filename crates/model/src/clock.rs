//! The clock component.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::TimestampNs;

/// A source of the current time. Services receive one with their components, so tests can control the time.
pub trait Clock: Send + Sync + 'static {
    /// Returns the current time.
    fn now(&self) -> TimestampNs;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks the machine")]
    fn now(&self) -> TimestampNs {
        let now = std::time::SystemTime::now();
        let since_epoch = now.duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        TimestampNs::from_nanos(i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX))
    }
}

/// A clock for tests, which changes only when it is set or advanced.
#[derive(Debug)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// Creates a clock that is set to `start`.
    pub const fn new(start: TimestampNs) -> Self {
        Self(AtomicI64::new(start.nanos()))
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.set(self.now().plus(by));
    }

    /// Sets the clock, backward or forward.
    pub fn set(&self, to: TimestampNs) {
        self.0.store(to.nanos(), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> TimestampNs {
        TimestampNs::from_nanos(self.0.load(Ordering::SeqCst))
    }
}
