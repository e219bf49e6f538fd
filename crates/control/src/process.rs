//! One process: tells its state, hears others.

use std::sync::Arc;
use std::time::Duration;

use log_bus::{ControlBus, ControlRecord};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::message::{self, MessageError};
use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::{Config, Error, ProcessState, View};

/// A name of a process that no other start of it has: `name` and a random suffix.
pub fn fresh_id(name: &str) -> String {
    let random = uuid::Uuid::new_v4().simple().to_string();
    format!("{name}-{}", &random[..8])
}

/// A process's part in the control topic. One for each process.
pub struct Control {
    config: Config,
    id: String,
    bus: Arc<dyn ControlBus>,
    metrics: Metrics,
    known: Mutex<Known>,
    views: watch::Sender<Arc<View>>,
    /// There is something to tell before the next beat.
    news: Notify,
}

struct Known {
    own: Arc<ProcessState>,
    peers: Peers,
}

impl Control {
    /// A process that says nothing and hears nothing until it [runs](Control::run). Its view holds itself.
    ///
    /// # Errors
    /// When a setting cannot work, the state has no id, or the metrics are registered already.
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
        let known = Known { own: Arc::new(state), peers: Peers::new(config.expiry.get()) };
        let view = known.view();
        metrics.processes.set(1);
        Ok(Arc::new(Self {
            config,
            id,
            bus,
            metrics,
            known: Mutex::new(known),
            views: watch::Sender::new(Arc::new(view)),
            news: Notify::new(),
        }))
    }

    /// The id of this process.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What is known now.
    pub fn view(&self) -> Arc<View> {
        self.views.borrow().clone()
    }

    /// What is known now, and a wake-up at each change of it.
    pub fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.views.subscribe()
    }

    /// Changes what this process says of itself. The own view has it when this returns. Others hear of it soon when
    /// something but held ranges and rates changed (changes that follow one another closely travel together), else with the
    /// next beat. The id cannot be changed.
    pub fn update(&self, change: impl FnOnce(&mut ProcessState)) {
        let mut known = self.known.lock();
        let mut state = ProcessState::clone(&known.own);
        change(&mut state);
        state.id.clone_from(&self.id);
        if state == *known.own {
            return;
        }
        let is_news = state.is_news_after(&known.own);
        known.own = Arc::new(state);
        self.show(&known);
        drop(known);
        if is_news {
            self.news.notify_one();
        }
    }

    /// Tells and hears until `shutdown`; then says that this process leaves and holds nothing any more, and ends.
    /// Nothing that goes wrong with the topic ends it.
    pub async fn run(&self, shutdown: CancellationToken) {
        let work = async { tokio::join!(self.tell(), self.hear()) };
        shutdown.run_until_cancelled(work).await;
        self.update(|state| {
            state.leaving = true;
            state.partitions.clear();
            state.rates.clear();
        });
        if let Err(error) = self.publish().await {
            tracing::warn!(error, "cannot say goodbye on the control topic; others will notice by the silence");
        }
    }

    async fn tell(&self) {
        let mut outage = Outage::new("cannot publish to the control topic", "publishing to the control topic again");
        loop {
            let began = Instant::now();
            let published = self.publish().await;
            // What failed is tried again before the next beat: others go by silence.
            let pause = self.config.beat.get() / if published.is_ok() { 1 } else { 4 };
            outage.note(published);
            tokio::select! {
                () = tokio::time::sleep_until(began + pause) => {}
                () = self.news.notified() => tokio::time::sleep_until(began + self.config.coalesce.get()).await,
            }
        }
    }

    async fn publish(&self) -> Result<(), String> {
        let payload = message::encode(&self.known.lock().own);
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

    async fn hear(&self) {
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
                tracing::debug!(process = record.key, %error, "a control message was set aside");
                None
            }
        };
        let mut known = self.known.lock();
        if known.peers.heard(&record.key, state, record.append_time) {
            self.show(&known);
        }
    }

    /// Makes what is known the newest view. Under the lock, so that views follow one another as changes did.
    fn show(&self, known: &Known) {
        let view = known.view();
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

impl Known {
    /// The own state as it is, whatever came through the topic, and all others.
    fn view(&self) -> View {
        let others = self.peers.states().filter(|state| state.id != self.own.id);
        View::new(&self.own.id, others.chain([&self.own]).cloned().collect())
    }
}

/// Tells of an outage once when it begins, and once when it is over.
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
                tracing::warn!(error, "{}; trying on, with the last view", self.broken);
                self.since = Some(Instant::now());
            }
        }
    }
}

#[cfg(test)]
mod tests;
