//! Settings of the control topic.

use limits::PromDuration;
use serde::{Deserialize, Serialize};

/// How a process uses the control topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The interval at which a process publishes its state if nothing changes. A shorter interval gives others fresher
    /// held ranges. Each message costs about a hundred bytes per partition.
    pub beat: PromDuration,
    /// A process that is silent for this long, while others are not, counts as dead. A shorter time finds dead processes
    /// sooner, but also drops processes that only paused. It must be several beats.
    pub expiry: PromDuration,
    /// The least time between two messages of a process. Changes in between share a message.
    pub coalesce: PromDuration,
    /// The time-out for publishing one message.
    pub publish_timeout: PromDuration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            beat: PromDuration::from_secs(2),
            expiry: PromDuration::from_secs(10),
            coalesce: PromDuration::from_millis(50),
            publish_timeout: PromDuration::from_secs(5),
        }
    }
}

impl Config {
    /// Describes every invalid setting.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut require = |holds: bool, problem: &str| {
            if !holds {
                problems.push(problem.to_owned());
            }
        };
        require(!self.beat.is_zero(), "beat must not be 0");
        require(self.expiry.get() >= self.beat.get().saturating_mul(3), "expiry must be at least three beats");
        require(self.coalesce.get() <= self.beat.get(), "coalesce must not be longer than beat");
        require(!self.publish_timeout.is_zero(), "publish_timeout must not be 0");
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_named() {
        let check = |change: fn(&mut Config), expected: &[&str]| {
            let mut config = Config::default();
            change(&mut config);
            assert_eq!(config.problems(), expected);
        };
        check(|_| {}, &[]);
        check(|c| c.expiry = PromDuration::from_secs(5), &["expiry must be at least three beats"]);
        check(|c| c.coalesce = PromDuration::from_secs(3), &["coalesce must not be longer than beat"]);
        check(
            |c| (c.beat, c.publish_timeout) = (PromDuration::default(), PromDuration::default()),
            &["beat must not be 0", "coalesce must not be longer than beat", "publish_timeout must not be 0"],
        );
    }
}
