//! What goes wrong on purpose, and how often it did.

use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// What goes wrong. The default: nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FaultSettings {
    /// Share of requests, from 0 to 1, that are answered 500 or 503 (by turns) and not carried out.
    pub error_share: f64,
    /// Share of requests that are carried out, but whose answer is lost: the connection is cut, or 500 is answered, by
    /// turns.
    pub lose_reply_share: f64,
    /// So long struck requests wait before anything else.
    pub slow_ms: u64,
    /// Share of requests that `slow_ms` strikes.
    pub slow_share: f64,
    /// Every connection is cut at its first request, before the request is carried out.
    pub down: bool,
    /// HTTP methods that the above strike; empty for all. `down` strikes all.
    pub methods: Vec<String>,
    /// `If-Match` and `If-None-Match` of puts are ignored, as servers do that do not know them.
    pub ignore_conditions: bool,
    /// Starts the random numbers anew, so that the same requests in the same order meet the same faults.
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

/// How many requests came, and what was done to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultCounts {
    /// Requests in all.
    pub requests: u64,
    /// Answered 500 before the effect.
    pub errors: u64,
    /// Answered 503 `SlowDown` before the effect.
    pub slow_downs: u64,
    /// Carried out, then the connection was cut.
    pub replies_cut: u64,
    /// Carried out, then answered 500.
    pub replies_replaced: u64,
    /// Made to wait.
    pub slowed: u64,
    /// Cut since the server was "down".
    pub refused: u64,
}

/// The faults of a running server. Setters take effect with the next request.
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
pub(super) struct Verdict {
    pub(super) delay: Duration,
    pub(super) blow: Option<Blow>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blow {
    /// Cut, not carried out.
    Refuse,
    /// 500, not carried out.
    Error,
    /// 503, not carried out.
    SlowDown,
    /// Carried out, then cut.
    CutReply,
    /// Carried out, then 500.
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

    /// Share of requests answered 500 or 503, not carried out.
    pub fn set_error_share(&self, share: f64) {
        self.change(|settings| settings.error_share = share);
    }

    /// Share of requests that are carried out but whose answer is lost.
    pub fn set_lose_reply_share(&self, share: f64) {
        self.change(|settings| settings.lose_reply_share = share);
    }

    /// Every request waits so long.
    pub fn set_slow(&self, delay: Duration) {
        self.change(|settings| {
            settings.slow_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
            settings.slow_share = 1.0;
        });
    }

    /// The whole server is away, or back.
    pub fn set_down(&self, down: bool) {
        self.change(|settings| settings.down = down);
    }

    /// Which HTTP methods are struck; empty for all.
    pub fn set_methods(&self, methods: &[&str]) {
        self.change(|settings| settings.methods = methods.iter().map(|method| (*method).to_owned()).collect());
    }

    /// Conditions of puts are ignored.
    pub fn set_ignore_conditions(&self, ignore: bool) {
        self.change(|settings| settings.ignore_conditions = ignore);
    }

    /// All is well again. Counts stay.
    pub fn clear(&self) {
        self.set(FaultSettings::default());
    }

    /// What is set.
    pub fn settings(&self) -> FaultSettings {
        self.0.lock().settings.clone()
    }

    /// What happened so far.
    pub fn counts(&self) -> FaultCounts {
        self.0.lock().counts
    }

    pub(super) fn ignores_conditions(&self) -> bool {
        self.0.lock().settings.ignore_conditions
    }

    /// Decides about one request and counts it.
    pub(super) fn judge(&self, method: &str) -> Verdict {
        let mut state = self.0.lock();
        let State { settings, counts, random } = &mut *state;
        counts.requests += 1;
        if settings.down {
            counts.refused += 1;
            return Verdict { delay: Duration::ZERO, blow: Some(Blow::Refuse) };
        }
        if !settings.methods.is_empty() && !settings.methods.iter().any(|struck| struck.eq_ignore_ascii_case(method)) {
            return Verdict::default();
        }
        // Always three numbers, so that one setting does not move the others' fate.
        let (slow, error, lose) = (random.f64(), random.f64(), random.f64());
        let mut verdict = Verdict::default();
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
