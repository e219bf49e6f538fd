//! The wall clock that the services get. Tests may move it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use model::{Clock, SystemClock, TimestampNs};

/// Names a file with milliseconds that are added to the time of day; it is read again each second. For fault tests: a
/// node whose clock jumps.
const OFFSET_FILE: &str = "MILLRACE_TEST_CLOCK_OFFSET_FILE";
const PERIOD: Duration = Duration::from_secs(1);

/// The clock of this process.
pub(crate) fn system() -> Arc<dyn Clock> {
    let Some(file) = std::env::var_os(OFFSET_FILE) else { return Arc::new(SystemClock) };
    let offset_ms = Arc::new(AtomicI64::new(0));
    let clock = Arc::new(ShiftedClock { offset_ms: offset_ms.clone() });
    // Ends with the process: it has nothing to finish.
    std::thread::spawn(move || {
        loop {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            offset_ms.store(text.trim().parse().unwrap_or(0), Ordering::Relaxed);
            std::thread::sleep(PERIOD);
        }
    });
    clock
}

#[derive(Debug)]
struct ShiftedClock {
    offset_ms: Arc<AtomicI64>,
}

impl Clock for ShiftedClock {
    fn now(&self) -> TimestampNs {
        let offset = self.offset_ms.load(Ordering::Relaxed).saturating_mul(1_000_000);
        TimestampNs::from_nanos(SystemClock.now().nanos().saturating_add(offset))
    }
}
