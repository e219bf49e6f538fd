//! Settings of requests to other processes.

use limits::{ByteSize, PromDuration};
use serde::{Deserialize, Serialize};

/// Settings of requests to other processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How long connecting to a process may take.
    pub connect_timeout: PromDuration,
    /// How often an open connection is checked.
    pub keep_alive: PromDuration,
    /// A connection is closed if a check is not answered for this long. All requests on it fail.
    pub keep_alive_timeout: PromDuration,
    /// If a holder does not answer within this time, the next one is asked as well, and the first good answer counts. A
    /// shorter time makes reads steadier when a process pauses, and doubles the work of queries that take longer.
    pub hedge_after: PromDuration,
    /// When no other holder is left, a silent holder is asked whether it is alive. If it does not answer within this time,
    /// the log is read as well.
    pub probe_timeout: PromDuration,
    /// For this time, a process that was silent is asked last, and requests wait for it only a tenth as long.
    pub suspect_for: PromDuration,
    /// The pause before a broken live tail is opened again. It doubles up to ten times this value.
    pub tail_retry: PromDuration,
    /// How long live rows of one process wait for the process that delivered the partition's rows so far. It must cover the
    /// delay of rows that are in transit when a partition changes hands.
    pub tail_hold: PromDuration,
    /// The largest message of the RPC. An answer has all partial results of a query.
    pub message_bytes_max: ByteSize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connect_timeout: PromDuration::from_secs(1),
            keep_alive: PromDuration::from_secs(2),
            keep_alive_timeout: PromDuration::from_secs(3),
            hedge_after: PromDuration::from_secs(1),
            probe_timeout: PromDuration::from_secs(1),
            suspect_for: PromDuration::from_secs(5),
            tail_retry: PromDuration::from_millis(200),
            tail_hold: PromDuration::from_millis(500),
            message_bytes_max: ByteSize::from_mb(256),
        }
    }
}

impl Config {
    /// Lists every setting that cannot work.
    pub fn problems(&self) -> Vec<String> {
        let positive = [
            ("connect_timeout", self.connect_timeout.is_zero()),
            ("keep_alive", self.keep_alive.is_zero()),
            ("keep_alive_timeout", self.keep_alive_timeout.is_zero()),
            ("hedge_after", self.hedge_after.is_zero()),
            ("probe_timeout", self.probe_timeout.is_zero()),
            ("tail_retry", self.tail_retry.is_zero()),
            ("message_bytes_max", self.message_bytes_max.is_zero()),
        ];
        positive.iter().filter(|(_, zero)| *zero).map(|(name, _)| format!("{name} must not be 0")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_named() {
        assert!(Config::default().problems().is_empty());
        let wrong = Config { hedge_after: PromDuration::default(), ..Config::default() };
        assert_eq!(wrong.problems(), ["hedge_after must not be 0"]);
    }
}
