//! Stops asking a server that does not answer.
//!
//! Closed: requests pass; failures in a row are counted. After [`Breaker::new`]'s number of them it opens: requests are
//! refused at once. When the pause is over one request may pass as a probe: its success closes the breaker, its failure
//! opens it for another pause. A probe that was dropped before it ended makes room for the next.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Shared by all requests of a store.
#[derive(Debug)]
pub(super) struct Breaker {
    failures_max: u32,
    pause: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// Failures in a row so far.
    Closed { failures: u32 },
    /// Refuses until then.
    Open { until: Instant, last: String },
    /// One request is on its way to see.
    Probing { last: String },
}

/// How the breaker stands, as numbers for its metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Closed = 0,
    Probing = 1,
    Open = 2,
}

/// Why a request was refused: what the last failure said.
#[derive(Debug)]
pub(super) struct Refused(pub(super) String);

/// Leave to make one request. Say how it ended; dropping it says nothing about the server.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    breaker: &'a Breaker,
    is_probe: bool,
    is_reported: bool,
}

impl Breaker {
    /// Opens after `failures_max` failures in a row (0: never), for `pause`.
    pub(super) fn new(failures_max: u32, pause: Duration) -> Self {
        Self { failures_max, pause, state: Mutex::new(State::Closed { failures: 0 }) }
    }

    /// Asks for leave.
    pub(super) fn ask(&self, now: Instant) -> Result<Pass<'_>, Refused> {
        let mut state = self.state.lock();
        let is_probe = match &*state {
            State::Closed { .. } => false,
            State::Open { until, last } if *until <= now => {
                *state = State::Probing { last: last.clone() };
                true
            }
            State::Open { last, .. } | State::Probing { last } => return Err(Refused(last.clone())),
        };
        Ok(Pass { breaker: self, is_probe, is_reported: false })
    }

    /// How it stands.
    pub(super) fn standing(&self) -> Standing {
        match &*self.state.lock() {
            State::Closed { .. } => Standing::Closed,
            State::Probing { .. } => Standing::Probing,
            State::Open { .. } => Standing::Open,
        }
    }
}

impl Pass<'_> {
    /// The server answered. True when that closed the breaker.
    pub(super) fn answered(mut self) -> bool {
        self.is_reported = true;
        let mut state = self.breaker.state.lock();
        let was_closed = matches!(*state, State::Closed { .. });
        // A request from before the breaker opened says as much as a probe: the server answers.
        *state = State::Closed { failures: 0 };
        !was_closed
    }

    /// It did not, or with an error of its own. True when that opened the breaker.
    pub(super) fn failed(mut self, now: Instant, last: &str) -> bool {
        self.is_reported = true;
        let Breaker { failures_max, pause, .. } = *self.breaker;
        let mut state = self.breaker.state.lock();
        let open = || State::Open { until: now + pause, last: last.to_owned() };
        match &mut *state {
            State::Closed { failures } => {
                *failures = failures.saturating_add(1);
                if failures_max == 0 || *failures < failures_max {
                    return false;
                }
                *state = open();
                true
            }
            State::Probing { .. } if self.is_probe => {
                *state = open();
                false
            }
            // Requests from before it opened fail as was to be expected.
            State::Probing { .. } | State::Open { .. } => false,
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.is_reported || !self.is_probe {
            return;
        }
        let mut state = self.breaker.state.lock();
        if let State::Probing { last } = &mut *state {
            let last = std::mem::take(last);
            // The pause is over already: the next request probes.
            *state = State::Open { until: Instant::now(), last };
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
        assert!(!fail(&breaker, now) && !fail(&breaker, now), "an answer in between starts the count anew");
        let early = breaker.ask(now).unwrap();
        assert!(fail(&breaker, now), "the third opens it");
        assert_eq!(breaker.standing(), Standing::Open);
        assert_eq!(breaker.ask(now + PAUSE / 2).unwrap_err().0, "down");
        assert!(!early.failed(now, "late"), "what began before says nothing new");

        let later = now + PAUSE;
        let probe = breaker.ask(later).unwrap();
        assert_eq!(breaker.standing(), Standing::Probing);
        assert!(breaker.ask(later).is_err(), "one probe at once");
        assert!(!probe.failed(later, "still down"));
        assert_eq!(breaker.ask(later + PAUSE / 2).unwrap_err().0, "still down");
        assert!(breaker.ask(later + PAUSE).unwrap().answered());
        assert_eq!(breaker.standing(), Standing::Closed);
        assert!(!fail(&breaker, later), "closed, it counts from 0");
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_probe_makes_room() {
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
