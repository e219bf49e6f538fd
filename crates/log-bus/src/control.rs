//! The control topic: every process publishes short messages about itself and reads those of all others.
//!
//! The messages are only hints; the heads guarantee safety. The topic forgets messages after minutes, and may lose them.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use model::{Clock, TimestampNs};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::LogError;

/// Number of past messages that a process reads when it joins a [`MemoryControl`].
const REMEMBERED: usize = 1000;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlRecord {
    /// The id of the process that wrote the message.
    pub key: String,
    /// The content, in the format of the crate `control`.
    pub payload: Bytes,
    /// The time at which the topic took the message. Ages of processes are measured by it, so that a silent topic makes
    /// no process look dead.
    pub append_time: TimestampNs,
}

/// The topic through which processes announce their state.
#[async_trait]
pub trait ControlBus: Send + Sync + 'static {
    /// Publishes a message under the id of this process.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] if the topic cannot take the message now.
    async fn publish(&self, key: &str, payload: Bytes) -> Result<(), LogError>;

    /// Waits for the next message, including this process's own. The first calls return the messages of the last minute.
    /// Cancel-safe, for one caller at a time.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] if the topic cannot be read now. The next call continues.
    async fn next(&self) -> Result<ControlRecord, LogError>;
}

/// A control topic in memory, for the members of one process.
#[derive(Clone)]
pub struct MemoryControl(Arc<Hub>);

struct Hub {
    clock: Arc<dyn Clock>,
    state: Mutex<HubState>,
    news: Notify,
}

#[derive(Default)]
struct HubState {
    records: VecDeque<ControlRecord>,
    /// The number of the oldest record in `records`.
    first: u64,
}

/// One reader and writer of a [`MemoryControl`].
struct Member {
    hub: Arc<Hub>,
    next: Mutex<u64>,
}

impl MemoryControl {
    /// Creates an empty topic whose times come from `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Hub { clock, state: Mutex::default(), news: Notify::new() }))
    }

    /// Adds a member. It first reads the messages that the topic still holds.
    pub fn join(&self) -> Arc<dyn ControlBus> {
        let first = self.0.state.lock().first;
        Arc::new(Member { hub: self.0.clone(), next: Mutex::new(first) })
    }
}

impl Member {
    fn take(&self) -> Option<ControlRecord> {
        let mut next = self.next.lock();
        let state = self.hub.state.lock();
        let at = (*next).max(state.first);
        let record = state.records.get(usize::try_from(at - state.first).ok()?)?.clone();
        *next = at + 1;
        Some(record)
    }
}

#[async_trait]
impl ControlBus for Member {
    async fn publish(&self, key: &str, payload: Bytes) -> Result<(), LogError> {
        let mut state = self.hub.state.lock();
        let append_time = self.hub.clock.now();
        state.records.push_back(ControlRecord { key: key.to_owned(), payload, append_time });
        if state.records.len() > REMEMBERED {
            state.records.pop_front();
            state.first += 1;
        }
        drop(state);
        self.hub.news.notify_waiters();
        Ok(())
    }

    async fn next(&self) -> Result<ControlRecord, LogError> {
        loop {
            // Registered before looking, so that no message is missed in between.
            let news = self.hub.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            if let Some(record) = self.take() {
                return Ok(record);
            }
            news.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use model::SystemClock;

    use super::*;

    #[tokio::test]
    async fn every_member_reads_everything() {
        let topic = MemoryControl::new(Arc::new(SystemClock));
        let (a, b) = (topic.join(), topic.join());
        for text in ["1", "2"] {
            a.publish("a", Bytes::from_static(text.as_bytes())).await.unwrap();
        }
        let late = topic.join();
        for member in [&a, &b, &late] {
            for text in ["1", "2"] {
                let record = member.next().await.unwrap();
                assert_eq!((record.key.as_str(), &record.payload[..]), ("a", text.as_bytes()));
            }
        }
        let waiting = tokio::spawn(async move { b.next().await.unwrap().payload });
        a.publish("a", Bytes::from_static(b"3")).await.unwrap();
        assert_eq!(&waiting.await.unwrap()[..], b"3");
    }

    #[tokio::test]
    async fn forgets_the_oldest() {
        let topic = MemoryControl::new(Arc::new(SystemClock));
        let member = topic.join();
        for i in 0..REMEMBERED + 10 {
            member.publish("a", Bytes::from(i.to_string())).await.unwrap();
        }
        assert_eq!(member.next().await.unwrap().payload, "10");
    }
}
