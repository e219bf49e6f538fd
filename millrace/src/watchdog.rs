//! Ends a process in which nothing moves any more.
#![allow(clippy::print_stderr, reason = "logging may be what is stuck")]

use std::{
    io, process,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::runtime::Runtime;

/// Time between two beats.
pub(crate) const BEAT: Duration = Duration::from_secs(1);

/// Number of beats that may be missing.
const STUCK_BEATS: u32 = 30;

/// Ends the process when no task of `runtime` has run for long, because every worker thread waits for something that
/// never comes. A process that hangs would keep its partitions. The next one reads again what is not stored yet.
pub(crate) fn end_when_stuck(runtime: &Runtime, beat: Duration) -> io::Result<()> {
    let beats = Arc::new(AtomicU64::new(0));
    let beating = beats.clone();
    // It ends with the runtime, which drops all of its tasks.
    drop(runtime.spawn(async move {
        loop {
            beating.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(beat).await;
        }
    }));
    // Nobody joins it: it holds nothing, and ends with the process.
    thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
        let (mut last, mut stuck) = (0, 0);
        // It counts its own looks, so that time in which the whole process was paused does not count.
        while stuck < STUCK_BEATS {
            thread::sleep(beat);
            let now = beats.load(Ordering::Relaxed);
            stuck = if now == last { stuck + 1 } else { 0 };
            last = now;
        }
        let time = beat * STUCK_BEATS;
        eprintln!("error: no work was done for {time:?}: every thread waits; ending, to be started again");
        process::exit(1);
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLE: &str = "MILLRACE_TEST_STUCK";

    /// Runs in processes of its own, each with one worker thread.
    #[test]
    fn a_process_without_a_free_thread_ends() {
        if let Ok(role) = std::env::var(ROLE) {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            end_when_stuck(&runtime, Duration::from_millis(100)).unwrap();
            if role == "stuck" {
                runtime.spawn(async { thread::sleep(Duration::from_secs(60)) });
            }
            return thread::sleep(Duration::from_secs(6));
        }
        let ended = |role: &str| {
            let mut this = process::Command::new(std::env::current_exe().unwrap());
            this.args(["watchdog::tests::a_process_without_a_free_thread_ends", "--exact", "--nocapture"]);
            let output = this.env(ROLE, role).output().unwrap();
            (output.status.success(), String::from_utf8_lossy(&output.stderr).contains("no work was done for 3s"))
        };
        assert_eq!(ended("stuck"), (false, true));
        assert_eq!(ended("free"), (true, false));
    }
}
