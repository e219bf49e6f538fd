//! The faults that the server injects, and their counts.

use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// Settings of faults. The default injects none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FaultSettings {
    /// Share of requests, from 0 to 1, that are answered 500 or 503 in turn and not carried out.
    pub error_share: f64,
    /// Share of requests that are carried out but whose reply is lost: in turn, the connection is cut or 500 is answered.
    pub lose_reply_share: f64,
    /// Delay of slow requests before anything else happens.
    pub slow_ms: u64,
    /// Share of requests that are slow.
    pub slow_share: f64,
    /// Cuts every connection at its first request, before the request is carried out.
    pub down: bool,
    /// HTTP methods that these faults apply to; empty for all. `down` applies to all methods.
    pub methods: Vec<String>,
    /// Ignores `If-Match` and `If-None-Match` of puts, like a server without conditional writes.
    pub ignore_conditions: bool,
    /// Seed of the random numbers: the same requests in the same order meet the same faults.
    pub seed: Option<u64>,
}

impl Default for FaultSettings {
    fn default() -> Self {
        Self {
            error_share: 0.0,
            lose_reply_share: 0.0,
            slow_ms: 0,
            slow_share: 1.0,
            down: false,
            methods: Vec::new(),
            ignore_conditions: false,
            seed: None,
        }
    }
}

/// Counts of requests and of injected faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultCounts {
    /// Number of requests.
    pub requests: u64,
    /// Number of requests answered 500 and not carried out.
    pub errors: u64,
    /// Number of requests answered 503 `SlowDown` and not carried out.
    pub slow_downs: u64,
    /// Number of requests that were carried out before the connection was cut.
    pub replies_cut: u64,
    /// Number of requests that were carried out and answered 500.
    pub replies_replaced: u64,
    /// Number of delayed requests.
    pub slowed: u64,
    /// Number of requests cut because the server was "down".
    pub refused: u64,
}

/// The faults of a running server. Changes take effect with the next request.
#[derive(Debug, Default)]
pub struct S3Faults(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    settings: FaultSettings,
    counts: FaultCounts,
    random: fastrand::Rng,
}

/// What happens to one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RequestFate {
    pub(super) delay: Duration,
    pub(super) blow: Option<Blow>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blow {
    /// Cut the connection; do not carry out the request.
    Refuse,
    /// Answer 500; do not carry out the request.
    Error,
    /// Answer 503; do not carry out the request.
    SlowDown,
    /// Carry out the request, then cut the connection.
    CutReply,
    /// Carry out the request, then answer 500.
    ReplaceReply,
}

impl S3Faults {
    /// Replaces all settings.
    pub fn set(&self, settings: FaultSettings) {
        let mut state = self.0.lock();
        if let Some(seed) = settings.seed {
            state.random = fastrand::Rng::with_seed(seed);
        }
        state.settings = settings;
    }

    /// Changes some settings.
    pub fn change(&self, change: impl FnOnce(&mut FaultSettings)) {
        let mut settings = self.settings();
        settings.seed = None;
        change(&mut settings);
        self.set(settings);
    }

    /// Sets the share of requests that are answered 500 or 503 and not carried out.
    pub fn set_error_share(&self, share: f64) {
        self.change(|settings| settings.error_share = share);
    }

    /// Sets the share of requests that are carried out but whose reply is lost.
    pub fn set_lose_reply_share(&self, share: f64) {
        self.change(|settings| settings.lose_reply_share = share);
    }

    /// Delays every request.
    pub fn set_slow(&self, delay: Duration) {
        self.change(|settings| {
            settings.slow_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
            settings.slow_share = 1.0;
        });
    }

    /// Makes the whole server unreachable, or reachable again.
    pub fn set_down(&self, down: bool) {
        self.change(|settings| settings.down = down);
    }

    /// Sets the HTTP methods that faults apply to; empty for all.
    pub fn set_methods(&self, methods: &[&str]) {
        self.change(|settings| settings.methods = methods.iter().map(|method| (*method).to_owned()).collect());
    }

