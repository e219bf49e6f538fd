//! The state of a replay, saved to a file, so that it can be stopped and resumed.

use std::{
    fmt,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use catalogue::BlockEntry;
use model::{Offset, OffsetRange, PartitionId, TenantId};
use serde::{Deserialize, Serialize};

use super::{Error, Job, PartitionPlan};

/// The version of the file format.
const FORMAT: u32 = 1;
/// At most this many differences are kept per partition. Further ones are only counted.
const DIFFERENCES_MAX: usize = 1000;

/// The progress and the findings of a replay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The version of the file format.
    pub format: u32,
    /// The name of this replay. Names of batches begin with it.
    pub id: String,
    /// The log that is read.
    pub log_id: String,
    /// The job of the replay.
    pub job: Job,
    /// True when everything is done.
    pub finished: bool,
    /// [`Target::position`](super::Target::position) after the last acknowledged batch.
    pub target_position: Option<u64>,
    /// The partitions of the job.
    pub partitions: Vec<PartitionState>,
}

/// The progress and the findings of one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartitionState {
    /// The partition.
    pub partition: PartitionId,
    /// The offsets of the window, fixed when the replay began.
    pub range: OffsetRange,
    /// True when the window began at the start of the log, so that retention may have removed part of it.
    pub cut_off: bool,
    /// Where to resume.
    pub at: Position,
    /// The selected entries that were read.
    pub read: Amount,
    /// Number of records of the selected tenants that could not be decoded.
    pub undecodable: u64,
    /// The part of `read` above the flushed-to offset, which is not in blocks yet.
    pub not_in_blocks: Amount,
    /// Number of blocks compared or rebuilt, or batches sent.
    pub steps: u64,
    /// The first differences between log and blocks.
    pub differences: Vec<Difference>,
    /// Number of all differences.
    pub differences_count: u64,
    /// Ranges that could not be compared.
    pub not_compared: Vec<NotCompared>,
    /// Blocks that were rebuilt.
    pub rebuilt: Vec<Rebuilt>,
    /// True when the head lists the rebuilt blocks.
    pub swapped: bool,
    /// Blocks that were not rebuilt.
    pub left: Vec<SkippedBlock>,
}

/// A position between two entries of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// The record that comes next.
    pub next: i64,
    /// Number of its entries that are done.
    pub entries: u64,
}

impl Position {
    /// Before all entries of the record at `offset`.
    pub fn at(offset: Offset) -> Self {
        Self { next: offset.value(), entries: 0 }
    }

    /// The record that comes next.
    pub fn offset(self) -> Offset {
        Offset::new(self.next)
    }
}

/// An amount of log data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Amount {
    /// Number of records.
    pub records: u64,
    /// Number of entries.
    pub entries: u64,
    /// Bytes of their lines.
    pub line_bytes: u64,
}

impl std::ops::AddAssign for Amount {
    fn add_assign(&mut self, other: Self) {
        self.records += other.records;
        self.entries += other.entries;
        self.line_bytes += other.line_bytes;
    }
}

/// A difference between log and blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    /// The partition.
    pub partition: PartitionId,
    /// The smallest range of offsets that holds the difference.
    pub range: OffsetRange,
    /// The key of the block that holds the range, if there is one.
    pub block: Option<String>,
    /// The tenant, if it is about one.
    pub tenant: Option<TenantId>,
    /// The stream, if it is about one.
    pub stream: Option<String>,
    /// A description of the difference.
    pub what: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "partition {}, offsets {}", self.partition, self.range)?;
        if let Some(tenant) = &self.tenant {
            write!(f, ", tenant {tenant}")?;
        }
        if let Some(stream) = &self.stream {
            write!(f, ", {stream}")?;
        }
        write!(f, ": {}", self.what)?;
        self.block.as_ref().map_or(Ok(()), |block| write!(f, " ({block})"))
    }
}

/// A range that could not be compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotCompared {
    /// The range.
    pub range: OffsetRange,
    /// The reason.
    pub why: String,
}

/// A block that was rebuilt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rebuilt {
    /// The key of the old block.
    pub old: String,
    /// The new block, as the head lists it.
    pub new: BlockEntry,
    /// How the old block compares with the log.
    pub old_block: OldBlock,
}

