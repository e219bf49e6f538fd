//! One process on the control topic: publishes its state and reads the states of others.

use std::sync::Arc;
use std::time::Duration;

use log_bus::{ControlBus, ControlRecord};
use model::{Random, SystemRandom};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::message::{self, MessageError};
use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::{Config, Error, ProcessState, View};

/// An id for one start of a process: `name` plus a random suffix.
pub fn fresh_id(name: &str) -> String {
    fresh_id_with(name, &SystemRandom)
}

/// Like [`fresh_id`], with the caller's randomness.
pub fn fresh_id_with(name: &str, random: &dyn Random) -> String {
    format!("{name}-{:08x}", random.next_u64() >> 32)
}

/// A process's connection to the control topic. Each process has one.
pub struct Control {
    config: Config,
    id: String,
    bus: Arc<dyn ControlBus>,
    metrics: Metrics,
    states: Mutex<ProcessStates>,
    views: watch::Sender<Arc<View>>,
    /// Notified when the own state should be published before the next beat.
    news: Notify,
}

/// The states of this process and of all others.
struct ProcessStates {
    own: Arc<ProcessState>,
    peers: Peers,
}

impl Control {
    /// A process that neither publishes nor reads until it [runs](Control::run). Until then its view only holds itself.
    ///
    /// # Errors
    /// If a setting is invalid, the state has no id, or the metrics are registered already.
    pub fn new(
        config: Config,
        state: ProcessState,
        bus: Arc<dyn ControlBus>,
        metrics: &prometheus::Registry,
    ) -> Result<Arc<Self>, Error> {
        let mut problems = config.problems();
        if state.id.is_empty() {
            problems.push("the process has no id".to_owned());
        }
        if !problems.is_empty() {
            return Err(Error::Config(problems.join("; ")));
        }
        let metrics = Metrics::register(metrics)?;
        let id = state.id.clone();
        let states = ProcessStates { own: Arc::new(state), peers: Peers::new(config.expiry.get()) };
        let view = states.view();
        metrics.processes.set(1);
        Ok(Arc::new(Self {
            config,
            id,
            bus,
            metrics,
            states: Mutex::new(states),
            views: watch::Sender::new(Arc::new(view)),
            news: Notify::new(),
        }))
    }

    /// The id of this process.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The newest view.
    pub fn view(&self) -> Arc<View> {
        self.views.borrow().clone()
    }

    /// The newest view, with a notification of each change.
    pub fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.views.subscribe()
    }

    /// Changes the state of this process. When this returns, the process's own view has the new state. Others learn about
    /// it soon if anything but held ranges and rates changed, and otherwise with the next beat. Changes in quick
    /// succession are published together. The id cannot be changed.
    pub fn update(&self, change: impl FnOnce(&mut ProcessState)) {
        let mut states = self.states.lock();
        let mut state = ProcessState::clone(&states.own);
        change(&mut state);
        state.id.clone_from(&self.id);
        if state == *states.own {
            return;
        }
        let is_news = state.is_news_after(&states.own);
        states.own = Arc::new(state);
        self.show(&states);
        drop(states);
        if is_news {
            self.news.notify_one();
        }
    }

    /// Publishes and reads until `shutdown`. Then announces that this process is leaving and holds nothing, and returns.
    /// Errors of the topic do not end it.
    pub async fn run(&self, shutdown: CancellationToken) {
        let work = async { tokio::join!(self.publish_states(), self.read_states()) };
        shutdown.run_until_cancelled(work).await;
        self.update(|state| {
            state.leaving = true;
            state.partitions.clear();
            state.rates.clear();
        });
        if let Err(error) = self.publish().await {
            tracing::warn!(error, "cannot announce the end of this process; others will notice its silence");
        }
    }

    async fn publish_states(&self) {
        let mut outage = Outage::new("cannot publish to the control topic", "publishing to the control topic again");
        loop {
            let began = Instant::now();
            let published = self.publish().await;
            // Retry a failure before the next beat, since a silent process is dropped.
            let pause = self.config.beat.get() / if published.is_ok() { 1 } else { 4 };
            outage.note(published);
            tokio::select! {
                () = tokio::time::sleep_until(began + pause) => {}
                () = self.news.notified() => tokio::time::sleep_until(began + self.config.coalesce.get()).await,
            }
        }
    }

    async fn publish(&self) -> Result<(), String> {
        let payload = message::encode(&self.states.lock().own);
        let limit = self.config.publish_timeout.get();
        let outcome = match tokio::time::timeout(limit, self.bus.publish(&self.id, payload)).await {
            Ok(outcome) => outcome.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {} s", limit.as_secs_f64())),
        };
        match &outcome {
            Ok(()) => self.metrics.published.inc(),
            Err(_) => self.metrics.errors.with_label_values(&["publish"]).inc(),
        }
        outcome
    }

    async fn read_states(&self) {
        let mut outage = Outage::new("cannot read the control topic", "reading the control topic again");
        loop {
            match self.bus.next().await {
                Ok(record) => {
                    outage.note(Ok(()));
                    self.heard(&record);
                }
                Err(error) => {
                    self.metrics.errors.with_label_values(&["read"]).inc();
                    outage.note(Err(error.to_string()));
                    tokio::time::sleep((self.config.beat.get() / 4).max(Duration::from_millis(10))).await;
                }
            }
        }
    }

    fn heard(&self, record: &ControlRecord) {
        self.metrics.read.inc();
        let state = match message::decode(&record.key, &record.payload) {
            Ok(state) => Some(state),
            Err(error) => {
                let kind = if matches!(error, MessageError::Newer(_)) { "newer_version" } else { "unreadable" };
                self.metrics.errors.with_label_values(&[kind]).inc();
                tracing::debug!(process = record.key, %error, "ignoring a control message");
                None
            }
        };
        let mut states = self.states.lock();
        if states.peers.heard(&record.key, state, record.append_time) {
            self.show(&states);
        }
    }

    /// Replaces the view. Callers hold the lock, so that views change in the order of the states.
    fn show(&self, states: &ProcessStates) {
        let view = states.view();
        self.metrics.processes.set(i64::try_from(view.processes().count()).unwrap_or(i64::MAX));
        self.views.send_if_modified(|current| {
            let is_news = **current != view;
            if is_news {
                *current = Arc::new(view);
            }
            is_news
        });
    }
}

impl ProcessStates {
    /// A view with the current own state, not the one read from the topic, and the states of all others.
    fn view(&self) -> View {
        let others = self.peers.states().filter(|state| state.id != self.own.id);
        View::new(&self.own.id, others.chain([&self.own]).cloned().collect())
    }
}

/// Logs an outage once when it begins and once when it is over.
struct Outage {
    broken: &'static str,
    mended: &'static str,
    since: Option<Instant>,
}

impl Outage {
    const fn new(broken: &'static str, mended: &'static str) -> Self {
        Self { broken, mended, since: None }
    }

    fn note(&mut self, outcome: Result<(), String>) {
        match (outcome, self.since) {
            (Ok(()), None) | (Err(_), Some(_)) => {}
            (Ok(()), Some(since)) => {
                tracing::info!(seconds = since.elapsed().as_secs_f64(), "{}", self.mended);
                self.since = None;
            }
            (Err(error), None) => {
                tracing::warn!(error, "{}; will keep trying, with the last view", self.broken);
                self.since = Some(Instant::now());
            }
        }
    }
}

#[cfg(test)]
mod tests;
