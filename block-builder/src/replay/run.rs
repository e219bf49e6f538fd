//! Runs a replay: partitions in parallel, each from where its state says.

use std::{sync::Arc, time::Duration};

use block::BlockOptions;
use catalogue::{Head, Heads};
use log_bus::LogBus;
use model::{Clock, OffsetRange, PartitionId};
use object_store::ObjectStore;
use tokio::{
    sync::{Mutex, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    Error, Keep, Mode, PartitionState, Progress, State, Target, Wanted, blocks::BlockReader, rebuild, records::Pace,
    records::Records, send, verify,
};

/// What a replay works with.
#[derive(Clone)]
pub struct Components {
    /// What is read.
    pub log: Arc<dyn LogBus>,
    /// The heads of that log.
    pub heads: Heads,
    /// Where the blocks are.
    pub store: Arc<dyn ObjectStore>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Where entries are sent; needed to send only.
    pub target: Option<Arc<dyn Target>>,
    /// Where the state is kept.
    pub keep: Arc<dyn Keep>,
    /// Watches.
    pub progress: Arc<Progress>,
}

/// How a replay runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many partitions at once.
    pub parallel: usize,
    /// Bytes of records read in a second at the most, by all partitions together; none: as fast as it goes.
    pub bytes_per_second: Option<u64>,
    /// A batch is sent before it would grow larger.
    pub batch_bytes_max: usize,
    /// How often, and how fast, what fails is tried again.
    pub retry: Retry,
    /// How rebuilt blocks are written.
    pub block: BlockOptions,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            parallel: 2,
            bytes_per_second: None,
            batch_bytes_max: 1_000_000,
            retry: Retry::default(),
            block: BlockOptions::default(),
        }
    }
}

/// How often, and how fast, something is tried again.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// Tries in all.
    pub attempts: u32,
    /// About the pause before the second try; each further one is twice as long.
    pub backoff: Duration,
    /// No pause is longer.
    pub backoff_max: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 12, backoff: Duration::from_millis(200), backoff_max: Duration::from_secs(15) }
    }
}

impl Retry {
    /// Waits before the try after failure number `failures`, counted from 1.
    pub(crate) async fn pause(&self, failures: u32, stop: &CancellationToken) -> Result<(), Error> {
        self.pause_at_least(failures, Duration::ZERO, stop).await
    }

    pub(crate) async fn pause_at_least(
        &self,
        failures: u32,
        least: Duration,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let doubled = self.backoff.saturating_mul(1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
        // Not all at once: each waits three quarters to all of it.
        let pause = doubled.min(self.backoff_max).mul_f64(0.75 + 0.25 * fastrand::f64()).max(least);
        stop.run_until_cancelled(tokio::time::sleep(pause)).await.ok_or(Error::Stopped)
    }
}

/// How a replay ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was found, and how far it came. [`State::finished`] says whether it came to the end.
    pub state: State,
}

