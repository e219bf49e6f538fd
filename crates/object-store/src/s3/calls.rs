//! The tries of one request: permits, breaker, time-outs, pauses, metrics.

use std::{error::Error, sync::Arc, time::Duration};

use aws_sdk_s3::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};
use model::Random;
use prometheus::IntGauge;
use tokio::{sync::Semaphore, time::Instant};

use super::{
    breaker::{Breaker, BreakerOpen},
    config::S3Config,
    failure::{AttemptFailure, FailureKind},
    metrics::{Metrics, RequestKind},
};

/// The least transfer speed for which time-outs allow.
const BYTES_PER_SECOND_MIN: u64 = 2_000_000;

/// Makes all requests of a store.
#[derive(Debug)]
pub(super) struct Calls {
    permits: Semaphore,
    breaker: Breaker,
    pub(super) metrics: Metrics,
    concurrency_max: usize,
    attempt_timeout: Duration,
    operation_timeout: Duration,
    attempts_max: u32,
    backoff: Duration,
    backoff_max: Duration,
    random: Arc<dyn Random>,
}

/// The failure of a request after all its tries.
#[derive(Debug)]
pub(super) struct RequestFailure {
    /// The failure of the last try.
    pub(super) last: AttemptFailure,
    /// The failure of an earlier try that may have taken effect.
    pub(super) unclear: Option<String>,
    pub(super) tries: u32,
    pub(super) elapsed: Duration,
}

impl RequestFailure {
    /// Describes the failure.
    pub(super) fn reason(&self) -> String {
        let mut text = self.last.text.clone();
        if self.tries > 1 {
            text.push_str(&format!("; {} tries in {:.1} s", self.tries, self.elapsed.as_secs_f64()));
        }
        text
    }
}

impl Calls {
    pub(super) fn new(config: &S3Config, metrics: Metrics, random: Arc<dyn Random>) -> Self {
        let concurrency_max = config.concurrency_max.get().min(Semaphore::MAX_PERMITS);
        Self {
            permits: Semaphore::new(concurrency_max),
            breaker: Breaker::new(config.breaker_failures, config.breaker_pause.into()),
            metrics,
            concurrency_max,
            attempt_timeout: config.attempt_timeout.into(),
            operation_timeout: config.operation_timeout.into(),
            attempts_max: config.attempts_max,
            backoff: config.backoff.into(),
            backoff_max: config.backoff_max.into(),
            random,
        }
    }

