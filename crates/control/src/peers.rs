//! Decides which processes are alive, by the times at which the topic took their messages.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use model::TimestampNs;

use crate::ProcessState;

/// The last state of each process that is alive.
///
/// Ages are measured in *topic time*. Each message advances it by the difference between its append time and that of the
/// previous message. If the append time goes back (the topic's leader moved to a broker with another clock), topic time
/// does not advance. A silence advances it by at most half of an expiry. So after an outage, every process that survived
/// has time to publish before it would be dropped.
#[derive(Debug)]
pub(crate) struct Peers {
    expiry: Duration,
    last_append: Option<TimestampNs>,
    topic_time: Duration,
    alive: BTreeMap<String, Peer>,
}

#[derive(Debug)]
struct Peer {
    state: Arc<ProcessState>,
    /// The topic time of the last message.
    spoke: Duration,
}

impl Peers {
    pub(crate) fn new(expiry: Duration) -> Self {
        Self { expiry, last_append: None, topic_time: Duration::ZERO, alive: BTreeMap::new() }
    }

    /// Notes a message of process `id`. A message without a state could not be read; it keeps the process alive with its
    /// last state. Returns true if the set of processes that are alive, or one of their states, changed.
    pub(crate) fn heard(&mut self, id: &str, state: Option<ProcessState>, append_time: TimestampNs) -> bool {
        let step = self.last_append.map_or(Duration::ZERO, |last| append_time.since(last));
        self.topic_time += step.min(self.expiry / 2);
        self.last_append = Some(append_time);
        let spoke = self.topic_time;
        let mut is_news = false;
        match (self.alive.get_mut(id), state) {
            (Some(peer), state) => {
                peer.spoke = spoke;
                if let Some(state) = state.filter(|state| *state != *peer.state) {
                    peer.state = Arc::new(state);
                    is_news = true;
                }
            }
            (None, Some(state)) => {
                self.alive.insert(id.to_owned(), Peer { state: Arc::new(state), spoke });
                is_news = true;
            }
            (None, None) => {}
        }
        let before = self.alive.len();
        self.alive.retain(|_, peer| spoke.saturating_sub(peer.spoke) <= self.expiry);
        is_news || self.alive.len() < before
    }

    pub(crate) fn states(&self) -> impl Iterator<Item = &Arc<ProcessState>> {
        self.alive.values().map(|peer| &peer.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays messages given as `second:id`, then compares the ids of the processes that are alive.
    fn check(messages: &str, expected: &str) {
        let mut peers = Peers::new(Duration::from_secs(10));
        for message in messages.split_whitespace() {
            let (second, id) = message.split_once(':').unwrap();
            let state = ProcessState { id: id.to_owned(), ..ProcessState::default() };
            peers.heard(id, Some(state), TimestampNs::from_secs(second.parse().unwrap()));
        }
        let alive: Vec<&str> = peers.states().map(|s| s.id.as_str()).collect();
        assert_eq!(alive.join(""), expected, "{messages}");
    }

    #[test]
    fn ages() {
        check("", "");
        check("0:a", "a");
        check("0:a 0:b 4:b 8:b 10:b", "ab");
        check("0:a 0:b 4:b 8:b 11:b", "b");
        check("0:a 0:b 4:b 8:b 11:b 11:a", "ab");
        // After a silence of all, the first message drops no process. A process that stays silent is dropped later.
        check("0:a 0:b 3600:b", "ab");
        check("0:a 0:b 3600:b 3602:b 3604:b", "ab");
        check("0:a 0:b 3600:b 3602:b 3604:b 3606:b", "b");
        check("0:a 0:b 3600:b 3601:a 3606:b 3610:b", "ab");
        // The topic's leader moves to a broker whose clock is behind.
        check("1000:a 1000:b 0:b 2:b 4:a", "ab");
        check("1000:a 1000:b 0:b 4:b 8:b 12:b", "b");
    }

    #[test]
    fn an_unreadable_message_is_only_a_sign_of_life() {
        let mut peers = Peers::new(Duration::from_secs(10));
        let at = TimestampNs::from_secs;
        let state = || Some(ProcessState { id: "a".to_owned(), ..ProcessState::default() });
        assert!(!peers.heard("a", None, at(0)));
        assert!(peers.heard("a", state(), at(0)));
        assert!(!peers.heard("a", state(), at(1)));
        for second in [4, 8, 12, 16] {
            assert!(!peers.heard("a", None, at(second)));
            assert!(!peers.heard("b", None, at(second)));
        }
        assert_eq!(peers.states().count(), 1);
        assert!(!peers.heard("b", None, at(20)) && !peers.heard("b", None, at(24)) && peers.heard("b", None, at(28)));
    }
}
