//! The components, options and state that all tasks of a replay share.

use std::{sync::Arc, time::Duration};

use block::BlockOptions;
use catalogue::{Head, Heads};
use log_bus::LogBus;
use model::{Clock, Matcher, OffsetRange, PartitionId, Random};
use object_store::ObjectStore;
use runtime::{Backoff, Processors, Share};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::{
    Error, Job, Keep, PartitionState, Progress, Selection, State, Target,
    blocks::BlockContentsReader,
    records::{Pace, Records},
    retries::Retries,
};

/// The components of a replay.
#[derive(Clone)]
pub struct Components {
    /// The log to read.
    pub log: Arc<dyn LogBus>,
    /// The heads of that log.
    pub heads: Heads,
    /// The store that holds the blocks.
    pub store: Arc<dyn ObjectStore>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Spreads the pauses between tries.
    pub random: Arc<dyn Random>,
    /// Decodes, encodes and compares.
    pub processors: Processors,
    /// The target to send entries to. Only needed for [`Mode::Send`](super::Mode::Send).
    pub target: Option<Arc<dyn Target>>,
    /// Stores the state.
    pub keep: Arc<dyn Keep>,
    /// Counts the progress, for display.
    pub progress: Arc<Progress>,
}

/// How a replay runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of partitions that are read at once.
    pub parallel: usize,
    /// Bytes of records to read per second, at most, for all partitions together; `None` sets no limit.
    pub bytes_per_second: Option<u64>,
    /// The largest batch to send. A larger entry is sent alone.
    pub batch_bytes_max: usize,
    /// How often requests are tried, and the pauses between.
    pub retry: Backoff,
    /// How rebuilt blocks are written.
    pub block: BlockOptions,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            parallel: 2,
            bytes_per_second: None,
            batch_bytes_max: 1_000_000,
            retry: Backoff { attempts: 12, first: Duration::from_millis(200), max: Duration::from_secs(15) },
            block: BlockOptions::default(),
        }
    }
}

/// The context of all tasks of a replay.
pub(crate) struct ReplayContext {
    pub(crate) components: Components,
    pub(crate) options: Options,
    pub(crate) selection: Selection,
    pub(crate) retries: Retries,
    pub(crate) stop: CancellationToken,
    pace: Pace,
    work: Share,
    state: Mutex<State>,
}

impl ReplayContext {
    pub(crate) fn new(
        components: Components,
        options: Options,
        state: State,
        matchers: Vec<Matcher>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            selection: Selection::of(&state.job, matchers),
            retries: Retries { schedule: options.retry, random: components.random.clone(), stop: stop.clone() },
            pace: Pace::new(options.bytes_per_second),
            work: components.processors.share("replay", 0),
            state: Mutex::new(state),
            stop,
            options,
            components,
        }
    }

    /// The state as of now.
    pub(crate) async fn state(&self) -> State {
        self.state.lock().await.clone()
    }

    /// Changes the state and saves it, in one step.
    pub(crate) async fn update(&self, change: impl FnOnce(&mut State)) -> Result<(), Error> {
        let mut state = self.state.lock().await;
        change(&mut state);
        self.components.keep.keep(&state).await
    }

    /// As [`ReplayContext::update`], for the partition at `place` in the state.
    pub(crate) async fn note(&self, place: usize, change: impl FnOnce(&mut PartitionState)) -> Result<(), Error> {
        self.update(|state| {
            change(&mut state.partitions[place]);
            state.target_position = self.components.target.as_ref().and_then(|target| target.position());
        })
        .await
    }

    /// The job, and the name of the replay.
    pub(crate) async fn job(&self) -> (Job, String) {
        let state = self.state.lock().await;
        (state.job.clone(), state.id.clone())
    }

    pub(crate) fn records(&self, partition: PartitionId, range: OffsetRange) -> Records<'_> {
        Records {
            log: &*self.components.log,
            partition,
            range,
            pace: &self.pace,
            retries: &self.retries,
            progress: &self.components.progress,
        }
    }

    pub(crate) fn blocks(&self) -> BlockContentsReader<'_> {
        BlockContentsReader {
            store: &*self.components.store,
            retries: &self.retries,
            work: &self.work,
            progress: &self.components.progress,
        }
    }

    /// The head of a partition as the store has it now.
    pub(crate) async fn head(&self, partition: PartitionId) -> Result<Arc<Head>, Error> {
        let heads = &self.components.heads;
        let head = heads.read_shared(partition).await?;
        Ok(head.map_or_else(|| Arc::new(Head::unled(heads.log_id(), partition)), |(head, _)| head))
    }

    /// Runs heavy work on the processors.
    pub(crate) async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        self.work.run(work).await.map_err(|lost| Error::Lost(lost.to_string()))
    }
}
