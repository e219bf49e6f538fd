//! Runs a replay: partitions in parallel, each from the position in its state.

use std::sync::Arc;

use model::{Matcher, OffsetRange};
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    Components, Error, Mode, Options, PartitionState, Progress, State, context::ReplayContext, rebuild, send, verify,
};

/// How a replay ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The progress and the findings. [`State::finished`] says whether everything is done.
    pub state: State,
}

/// Runs a replay from the position in `state`, until it is done or `stop` is cancelled. `matchers` are those of the job's
/// selector. The state is saved after every step and at the end.
///
/// # Errors
/// See [`Error`]. The saved state holds the progress until then.
pub async fn run(
    components: Components,
    options: Options,
    state: State,
    matchers: Vec<Matcher>,
    stop: CancellationToken,
) -> Result<Outcome, Error> {
    let found = components.log.log_id().0.clone();
    if found != state.log_id {
        return Err(Error::OtherLog { expected: state.log_id, found });
    }
    if matches!(state.job.mode, Mode::Send { .. }) && components.target.is_none() {
        return Err(Error::Job("there is no target to send to".to_owned()));
    }
    // A sequential target needs each acknowledgement before the next batch, also between partitions.
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
    let context = Arc::new(ReplayContext::new(components, options, state, matchers, stop.child_token()));
    let permits = Arc::new(Semaphore::new(parallel));
    let mut tasks = JoinSet::new();
    for place in 0..places {
        let (context, permits) = (context.clone(), permits.clone());
        tasks.spawn(async move {
            let _permit = permits.acquire().await.map_err(|error| Error::Lost(error.to_string()))?;
            let outcome = run_partition(&context, place).await;
            if outcome.as_ref().is_err_and(|error| !matches!(error, Error::Stopped)) {
                // The other partitions stop as well, before another one starts. Their progress is saved.
                context.stop.cancel();
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
                context.stop.cancel();
                failure.get_or_insert(error);
            }
        }
    }
    let kept = context
        .update(|state| {
            state.finished = failure.is_none() && state.partitions.iter().all(|p| is_done(&state.job.mode, p));
        })
        .await;
    // The first failure says most.
    failure.map_or(kept, Err)?;
    Ok(Outcome { state: context.state().await })
}

fn is_done(mode: &Mode, partition: &PartitionState) -> bool {
    match mode {
        Mode::Rebuild => partition.swapped,
        Mode::Verify | Mode::Send { .. } => partition.is_done(),
    }
}

/// Works on one partition from where its state says.
async fn run_partition(context: &ReplayContext, place: usize) -> Result<(), Error> {
    let state = context.state().await;
    if context.stop.is_cancelled() {
        return Err(Error::Stopped);
    }
    let partition = state.partitions[place].clone();
    match state.job.mode {
        mode if is_done(&mode, &partition) => Ok(()),
        Mode::Verify => verify::partition(context, place, partition).await,
        Mode::Rebuild => rebuild::partition(context, place, partition).await,
        Mode::Send { .. } => send::partition(context, place, partition).await,
    }
}