/// Runs a replay from where `state` says, until it is done or `stop` is cancelled. `matchers` are those of the job's
/// selector. The state is kept after every step, and at the end.
///
/// # Errors
/// See [`Error`]; what was done up to then is in the state that was kept.
pub async fn run(
    components: Components,
    options: Options,
    state: State,
    matchers: Vec<model::Matcher>,
    stop: CancellationToken,
) -> Result<Outcome, Error> {
    let found = components.log.log_id().0.clone();
    if found != state.log_id {
        return Err(Error::OtherLog { expected: state.log_id, found });
    }
    if matches!(state.job.mode, Mode::Send { .. }) && components.target.is_none() {
        return Err(Error::Job("there is no target to send to".to_owned()));
    }
    // What a target writes one after the other must be acknowledged one after the other.
    let is_sequential = components.target.as_ref().is_some_and(|target| target.is_sequential());
    let parallel = if is_sequential { 1 } else { options.parallel.max(1) };
    for partition in &state.partitions {
        let length = |range: OffsetRange| u64::try_from(range.end.value() - range.start.value()).unwrap_or(0);
        Progress::add(&components.progress.offsets_total, length(partition.range));
        Progress::add(
            &components.progress.offsets_done,
            length(OffsetRange::new(partition.range.start, partition.at.offset().min(partition.range.end))),
        );
    }
    let places = state.partitions.len();
    let shared = Arc::new(Shared {
        wanted: Wanted::of(&state.job, matchers),
        pace: Pace::new(options.bytes_per_second),
        book: Mutex::new(state),
        stop: stop.child_token(),
        options,
        components,
    });
    let permits = Arc::new(Semaphore::new(parallel));
    let mut tasks = JoinSet::new();
    for place in 0..places {
        let (shared, permits) = (shared.clone(), permits.clone());
        tasks.spawn(async move {
            let _permit = permits.acquire().await.map_err(|error| Error::Lost(error.to_string()))?;
            let outcome = shared.partition(place).await;
            if outcome.as_ref().is_err_and(|error| !matches!(error, Error::Stopped)) {
                // The others end, too, before another one begins; what they did is kept.
                shared.stop.cancel();
            }
            outcome
        });
    }
    let mut failure = None;
    while let Some(ended) = tasks.join_next().await {
        let outcome = ended.unwrap_or_else(|error| Err(Error::Lost(error.to_string())));
        match outcome {
            Ok(()) | Err(Error::Stopped) => {}
            Err(error) => {
                shared.stop.cancel();
                failure.get_or_insert(error);
            }
        }
    }
    let (state, kept) = {
        let mut state = shared.book.lock().await;
        state.finished = failure.is_none() && state.partitions.iter().all(|p| is_done(&state.job.mode, p));
        (state.clone(), shared.components.keep.keep(&state).await)
    };
    // The first thing that went wrong says most.
    failure.map_or(kept, Err).map(|()| Outcome { state })
}

fn is_done(mode: &Mode, partition: &PartitionState) -> bool {
    match mode {
        Mode::Rebuild => partition.swapped,
        Mode::Verify | Mode::Send { .. } => partition.is_done(),
    }
}

/// What the tasks of a replay share.
pub(crate) struct Shared {
    pub(crate) components: Components,
    pub(crate) options: Options,
    pub(crate) wanted: Wanted,
    pub(crate) pace: Pace,
    pub(crate) stop: CancellationToken,
    book: Mutex<State>,
}

impl Shared {
    async fn partition(&self, place: usize) -> Result<(), Error> {
        let (partition, mode) = {
            let state = self.book.lock().await;
            (state.partitions[place].clone(), state.job.mode.clone())
        };
        if self.stop.is_cancelled() {
            return Err(Error::Stopped);
        }
        match mode {
            _ if is_done(&mode, &partition) => Ok(()),
            Mode::Verify => verify::partition(self, place, partition).await,
            Mode::Rebuild => rebuild::partition(self, place, partition).await,
            Mode::Send { .. } => send::partition(self, place, partition).await,
        }
    }

    /// Changes the state of one partition and keeps all of it, in one step.
    pub(crate) async fn note(&self, place: usize, change: impl FnOnce(&mut PartitionState)) -> Result<(), Error> {
        let mut state = self.book.lock().await;
        change(&mut state.partitions[place]);
        state.target_position = self.components.target.as_ref().and_then(|target| target.position());
        self.components.keep.keep(&state).await
    }

    /// The job, and the name of the replay.
    pub(crate) async fn job(&self) -> (super::Job, String) {
        let state = self.book.lock().await;
        (state.job.clone(), state.id.clone())
    }

    pub(crate) fn records(&self, partition: PartitionId, range: OffsetRange) -> Records<'_> {
        Records {
            log: &*self.components.log,
            partition,
            range,
            pace: &self.pace,
            retry: self.options.retry,
            progress: &self.components.progress,
            stop: &self.stop,
        }
    }

    pub(crate) fn blocks(&self) -> BlockReader<'_> {
        BlockReader {
            store: &*self.components.store,
            retry: self.options.retry,
            progress: &self.components.progress,
            stop: &self.stop,
        }
    }

    pub(crate) async fn head(&self, partition: PartitionId) -> Result<Arc<Head>, Error> {
        let heads = &self.components.heads;
        let found = heads.read_shared(partition).await?;
        Ok(found.map_or_else(|| Arc::new(Head::unled(heads.log_id(), partition)), |(head, _)| head))
    }
}
