//! A circuit breaker, which stops requests to a server that does not answer.
//!
//! While it is closed, requests pass and it counts failures in a row. After a number of them it opens and refuses
//! requests at once. After a pause it lets one request pass as a probe. If the probe succeeds, the breaker closes; if it
//! fails, the breaker stays open for another pause. If the probe is dropped before it ends, the next request is a probe.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The breaker, which all requests of a store share.
#[derive(Debug)]
pub(super) struct Breaker {
    failures_max: u32,
    pause: Duration,
    state: Mutex<Phase>,
}

#[derive(Debug)]
enum Phase {
    /// Requests pass. There were this many failures in a row.
    Closed { failures: u32 },
    /// Requests are refused until this time.
    Open { until: Instant, last: String },
    /// A probe is in flight. Other requests are refused.
    Probing { last: String },
}

/// The state of the breaker, as a number for its metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BreakerState {
    Closed = 0,
    Probing = 1,
    Open = 2,
}

/// The breaker refused a request. Contains the text of the last failure.
#[derive(Debug)]
pub(super) struct BreakerOpen(pub(super) String);

/// The permission to send one request. The caller reports how the request ended. Dropping the pass without a report says
/// nothing about the server.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    breaker: &'a Breaker,
    is_probe: bool,
    is_reported: bool,
}

impl Breaker {
    /// A closed breaker that opens for `pause` after `failures_max` failures in a row, or never if that is 0.
    pub(super) fn new(failures_max: u32, pause: Duration) -> Self {
        Self { failures_max, pause, state: Mutex::new(Phase::Closed { failures: 0 }) }
    }

    /// Asks for permission to send a request.
    pub(super) fn ask(&self, now: Instant) -> Result<Pass<'_>, BreakerOpen> {
        let mut state = self.state.lock();
        let is_probe = match &*state {
            Phase::Closed { .. } => false,
            Phase::Open { until, last } if *until <= now => {
                *state = Phase::Probing { last: last.clone() };
                true
            }
            Phase::Open { last, .. } | Phase::Probing { last } => return Err(BreakerOpen(last.clone())),
        };
        Ok(Pass { breaker: self, is_probe, is_reported: false })
    }

    /// The current state.
    pub(super) fn state(&self) -> BreakerState {
        match &*self.state.lock() {
            Phase::Closed { .. } => BreakerState::Closed,
            Phase::Probing { .. } => BreakerState::Probing,
            Phase::Open { .. } => BreakerState::Open,
        }
    }
}

impl Pass<'_> {
    /// Reports that the server answered. Returns true if this closed the breaker.
    pub(super) fn answered(mut self) -> bool {
        self.is_reported = true;
        let mut state = self.breaker.state.lock();
        let was_closed = matches!(*state, Phase::Closed { .. });
        // Even if the request was sent before the breaker opened, its answer shows that the server works.
        *state = Phase::Closed { failures: 0 };
        !was_closed
    }

    /// Reports that the server did not answer, or failed. Returns true if this opened the breaker.
    pub(super) fn failed(mut self, now: Instant, last: &str) -> bool {
        self.is_reported = true;
        let Breaker { failures_max, pause, .. } = *self.breaker;
        let mut state = self.breaker.state.lock();
        let open = || Phase::Open { until: now + pause, last: last.to_owned() };
        match &mut *state {
            Phase::Closed { failures } => {
                *failures = failures.saturating_add(1);
                if failures_max == 0 || *failures < failures_max {
                    return false;
                }
                *state = open();
                true
            }
            Phase::Probing { .. } if self.is_probe => {
                *state = open();
                false
            }
            // The request was sent before the breaker opened, so its failure is nothing new.
            Phase::Probing { .. } | Phase::Open { .. } => false,
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.is_reported || !self.is_probe {
            return;
        }
        let mut state = self.breaker.state.lock();
        if let Phase::Probing { last } = &mut *state {
            let last = std::mem::take(last);
            // The pause is already over, so the next request is a probe.
            *state = Phase::Open { until: Instant::now(), last };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(5);

    fn fail(breaker: &Breaker, now: Instant) -> bool {
        breaker.ask(now).unwrap().failed(now, "down")
    }

    #[test]
    fn opens_after_failures_in_a_row_and_closes_after_a_probe() {
        let (breaker, now) = (Breaker::new(3, PAUSE), Instant::now());
        assert!(!fail(&breaker, now) && !fail(&breaker, now));
        assert!(!breaker.ask(now).unwrap().answered());
        assert!(!fail(&breaker, now) && !fail(&breaker, now), "an answer in between resets the count");
        let early = breaker.ask(now).unwrap();
        assert!(fail(&breaker, now), "the third opens it");
        assert_eq!(breaker.state(), BreakerState::Open);
        assert_eq!(breaker.ask(now + PAUSE / 2).unwrap_err().0, "down");
        assert!(!early.failed(now, "late"), "the failure of an earlier request is nothing new");

        let later = now + PAUSE;
        let probe = breaker.ask(later).unwrap();
        assert_eq!(breaker.state(), BreakerState::Probing);
        assert!(breaker.ask(later).is_err(), "only one probe at a time");
        assert!(!probe.failed(later, "still down"));
        assert_eq!(breaker.ask(later + PAUSE / 2).unwrap_err().0, "still down");
        assert!(breaker.ask(later + PAUSE).unwrap().answered());
        assert_eq!(breaker.state(), BreakerState::Closed);
        assert!(!fail(&breaker, later), "a closed breaker counts from 0");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_dropped_probe_the_next_request_is_a_probe() {
        let (breaker, now) = (Breaker::new(1, PAUSE), Instant::now());
        assert!(fail(&breaker, now));
        tokio::time::advance(PAUSE).await;
        drop(breaker.ask(Instant::now()).unwrap());
        assert!(breaker.ask(Instant::now()).unwrap().answered());
    }

    #[test]
    fn zero_never_opens() {
        let (breaker, now) = (Breaker::new(0, PAUSE), Instant::now());
        assert!((0..1000).all(|_| !fail(&breaker, now)));
    }
}