/// How an old block compares with the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OldBlock {
    /// It holds the same entries.
    Same,
    /// It holds other entries: the number of differences, and the first of them.
    Different(u64, Vec<Difference>),
    /// It cannot be read.
    Unreadable(String),
}

/// A block that was not rebuilt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SkippedBlock {
    /// Its key.
    pub key: String,
    /// Its range.
    pub range: OffsetRange,
    /// The reason.
    pub why: String,
}

impl State {
    /// The state of a replay that has not begun.
    pub fn new(id: &str, log_id: &str, job: Job, plans: &[PartitionPlan]) -> Self {
        let partitions = plans.iter().map(PartitionState::new).collect();
        let (id, log_id) = (id.to_owned(), log_id.to_owned());
        Self { format: FORMAT, id, log_id, job, finished: false, target_position: None, partitions }
    }

    /// Reads a state from the file that a [`StateFile`] wrote.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn load(file: &Path) -> Result<Self, Error> {
        let wrong = |reason: String| Error::State { file: file.display().to_string(), reason };
        let bytes = fs::read(file).map_err(|error| wrong(error.to_string()))?;
        let state: Self =
            serde_json::from_slice(&bytes).map_err(|error| wrong(format!("it cannot be read: {error}")))?;
        if state.format != FORMAT {
            return Err(wrong(format!("it has format {}, this program reads {FORMAT}", state.format)));
        }
        Ok(state)
    }

    /// The selected entries that were read.
    pub fn read(&self) -> Amount {
        self.sum(|partition| partition.read)
    }

    /// The part of that which is not in blocks yet.
    pub fn not_in_blocks(&self) -> Amount {
        self.sum(|partition| partition.not_in_blocks)
    }

    /// Number of differences between log and blocks.
    pub fn differences(&self) -> u64 {
        self.partitions.iter().map(|partition| partition.differences_count).sum()
    }

    fn sum(&self, pick: impl Fn(&PartitionState) -> Amount) -> Amount {
        let mut sum = Amount::default();
        self.partitions.iter().for_each(|partition| sum += pick(partition));
        sum
    }
}

impl PartitionState {
    fn new(plan: &PartitionPlan) -> Self {
        Self {
            partition: plan.partition,
            range: plan.range,
            cut_off: plan.cut_off,
            at: Position::at(plan.range.start),
            read: Amount::default(),
            undecodable: 0,
            not_in_blocks: Amount::default(),
            steps: 0,
            differences: Vec::new(),
            differences_count: 0,
            not_compared: Vec::new(),
            rebuilt: Vec::new(),
            swapped: false,
            left: Vec::new(),
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.at.offset() >= self.range.end
    }

    pub(crate) fn add_differences(&mut self, found: Vec<Difference>) {
        self.differences_count += found.len() as u64;
        let room = DIFFERENCES_MAX.saturating_sub(self.differences.len());
        self.differences.extend(found.into_iter().take(room));
    }
}

/// Stores the state of a replay.
#[async_trait]
pub trait Keep: Send + Sync {
    /// Replaces the stored state. The new one survives a crash.
    async fn keep(&self, state: &State) -> Result<(), Error>;
}

/// A file that is replaced atomically.
#[derive(Clone, Debug)]
pub struct StateFile(PathBuf);

impl StateFile {
    /// A state file at this path.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    fn write(&self, bytes: &[u8]) -> std::io::Result<()> {
        let mut new = self.0.as_os_str().to_owned();
        new.push(".new");
        let mut file = File::create(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, &self.0)
    }
}

#[async_trait]
impl Keep for StateFile {
    #[expect(clippy::disallowed_methods, reason = "this is the one place of a replay that writes a file")]
    async fn keep(&self, state: &State) -> Result<(), Error> {
        let wrong = |reason: String| Error::State { file: self.0.display().to_string(), reason };
        let bytes = serde_json::to_vec(state).map_err(|error| wrong(error.to_string()))?;
        let file = self.clone();
        let written = tokio::task::spawn_blocking(move || file.write(&bytes)).await;
        written.map_err(|error| wrong(error.to_string()))?.map_err(|error| wrong(error.to_string()))
    }
}
