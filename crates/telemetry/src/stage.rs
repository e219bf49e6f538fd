//! CPU time by stage of the pipeline.

use prometheus::{Counter, Opts, Registry};
use rustix::time::{ClockId, clock_gettime};

/// The CPU-seconds of one stage, in `millrace_stage_cpu_seconds_total{stage="…"}`. Clones share one counter.
#[derive(Clone, Debug)]
pub struct StageCpu(Counter);

/// Adds the CPU time of the current thread until it is dropped. It must be dropped on the thread that started it, so it
/// cannot live across an `await`.
#[derive(Debug)]
pub struct StageTimer<'a> {
    counter: &'a Counter,
    began: f64,
    // Not Send: another thread has another clock.
    _thread: std::marker::PhantomData<*const ()>,
}

impl StageCpu {
    /// Registers a stage.
    ///
    /// # Errors
    /// When a stage of this name is registered already.
    pub fn register(registry: &Registry, stage: &str) -> Result<Self, prometheus::Error> {
        let opts = Opts::new("millrace_stage_cpu_seconds_total", "CPU-seconds spent, by stage of the pipeline.");
        let counter = Counter::with_opts(opts.const_label("stage", stage))?;
        registry.register(Box::new(counter.clone()))?;
        Ok(Self(counter))
    }

    /// Starts to measure the current thread.
    pub fn start(&self) -> StageTimer<'_> {
        StageTimer { counter: &self.0, began: thread_cpu_seconds(), _thread: std::marker::PhantomData }
    }
}

impl Drop for StageTimer<'_> {
    fn drop(&mut self) {
        self.counter.inc_by((thread_cpu_seconds() - self.began).max(0.0));
    }
}

fn thread_cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_this_threads_work() {
        let registry = Registry::new();
        let stage = StageCpu::register(&registry, "test").expect("new");
        let other = StageCpu::register(&registry, "other").expect("another stage");
        assert!(StageCpu::register(&registry, "test").is_err());
        {
            let _timer = stage.start();
            std::hint::black_box((0..5_000_000u64).fold(0, |a, b| a ^ b.wrapping_mul(31)));
        }
        assert!(stage.0.get() > 0.0);
        assert_eq!(other.0.get(), 0.0);
    }
}
