//! The one pool of processors of a process.
//!
//! Work that computes for longer than some tens of microseconds runs here, on tokio's blocking threads, so that async
//! threads stay free. A piece of work runs when it gets a *turn*. The pool has as many turns as the machine has
//! processors, and one more for each kind of work: whatever the other kinds do, one piece of each kind can run.

use std::{fmt, num::NonZeroUsize, sync::Arc, time::Instant};

use prometheus::{HistogramOpts, HistogramVec, IntGaugeVec, Opts, Registry};
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The pool. Clones are the same pool.
#[derive(Clone)]
pub struct Processors(Arc<Pool>);

struct Pool {
    turns: Arc<Semaphore>,
    count: usize,
    running: IntGaugeVec,
    wait_seconds: HistogramVec,
}

/// What one kind of work may use of the pool. Clones share one bound.
#[derive(Clone)]
pub struct Share {
    pool: Processors,
    kind: &'static str,
    /// Bounds this kind of work, whatever else is free.
    bound: Arc<Semaphore>,
    /// The turn that no other kind can take.
    own_turn: Arc<Semaphore>,
}

/// The right to run one piece of work now.
#[must_use = "a turn that is not used blocks others until it is dropped"]
pub struct Turn {
    share: Share,
    _bound: OwnedSemaphorePermit,
    _turn: OwnedSemaphorePermit,
}

/// A piece of work did not come to its end: it panicked, or the runtime shuts down.
#[derive(Debug, Error)]
#[error("a piece of work ({kind}) was lost: {reason}")]
pub struct WorkLost {
    /// The kind of work.
    pub kind: &'static str,
    /// What tokio says about it.
    pub reason: String,
}

impl Processors {
    /// A pool with this many turns.
    pub fn new(count: NonZeroUsize) -> Self {
        let running = Opts::new("millrace_processors_running", "Pieces of work that run now, by kind.");
        let wait =
            HistogramOpts::new("millrace_processors_wait_seconds", "Seconds a piece of work waited for its turn.")
                .buckets(vec![0.000_1, 0.001, 0.01, 0.1, 1.0, 10.0]);
        Self(Arc::new(Pool {
            turns: Arc::new(Semaphore::new(count.get())),
            count: count.get(),
            running: IntGaugeVec::new(running, &["kind"]).expect("the metric is well-formed"),
            wait_seconds: HistogramVec::new(wait, &["kind"]).expect("the metric is well-formed"),
        }))
    }

    /// A pool with one turn for each processor that this process may use.
    pub fn of_machine() -> Self {
        Self::new(std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN))
    }

    /// Number of turns, not counting those that belong to one kind of work.
    pub fn count(&self) -> usize {
        self.0.count
    }

    /// Shows the pool's metrics.
    ///
    /// # Errors
    /// When metrics of the same names are registered already.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.0.running.clone()))?;
        registry.register(Box::new(self.0.wait_seconds.clone()))
    }

    /// A share for one kind of work. At most `at_most` pieces of it run at once; 0 means as many as the pool has turns.
    ///
    /// `kind` is a label of metrics. Take a share once and clone it: each call adds a turn to the process.
    pub fn share(&self, kind: &'static str, at_most: usize) -> Share {
        let at_most = if at_most == 0 { self.0.count } else { at_most };
        Share {
            pool: self.clone(),
            kind,
            bound: Arc::new(Semaphore::new(at_most.min(Semaphore::MAX_PERMITS))),
            own_turn: Arc::new(Semaphore::new(1)),
        }
    }
}

impl Default for Processors {
    fn default() -> Self {
        Self::of_machine()
    }
}