    /// Tries a request until it succeeds, fails for good, or runs out of tries or time.
    pub(super) async fn make<T, Attempt>(
        &self,
        request: RequestKind,
        mut attempt: impl FnMut() -> Attempt,
    ) -> Result<T, RequestFailure>
    where
        Attempt: Future<Output = Result<T, AttemptFailure>>,
    {
        let started = Instant::now();
        let deadline = started + self.operation_timeout;
        let mut unclear = None;
        let mut tries = 0;
        loop {
            let outcome = self.make_once(request, deadline, attempt()).await;
            let last = match outcome {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            tries += 1;
            let pause = self.pause(tries);
            let is_over = tries >= self.attempts_max || Instant::now() + pause >= deadline;
            // After a conflict, the completion of an upload is not retried: the parts must be uploaded again.
            let is_final = !last.kind.is_passing()
                || (request == RequestKind::CompleteUpload && last.kind == FailureKind::Conflict);
            if is_final || is_over {
                return Err(RequestFailure { last, unclear, tries, elapsed: started.elapsed() });
            }
            tracing::debug!(request = request.as_str(), tries, reason = last.text, "retrying a request to S3");
            self.metrics.retried(request);
            if last.kind.is_unclear() {
                unclear = Some(last.text);
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn make_once<T>(
        &self,
        request: RequestKind,
        deadline: Instant,
        attempt: impl Future<Output = Result<T, AttemptFailure>>,
    ) -> Result<T, AttemptFailure> {
        let _permit = {
            let _waiting = GaugeGuard::new(&self.metrics.waiting);
            match tokio::time::timeout_at(deadline, self.permits.acquire()).await {
                Ok(permit) => permit.expect("the semaphore is never closed"),
                Err(_) => {
                    let text =
                        format!("not sent, since {} requests were in flight (concurrency_max)", self.concurrency_max);
                    return Err(self.not_asked(request, FailureKind::Crowded, text));
                }
            }
        };
        let pass = match self.breaker.ask(Instant::now()) {
            Ok(pass) => pass,
            Err(BreakerOpen(last)) => {
                let text = format!("not sent, since many requests in a row failed; the last failure: {last}");
                return Err(self.not_asked(request, FailureKind::Refused, text));
            }
        };
        let _in_flight = GaugeGuard::new(&self.metrics.in_flight);
        let started = Instant::now();
        let outcome = match tokio::time::timeout_at(deadline, attempt).await {
            Ok(outcome) => outcome,
            Err(_) => Err(AttemptFailure::timed_out(self.operation_timeout, "an answer, all tries together,")),
        };
        self.metrics.ended(request, started.elapsed().as_secs_f64(), outcome.as_ref().err());
        let mut opened = false;
        match &outcome {
            Err(failure) if failure.kind.is_of_the_server() => {
                opened = pass.failed(Instant::now(), &failure.text);
                if opened {
                    tracing::warn!(reason = failure.text, "the object store does not answer; requests fail at once");
                }
            }
            _ => {
                if pass.answered() {
                    tracing::info!("the object store answers again");
                }
            }
        }
        self.metrics.breaker(self.breaker.state(), opened);
        outcome
    }

    fn not_asked(&self, request: RequestKind, kind: FailureKind, text: String) -> AttemptFailure {
        let failure = AttemptFailure { kind, text };
        self.metrics.counted(request, Some(&failure));
        failure
    }

    /// The pause after this many tries: anything up to a bound that doubles ("full jitter").
    ///
    /// `runtime::Backoff` would pause for at least a quarter of the bound. Here the many clients of one bucket should
    /// spread over the whole interval.
    fn pause(&self, tries: u32) -> Duration {
        let bound = self.backoff.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(self.backoff_max);
        bound.mul_f64(self.random.fraction())
    }

    /// Sends one request with this many bytes and waits for the head of the answer.
    pub(super) async fn answer<T, E>(
        &self,
        sent_bytes: u64,
        send: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T, AttemptFailure>
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        self.metrics.sent_bytes.inc_by(sent_bytes);
        self.answer_for(sent_bytes, send).await
    }

    /// Like [`Calls::answer`], for a request that does not send these bytes but takes as long as if it did.
    pub(super) async fn answer_for<T, E>(
        &self,
        bytes: u64,
        send: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T, AttemptFailure>
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let limit = self.attempt_timeout + Duration::from_millis(bytes * 1000 / BYTES_PER_SECOND_MIN);
        match tokio::time::timeout(limit, send).await {
            Ok(answer) => answer.map_err(|error| AttemptFailure::of(&error)),
            Err(_) => Err(AttemptFailure::timed_out(limit, "an answer")),
        }
    }

    /// Waits for the next bytes of an answer.
    pub(super) async fn next<T>(&self, next: impl Future<Output = T>) -> Result<T, AttemptFailure> {
        let limit = self.attempt_timeout;
        tokio::time::timeout(limit, next)
            .await
            .map_err(|_| AttemptFailure::timed_out(limit, "the next bytes of an answer"))
    }
}

/// Raises a gauge by one until it is dropped.
struct GaugeGuard<'a>(&'a IntGauge);

impl<'a> GaugeGuard<'a> {
    fn new(gauge: &'a IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for GaugeGuard<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use limits::PromDuration;
    use model::SystemRandom;

    use super::*;

    fn calls(change: fn(&mut S3Config)) -> Calls {
        let mut config = S3Config { attempts_max: 4, ..S3Config::default() };
        change(&mut config);
        Calls::new(&config, Metrics::new(None).unwrap(), Arc::new(SystemRandom))
    }

    fn fails(kind: FailureKind) -> Result<(), AttemptFailure> {
        Err(AttemptFailure { kind, text: format!("{kind:?}") })
    }

    /// Makes a request whose tries have these outcomes, in order. The last outcome repeats.
    async fn make(calls: &Calls, outcomes: &[Result<(), FailureKind>]) -> (Result<(), RequestFailure>, usize) {
        let made = AtomicU32::new(0);
        let outcome = calls
            .make(RequestKind::Put, || {
                let i = made.fetch_add(1, Ordering::Relaxed) as usize;
                let outcome = outcomes[i.min(outcomes.len() - 1)];
                async move { outcome.or_else(fails) }
            })
            .await;
        (outcome, made.load(Ordering::Relaxed) as usize)
    }

    #[tokio::test(start_paused = true)]
    async fn tries() {
        let check = async |outcomes: &[Result<(), FailureKind>],
                           expected: Result<(), (FailureKind, Option<&str>)>,
                           made: usize| {
            let (outcome, found) = make(&calls(|_| {}), outcomes).await;
            let outcome = outcome.map_err(|failed| (failed.last.kind, failed.unclear));
            assert_eq!(outcome, expected.map_err(|(kind, unclear)| (kind, unclear.map(str::to_owned))), "{outcomes:?}");
            assert_eq!(found, made, "{outcomes:?}");
        };
        use FailureKind::{Conflict, Denied, Precondition, Server, Throttled, TimedOut, Transport};
        check(&[Ok(())], Ok(()), 1).await;
        check(&[Err(Denied)], Err((Denied, None)), 1).await;
        check(&[Err(Precondition)], Err((Precondition, None)), 1).await;
        check(&[Err(Throttled), Err(TimedOut), Ok(())], Ok(()), 3).await;
        check(&[Err(Server)], Err((Server, Some("Server"))), 4).await;
        check(&[Err(Transport), Err(Precondition)], Err((Precondition, Some("Transport"))), 2).await;
        check(&[Err(Conflict), Err(Precondition)], Err((Precondition, None)), 2).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_of_an_operation_is_bounded() {
        let calls = calls(|c| {
            c.attempts_max = 1000;
            c.operation_timeout = PromDuration::from_secs(20);
        });
        let started = Instant::now();
        let outcome = calls.make(RequestKind::Get, std::future::pending::<Result<(), AttemptFailure>>).await;
        assert_eq!(outcome.unwrap_err().last.kind, FailureKind::TimedOut);
        assert_eq!(started.elapsed().as_secs(), 20);
        let failed = make(&calls, &[Err(FailureKind::Conflict)]).await.0.unwrap_err();
        assert!(failed.tries < 1000 && failed.elapsed.as_secs() <= 20, "{failed:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_breaker_sends_no_request() {
        let calls = calls(|c| {
            c.breaker_failures = 3;
            c.breaker_pause = PromDuration::from_secs(30);
        });
        let (outcome, made) = make(&calls, &[Err(FailureKind::Server)]).await;
        let failed = outcome.unwrap_err();
        assert_eq!((failed.last.kind, made), (FailureKind::Refused, 4), "the fourth try is prepared but not sent");
        assert!(failed.reason().contains("the last failure: Server"), "{}", failed.reason());
        assert!(failed.unclear.is_some());
        tokio::time::advance(Duration::from_secs(30)).await;
        assert!(make(&calls, &[Ok(())]).await.0.is_ok());
        // The server's refusals are answers, so they do not open the breaker.
        for _ in 0..10 {
            assert_eq!(make(&calls, &[Err(FailureKind::Precondition)]).await.1, 1);
        }
        assert!(make(&calls, &[Ok(())]).await.0.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_for_a_permit_is_bounded() {
        let calls = calls(|c| c.concurrency_max = std::num::NonZeroUsize::MIN);
        let hang = calls.make(RequestKind::Get, std::future::pending::<Result<(), AttemptFailure>>);
        let second = async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert_eq!((calls.metrics.in_flight.get(), calls.metrics.waiting.get()), (1, 0));
            let second = make(&calls, &[Ok(())]);
            tokio::time::timeout(Duration::from_secs(10), second).await.unwrap_err();
        };
        tokio::select! {
            biased;
            _ = hang => unreachable!("it hangs for 60 s"),
            () = second => {}
        }
        assert_eq!((calls.metrics.in_flight.get(), calls.metrics.waiting.get()), (0, 0));
        assert!(make(&calls, &[Ok(())]).await.0.is_ok(), "the permit was not released");
    }
}
