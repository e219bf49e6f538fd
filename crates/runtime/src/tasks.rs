//! Background tasks that have an owner.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::task::{JoinError, JoinHandle};
use tokio_util::task::TaskTracker;

/// A set of background tasks with one owner. Clones share the set.
///
/// The owner ends the tasks (with a `CancellationToken`, or by closing the channel they read), then calls
/// [`Tasks::finish`], which returns when the last one is gone. A task that panics is logged with its name, whether
/// anybody waits for its result or not.
#[derive(Clone, Debug)]
pub struct Tasks {
    owner: &'static str,
    tracker: TaskTracker,
}

/// A running task of a set: a future of its result. Dropping it leaves the task running.
#[derive(Debug)]
pub struct Task<T>(JoinHandle<T>);

impl Tasks {
    /// An empty set. `owner` names it in logs.
    pub fn new(owner: &'static str) -> Self {
        Self { owner, tracker: TaskTracker::new() }
    }

    /// Starts a task; `name` says in logs what it does. Must be called within a tokio runtime.
    #[expect(clippy::disallowed_methods, reason = "the set is the owner that waits for the task")]
    pub fn spawn<F>(&self, name: &'static str, task: F) -> Task<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let alarm = PanicAlarm { owner: self.owner, name };
        Task(tokio::spawn(self.tracker.track_future(async move {
            let alarm = alarm;
            let output = task.await;
            std::mem::forget(alarm);
            output
        })))
    }

    /// Number of tasks that run.
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    /// True when no task runs.
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Waits until no task runs. Tasks may still be added meanwhile; they are waited for, too.
    ///
    /// Cancel safe: the tasks go on either way.
    pub async fn finish(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

impl<T> Task<T> {
    /// Ends the task at its next `.await`.
    pub fn abort(&self) {
        self.0.abort();
    }

    /// True when the task has ended.
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx)
    }
}

/// Dropped while its task unwinds, and forgotten when the task ends well.
struct PanicAlarm {
    owner: &'static str,
    name: &'static str,
}

impl Drop for PanicAlarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(owner = self.owner, task = self.name, "a background task panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn the_owner_waits_for_all() {
        let tasks = Tasks::new("test");
        let done = Arc::new(AtomicU32::new(0));
        let (go, wait) = oneshot::channel::<()>();
        let counted = done.clone();
        let first = tasks.spawn("first", async move {
            let _ = wait.await;
            counted.fetch_add(1, Ordering::SeqCst);
            7
        });
        assert_eq!(tasks.len(), 1);
        let mut finish = Box::pin(tasks.finish());
        tokio::select! {
            biased;
            () = &mut finish => panic!("a task still runs"),
            () = tokio::task::yield_now() => {}
        }
        go.send(()).expect("the task waits");
        finish.await;
        assert_eq!(done.load(Ordering::SeqCst), 1);
        assert_eq!(first.await.expect("the task ended well"), 7);
        assert!(tasks.is_empty());
    }

    #[tokio::test]
    async fn a_panic_reaches_who_waits() {
        let tasks = Tasks::new("test");
        let broken: Task<()> = tasks.spawn("broken", async { panic!("on purpose") });
        assert!(broken.await.expect_err("it panicked").is_panic());
        tasks.finish().await;
    }
}
