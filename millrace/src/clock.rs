//! The wall clock of the process. Fault tests may shift it.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    thread,
    time::Duration,
};

use model::{Clock, SystemClock, TimestampNs};

/// Names a file with milliseconds that are added to the time of day. It is read again every second. Fault tests use it
/// for a node whose clock jumps.
const OFFSET_FILE: &str = "MILLRACE_TEST_CLOCK_OFFSET_FILE";
const PERIOD: Duration = Duration::from_secs(1);

/// The clock of this process.
pub(crate) fn system() -> io::Result<Arc<dyn Clock>> {
    let Some(file) = std::env::var_os(OFFSET_FILE) else { return Ok(Arc::new(SystemClock)) };
    let offset_ms = Arc::new(AtomicI64::new(0));
    let clock = Arc::new(ShiftedClock { offset_ms: offset_ms.clone() });
    // Nobody joins it: it holds nothing, and ends with the process.
    thread::Builder::new().name("clock offset".to_owned()).spawn(move || {
        loop {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            offset_ms.store(text.trim().parse().unwrap_or(0), Ordering::Relaxed);
            thread::sleep(PERIOD);
        }
    })?;
    Ok(clock)
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
