//! How far a replay has come, and what it found: kept in a file, so that it can be stopped and resumed.

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

/// The format that is written and read.
const FORMAT: u32 = 1;
/// So many differences of a partition are kept; further ones are only counted.
const DIFFERENCES_MAX: usize = 1000;

/// How far a replay has come, and what it found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The format of this file.
    pub format: u32,
    /// Names this replay; batches are named after it.
    pub id: String,
    /// The log.
    pub log_id: String,
    /// What was asked for.
    pub job: Job,
    /// Everything is done.
    pub finished: bool,
    /// What [`Target::position`](super::Target::position) said after the last acknowledged batch.
    pub target_position: Option<u64>,
    /// One for each partition of the job.
    pub partitions: Vec<PartitionState>,
}

/// How far one partition has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartitionState {
    /// The partition.
    pub partition: PartitionId,
    /// The offsets of the window, fixed when the replay began.
    pub range: OffsetRange,
    /// The window begins where the log does now: retention may have removed some of it.
    pub cut_off: bool,
    /// Where to go on.
    pub at: Position,
    /// What was read and wanted.
    pub read: Amount,
    /// Records of the wanted tenants that could not be decoded.
    pub undecodable: u64,
    /// Of that, what is not in blocks yet, since it lies above the flushed-to offset.
    pub not_in_blocks: Amount,
    /// Blocks that were compared, or batches that were sent.
    pub steps: u64,
    /// What differs between log and blocks, the first ones.
    pub differences: Vec<Difference>,
    /// How many differences there are.
    pub differences_count: u64,
    /// What could not be compared.
    pub not_compared: Vec<NotCompared>,
    /// Blocks that were made anew.
    pub rebuilt: Vec<Rebuilt>,
    /// The head lists the rebuilt blocks.
    pub swapped: bool,
    /// Blocks that were left as they are.
    pub left: Vec<SkippedBlock>,
}

/// A place between two entries of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// The record that comes next.
    pub next: i64,
    /// How many of its entries are done already.
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

/// How much of something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Amount {
    /// Records of the log.
    pub records: u64,
    /// Entries.
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

/// Something that is otherwise in blocks than in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    /// The partition.
    pub partition: PartitionId,
    /// The smallest range of offsets that holds all of it.
    pub range: OffsetRange,
    /// The block, when one holds the range.
    pub block: Option<String>,
    /// Whose entries.
    pub tenant: Option<TenantId>,
    /// The stream.
    pub stream: Option<String>,
    /// What differs, in words.
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
    /// Why not.
    pub why: String,
}

/// A block that was made anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rebuilt {
    /// The key of the block before.
    pub old: String,
    /// The new block, as the head lists it.
    pub new: BlockEntry,
    /// What the old block was like.
    pub old_block: OldBlock,
}

/// What a block was like that was made anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OldBlock {
    /// It held the same entries.
    Same,
    /// It held others: how many differences there are, and the first of them.
    Different(u64, Vec<Difference>),
    /// It could not be read.
    Unreadable(String),
}

/// A block that was left as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SkippedBlock {
    /// Its key.
    pub key: String,
    /// Its range.
    pub range: OffsetRange,
    /// Why.
    pub why: String,
}

impl State {
    /// The state of a replay that has not begun.
    pub fn new(id: &str, log_id: &str, job: Job, plans: &[PartitionPlan]) -> Self {
        let partitions = plans.iter().map(PartitionState::new).collect();
        let (id, log_id) = (id.to_owned(), log_id.to_owned());
        Self { format: FORMAT, id, log_id, job, finished: false, target_position: None, partitions }
    }

    /// Reads what [`StateFile`] wrote.
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

    /// Everything that was read.
    pub fn read(&self) -> Amount {
        self.sum(|partition| partition.read)
    }

    /// What is not in blocks yet.
    pub fn not_in_blocks(&self) -> Amount {
        self.sum(|partition| partition.not_in_blocks)
    }

    /// How many differences were found.
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

/// Where a state is kept.
#[async_trait]
pub trait Keep: Send + Sync {
    /// Keeps the state so that it survives a crash, in place of the one before.
    async fn keep(&self, state: &State) -> Result<(), Error>;
}

/// A file that is replaced in one step.
#[derive(Clone, Debug)]
pub struct StateFile(PathBuf);

impl StateFile {
    /// The state is kept at this path.
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