impl Share {
    /// Waits for a turn. Turns of one kind come in the order in which they were asked for.
    ///
    /// Cancel safe.
    pub async fn turn(&self) -> Turn {
        const OPEN: &str = "the semaphores of a pool are never closed";
        let since = Instant::now();
        let bound = self.bound.clone().acquire_owned().await.expect(OPEN);
        let turn = tokio::select! {
            biased;
            own = self.own_turn.clone().acquire_owned() => own,
            common = self.pool.0.turns.clone().acquire_owned() => common,
        };
        self.pool.0.wait_seconds.with_label_values(&[self.kind]).observe(since.elapsed().as_secs_f64());
        Turn { share: self.clone(), _bound: bound, _turn: turn.expect(OPEN) }
    }

    /// Waits for a turn and runs one piece of work. When the caller goes away the work runs to its end, or to where it
    /// looks at an [`Abandoned`](crate::Abandoned).
    ///
    /// # Errors
    /// [`WorkLost`] when the work panics or the runtime shuts down.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, WorkLost> {
        self.turn().await.run(work).await
    }
}

impl Turn {
    /// Runs one piece of work in this turn.
    ///
    /// # Errors
    /// [`WorkLost`] when the work panics or the runtime shuts down.
    #[expect(clippy::disallowed_methods, reason = "the pool is the one place that hands work to blocking threads")]
    pub async fn run<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, WorkLost> {
        let kind = self.share.kind;
        let task = tokio::task::spawn_blocking(move || {
            let running = self.share.pool.0.running.with_label_values(&[kind]);
            running.inc();
            // Also when the work panics.
            let _running = Running(running);
            let _turn = self;
            work()
        });
        task.await.map_err(|error| WorkLost { kind, reason: error.to_string() })
    }
}

struct Running(prometheus::IntGauge);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl fmt::Debug for Processors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Processors").field("count", &self.0.count).finish_non_exhaustive()
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Share").field("kind", &self.kind).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn pool(count: usize) -> Processors {
        Processors::new(NonZeroUsize::new(count).expect("not 0"))
    }

    #[tokio::test]
    async fn each_kind_has_a_turn_of_its_own() {
        let pool = pool(1);
        let (busy, other) = (pool.share("busy", 0), pool.share("other", 0));
        assert_eq!(pool.count(), 1);
        // The bound of `busy` is the pool's count, so one share cannot even use both of its turns.
        let first = busy.turn().await;
        assert!(futures_poll(busy.turn()).await.is_none());
        let second = other.turn().await;
        drop(first);
        let _again = busy.turn().await;
        assert_eq!(second.run(|| 7).await.expect("it runs"), 7);
    }

    #[tokio::test]
    async fn turns_beyond_the_own_ones_are_shared() {
        let pool = pool(1);
        let (a, b) = (pool.share("a", 9), pool.share("b", 9));
        let held = [a.turn().await, a.turn().await];
        assert!(futures_poll(a.turn()).await.is_none(), "the common turn and the own one are taken");
        let _own = b.turn().await;
        assert!(futures_poll(b.turn()).await.is_none());
        drop(held);
        let _common = b.turn().await;
    }

    #[tokio::test]
    async fn a_panic_is_reported_and_frees_the_turn() {
        let share = pool(1).share("test", 1);
        let lost = share.run(|| -> u32 { panic!("on purpose") }).await.expect_err("it panicked");
        assert_eq!(lost.kind, "test");
        assert_eq!(share.run(|| 1).await.expect("it runs"), 1);
        assert_eq!(share.pool.0.running.with_label_values(&["test"]).get(), 0);
    }

    #[tokio::test]
    async fn work_goes_on_without_its_caller() {
        let share = pool(1).share("test", 1);
        let (go, wait) = mpsc::channel::<()>();
        let (done, ended) = mpsc::channel();
        let work = move || {
            let _ = wait.recv();
            let _ = done.send(());
        };
        let turn = share.turn().await;
        assert!(futures_poll(turn.run(work)).await.is_none(), "it waits");
        go.send(()).expect("the work waits");
        ended.recv().expect("the work came to its end");
    }

    /// The outcome if it is there at once.
    async fn futures_poll<T>(future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            outcome = future => Some(outcome),
            () = tokio::task::yield_now() => None,
        }
    }
}