    /// Makes puts ignore their conditions, or not.
    pub fn set_ignore_conditions(&self, ignore: bool) {
        self.change(|settings| settings.ignore_conditions = ignore);
    }

    /// Removes all faults. Counts stay.
    pub fn clear(&self) {
        self.set(FaultSettings::default());
    }

    /// Returns the settings.
    pub fn settings(&self) -> FaultSettings {
        self.0.lock().settings.clone()
    }

    /// Returns the counts so far.
    pub fn counts(&self) -> FaultCounts {
        self.0.lock().counts
    }

    pub(super) fn ignores_conditions(&self) -> bool {
        self.0.lock().settings.ignore_conditions
    }

    /// Decides the fate of one request and counts it.
    pub(super) fn judge(&self, method: &str) -> RequestFate {
        let mut state = self.0.lock();
        let State { settings, counts, random } = &mut *state;
        counts.requests += 1;
        if settings.down {
            counts.refused += 1;
            return RequestFate { delay: Duration::ZERO, blow: Some(Blow::Refuse) };
        }
        if !settings.methods.is_empty() && !settings.methods.iter().any(|struck| struck.eq_ignore_ascii_case(method)) {
            return RequestFate::default();
        }
        // Always three random numbers, so that one setting does not change what the others do.
        let (slow, error, lose) = (random.f64(), random.f64(), random.f64());
        let mut verdict = RequestFate::default();
        if settings.slow_ms > 0 && slow < settings.slow_share {
            counts.slowed += 1;
            verdict.delay = Duration::from_millis(settings.slow_ms);
        }
        if error < settings.error_share {
            verdict.blow = Some(if counts.errors <= counts.slow_downs { Blow::Error } else { Blow::SlowDown });
        } else if lose < settings.lose_reply_share {
            let cut = counts.replies_cut <= counts.replies_replaced;
            verdict.blow = Some(if cut { Blow::CutReply } else { Blow::ReplaceReply });
        }
        match verdict.blow {
            Some(Blow::Error) => counts.errors += 1,
            Some(Blow::SlowDown) => counts.slow_downs += 1,
            Some(Blow::CutReply) => counts.replies_cut += 1,
            Some(Blow::ReplaceReply) => counts.replies_replaced += 1,
            Some(Blow::Refuse) | None => {}
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let check = |settings: FaultSettings, method: &str, expected: &[Option<Blow>]| {
            let faults = S3Faults::default();
            faults.set(settings);
            let found: Vec<_> = expected.iter().map(|_| faults.judge(method).blow).collect();
            assert_eq!(found, expected);
            assert_eq!(faults.counts().requests, expected.len() as u64);
        };
        let well = FaultSettings::default;
        check(well(), "PUT", &[None, None]);
        check(FaultSettings { down: true, ..well() }, "GET", &[Some(Blow::Refuse)]);
        let errors = FaultSettings { error_share: 1.0, lose_reply_share: 1.0, ..well() };
        check(errors.clone(), "PUT", &[Some(Blow::Error), Some(Blow::SlowDown), Some(Blow::Error)]);
        let lost = FaultSettings { lose_reply_share: 1.0, methods: vec!["put".to_owned()], ..well() };
        check(lost.clone(), "PUT", &[Some(Blow::CutReply), Some(Blow::ReplaceReply), Some(Blow::CutReply)]);
        check(lost, "GET", &[None]);
    }

    #[test]
    fn seeds_repeat() {
        let run = |seed: u64| {
            let faults = S3Faults::default();
            faults.set(FaultSettings { error_share: 0.3, seed: Some(seed), ..FaultSettings::default() });
            (0..50).map(|_| faults.judge("GET").blow.is_some()).collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    #[test]
    fn what_is_not_named_is_well() {
        let settings: FaultSettings = serde_json::from_str(r#"{"error_share": 0.5}"#).unwrap();
        assert_eq!(settings, FaultSettings { error_share: 0.5, ..FaultSettings::default() });
        assert!(serde_json::from_str::<FaultSettings>(r#"{"errors": 0.5}"#).is_err());
    }
}
