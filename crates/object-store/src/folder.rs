//! Objects as files of a local folder.
//!
//! The key `a/b/c` is the file `a/b/c` under the folder. Names that begin with `#` cannot be keys; the store keeps its
//! own things under them: `#temporary/` holds files that are being written, `#locks/` what writers hold while they look
//! at an object and replace it.
//!
//! A put writes a temporary file, syncs it, and moves it into place under the key's lock, after it has checked the
//! condition under the same lock; then it syncs the folders on the path. So a reader sees the old bytes or the new
//! ones, a writer of any process decides on what is really there, and what was answered survives a power cut. Readers
//! take no lock. A put whose future is dropped may still happen.
//!
//! One thing a folder cannot do: hold an object `a` and an object `a/b` at once. The later put is refused.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio::sync::Semaphore;
use xxhash_rust::xxh3::xxh3_64;

use crate::{Object, ObjectKey, ObjectMeta, ObjectStore, PutCondition, StoreError, Version, check_range, version_of};

/// Reads at once; more wait. Enough to keep a disk's queue full, few enough to bound threads and open files.
const READS_MAX: usize = 32;
/// Writes at once; more wait. Apart from reads, so that neither holds up the other.
const WRITES_MAX: usize = 16;
/// Ranges of one call that are at most this far apart are read as one: reading on is cheaper than another call.
const GAP_BYTES_MAX: u64 = 32 << 10;
/// Joined reads grow no larger than this.
const JOINED_BYTES_MAX: u64 = 8 << 20;
/// Keys share this many locks.
const LOCKS: u64 = 64;
/// Temporary files that were not touched for so long belong to nobody any more.
const TEMPORARY_AGE_MAX: Duration = Duration::from_secs(3600);
/// How often a put makes its folders anew when deletes keep removing them, empty as they are.
const MOVE_TRIES: usize = 100;

const TEMPORARY: &str = "#temporary";
const LOCK_FOLDER: &str = "#locks";

/// Keeps objects as files of a folder. Any number of instances and processes of one machine may share the folder.
#[derive(Clone, Debug)]
pub struct FolderStore {
    folder: Arc<Folder>,
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
}

impl FolderStore {
    /// Opens the folder, or makes it, and removes temporary files that crashes left behind. Blocks for a moment.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the folder cannot be made or written to.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = path.as_ref();
        let folder = Folder::open(path).map_err(|error| StoreError::Unavailable {
            doing: format!("opening the folder {}", path.display()),
            reason: error.to_string(),
        })?;
        Ok(Self {
            folder: Arc::new(folder),
            reads: Arc::new(Semaphore::new(READS_MAX)),
            writes: Arc::new(Semaphore::new(WRITES_MAX)),
        })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.folder.root
    }

    /// Runs `work` on a thread that may block.
    async fn run<T: Send + 'static>(
        &self,
        permits: &Arc<Semaphore>,
        work: impl FnOnce(&Folder) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = permits.clone().acquire_owned().await.expect("the semaphore is never closed");
        let folder = self.folder.clone();
        let task = tokio::task::spawn_blocking(move || {
            let outcome = work(&folder);
            drop(permit);
            outcome
        });
        task.await.unwrap_or_else(|error| {
            Err(StoreError::Unavailable { doing: "working on a folder".to_owned(), reason: error.to_string() })
        })
    }
}

#[async_trait]
impl ObjectStore for FolderStore {
    async fn get(&self, key: &ObjectKey) -> Result<Object, StoreError> {
        let key = key.clone();
        self.run(&self.reads, move |folder| {
            let bytes = folder.read(&key)?;
            let version = version_of(&bytes);
            Ok(Object { bytes, version })
        })
        .await
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        let key = key.clone();
        self.run(&self.reads, move |folder| OpenObject::open(folder, &key)?.read(range)).await
    }

    async fn get_ranges(&self, key: &ObjectKey, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, StoreError> {
        let (key, ranges) = (key.clone(), ranges.to_vec());
        self.run(&self.reads, move |folder| OpenObject::open(folder, &key)?.read_all(&ranges)).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
        let key = key.clone();
        self.run(&self.reads, move |folder| {
            let bytes = folder.length(&key)?.ok_or_else(|| StoreError::NotFound(key.to_string()))?;
            Ok(ObjectMeta { key, bytes })
        })
        .await
    }

    async fn put(&self, key: &ObjectKey, bytes: Bytes, condition: PutCondition) -> Result<Version, StoreError> {
        let key = key.clone();
        self.run(&self.writes, move |folder| folder.put(&key, &bytes, &condition)).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let key = key.clone();
        self.run(&self.writes, move |folder| folder.delete(&key)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        let prefix = prefix.to_owned();
        self.run(&self.reads, move |folder| folder.list(&prefix)).await
    }
}

/// The blocking half.
#[derive(Debug)]
struct Folder {
    root: PathBuf,
    temporary: PathBuf,
    locks: PathBuf,
    /// Names temporary files of this instance apart.
    writes: AtomicU64,
    /// Names instances apart, in whatever process they are.
    instance: u64,
}

impl Folder {
    fn open(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        let root = path.canonicalize()?;
        let (temporary, locks) = (root.join(TEMPORARY), root.join(LOCK_FOLDER));
        for folder in [&temporary, &locks] {
            fs::create_dir_all(folder)?;
        }
        let folder = Self { root, temporary, locks, writes: AtomicU64::new(0), instance: fastrand::u64(..) };
        sync_folder(&folder.root)?;
        if let Some(parent) = folder.root.parent() {
            // Best effort: the folder's parent need not be ours to open.
            let _ = sync_folder(parent);
        }
        folder.remove_stale_temporaries()?;
        Ok(folder)
    }

    /// Judges age by the file system's own clock: by the time it gives a file made now.
    fn remove_stale_temporaries(&self) -> io::Result<()> {
        let probe = Temporary::write(self, b"")?;
        let now = fs::metadata(&probe.path)?.modified()?;
        for entry in fs::read_dir(&self.temporary)? {
            let path = entry?.path();
            let Ok(modified) = fs::metadata(&path).and_then(|metadata| metadata.modified()) else { continue };
            if now.duration_since(modified).is_ok_and(|age| age > TEMPORARY_AGE_MAX) {
                tracing::info!(file = %path.display(), "removing a temporary file that a crash left behind");
                remove_if_there(&path)?;
            }
        }
        Ok(())
    }

    fn path(&self, key: &ObjectKey) -> PathBuf {
        self.root.join(key.as_str())
    }

    /// Held until dropped, among all threads and processes.
    fn lock(&self, key: &ObjectKey) -> io::Result<File> {
        let number = xxh3_64(key.as_str().as_bytes()) % LOCKS;
        let path = self.locks.join(format!("{number:02}"));
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        file.lock()?;
        Ok(file)
    }

    fn read(&self, key: &ObjectKey) -> Result<Bytes, StoreError> {
        let object = OpenObject::open(self, key)?;
        object.read(0..object.bytes)
    }

    fn length(&self, key: &ObjectKey) -> Result<Option<u64>, StoreError> {
        match fs::metadata(self.path(key)) {
            Ok(metadata) => Ok(metadata.is_file().then_some(metadata.len())),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(failed("looking at", key, &error)),
        }
    }

    fn put(&self, key: &ObjectKey, bytes: &Bytes, condition: &PutCondition) -> Result<Version, StoreError> {
        let temporary = Temporary::write(self, bytes).map_err(|error| failed("writing", key, &error))?;
        let target = self.path(key);
        {
            let _lock = self.lock(key).map_err(|error| failed("locking", key, &error))?;
            if !self.holds(key, condition)? {
                return Err(StoreError::Precondition(key.to_string()));
            }
            self.move_into_place(temporary, key, &target)?;
        }
        // From here on others see the object; a failure means that it may be lost again when the power goes.
        for folder in target.ancestors().skip(1).take_while(|folder| folder.starts_with(&self.root)) {
            match sync_folder(folder) {
                Err(error) if !is_absent(&error) => return Err(failed("syncing the folder of", key, &error)),
                // Absent: the object was deleted meanwhile, and its folder with it.
                _ => {}
            }
        }
        Ok(version_of(bytes))
    }

    fn holds(&self, key: &ObjectKey, condition: &PutCondition) -> Result<bool, StoreError> {
        match condition {
            PutCondition::Always => Ok(true),
            PutCondition::IfAbsent => Ok(self.length(key)?.is_none()),
            PutCondition::IfVersion(expected) => match self.read(key) {
                Ok(bytes) => Ok(version_of(&bytes) == *expected),
                Err(StoreError::NotFound(_)) => Ok(false),
                Err(error) => Err(error),
            },
        }
    }

    fn move_into_place(&self, temporary: Temporary, key: &ObjectKey, target: &Path) -> Result<(), StoreError> {
        let parent = target.parent().unwrap_or(&self.root);
        let mut last = io::Error::from(ErrorKind::NotFound);
        for _ in 0..MOVE_TRIES {
            let moved = fs::create_dir_all(parent).and_then(|()| fs::rename(&temporary.path, target));
            match moved {
                Ok(()) => {
                    temporary.moved();
                    return Ok(());
                }
                Err(_) if self.is_in_the_way(target) => {
                    return Err(StoreError::Key(format!("{key} (the folder holds an object whose key is part of it)")));
                }
                // A delete took a folder away between the two calls, or while it was being made.
                Err(error) if is_gone_meanwhile(&error) && temporary.path.exists() => last = error,
                Err(error) => return Err(failed("moving into place", key, &error)),
            }
        }
        Err(failed("moving into place", key, &last))
    }

    /// True when a file lies where `target` needs a folder, or a folder where `target` should be.
    fn is_in_the_way(&self, target: &Path) -> bool {
        let mut folders = target.ancestors().skip(1).take_while(|folder| folder.starts_with(&self.root));
        target.is_dir() || folders.any(Path::is_file)
    }

    fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let target = self.path(key);
        {
            let _lock = self.lock(key).map_err(|error| failed("locking", key, &error))?;
            match fs::remove_file(&target) {
                Ok(()) => {}
                // A folder of this name is no object; nor is what lies under a file.
                Err(error) if is_absent(&error) || target.is_dir() => return Ok(()),
                Err(error) => return Err(failed("deleting", key, &error)),
            }
        }
        for folder in target.ancestors().skip(1).take_while(|folder| *folder != self.root) {
            // Refused by the system where something is left inside, also by another process at this moment.
            if fs::remove_dir(folder).is_err() {
                break;
            }
        }
        Ok(())
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        let mut found = Vec::new();
        // The deepest folder that holds all keys of the prefix; a prefix that is no beginning of a key has none.
        let folder = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
        if !folder.is_empty() && ObjectKey::new(folder).is_err() {
            return Ok(found);
        }
        let mut folders = vec![self.root.join(folder)];
        while let Some(folder) = folders.pop() {
            let seen = self.list_folder(&folder, prefix, &mut folders, &mut found);
            seen.map_err(|error| StoreError::Unavailable {
                doing: format!("listing {prefix:?}"),
                reason: format!("{}: {error}", folder.display()),
            })?;
        }
        // Folder order is not key order: `a-b` comes before `a/b`.
        found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    fn list_folder(
        &self,
        folder: &Path,
        prefix: &str,
        folders: &mut Vec<PathBuf>,
        found: &mut Vec<ObjectMeta>,
    ) -> io::Result<()> {
        let entries = match fs::read_dir(folder) {
            Err(error) if is_absent(&error) => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            // What is no key is not ours: temporary files, locks, strangers.
            let key =
                path.strip_prefix(&self.root).ok().and_then(Path::to_str).and_then(|text| ObjectKey::new(text).ok());
            let Some(key) = key else { continue };
            let kind = entry.file_type()?;
            if kind.is_dir() {
                let inside = format!("{key}/");
                if inside.starts_with(prefix) || prefix.starts_with(&inside) {
                    folders.push(path);
                }
            } else if kind.is_file() && key.as_str().starts_with(prefix) {
                match entry.metadata() {
                    Ok(metadata) => found.push(ObjectMeta { key, bytes: metadata.len() }),
                    Err(error) if is_absent(&error) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

/// A file being written. Removed when dropped, unless it was moved.
struct Temporary {
    path: PathBuf,
    moved: bool,
}

impl Temporary {
    /// Writes and syncs.
    fn write(folder: &Folder, bytes: &[u8]) -> io::Result<Self> {
        let number = folder.writes.fetch_add(1, Ordering::Relaxed);
        let path = folder.temporary.join(format!("{:016x}-{number}", folder.instance));
        let mut file = OpenOptions::new().create_new(true).write(true).open(&path)?;
        let temporary = Self { path, moved: false };
        file.write_all(bytes)?;
        file.sync_data()?;
        Ok(temporary)
    }

    fn moved(mut self) {
        self.moved = true;
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.moved
            && let Err(error) = remove_if_there(&self.path)
        {
            tracing::warn!(file = %self.path.display(), %error, "a temporary file could not be removed");
        }
    }
}

/// An object being read: one content, whatever is put meanwhile.
struct OpenObject<'a> {
    key: &'a ObjectKey,
    file: File,
    bytes: u64,
}

impl<'a> OpenObject<'a> {
    fn open(folder: &Folder, key: &'a ObjectKey) -> Result<Self, StoreError> {
        let not_found = || StoreError::NotFound(key.to_string());
        let file = match File::open(folder.path(key)) {
            Err(error) if is_absent(&error) => return Err(not_found()),
            opened => opened.map_err(|error| failed("opening", key, &error))?,
        };
        let metadata = file.metadata().map_err(|error| failed("looking at", key, &error))?;
        if !metadata.is_file() {
            return Err(not_found());
        }
        Ok(Self { key, file, bytes: metadata.len() })
    }

    fn read(&self, range: Range<u64>) -> Result<Bytes, StoreError> {
        let positions = check_range(self.key, self.bytes, range.clone())?;
        let mut buffer = BytesMut::zeroed(positions.len());
        self.file.read_exact_at(&mut buffer, range.start).map_err(|error| failed("reading", self.key, &error))?;
        Ok(buffer.freeze())
    }

    fn read_all(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, StoreError> {
        for range in ranges {
            check_range(self.key, self.bytes, range.clone())?;
        }
        let mut out = vec![Bytes::new(); ranges.len()];
        for joined in join(ranges) {
            let bytes = self.read(joined.range.clone())?;
            for i in joined.members {
                let start = ranges[i].start - joined.range.start;
                let end = ranges[i].end - joined.range.start;
                out[i] = bytes.slice(check_range(self.key, bytes.len() as u64, start..end)?);
            }
        }
        Ok(out)
    }
}

/// Several ranges read as one.
#[derive(Debug, PartialEq)]
struct Joined {
    range: Range<u64>,
    /// Which of the ranges asked for lie in it.
    members: Vec<usize>,
}

/// Joins ranges that overlap or lie near one another, in whatever order they were asked for.
fn join(ranges: &[Range<u64>]) -> Vec<Joined> {
    let mut order: Vec<usize> = (0..ranges.len()).filter(|i| !ranges[*i].is_empty()).collect();
    order.sort_unstable_by_key(|i| (ranges[*i].start, ranges[*i].end));
    let mut joined: Vec<Joined> = Vec::new();
    for i in order {
        let range = &ranges[i];
        if let Some(last) = joined.last_mut() {
            let end = last.range.end.max(range.end);
            let near = range.start <= last.range.end.saturating_add(GAP_BYTES_MAX);
            let inside = range.end <= last.range.end;
            if inside || (near && end - last.range.start <= JOINED_BYTES_MAX) {
                last.range.end = end;
                last.members.push(i);
                continue;
            }
        }
        joined.push(Joined { range: range.clone(), members: vec![i] });
    }
    joined
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// There is no such file: also when a part of its path is a file.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// What making a folder, or moving a file into it, says when the folder vanishes at that moment.
fn is_gone_meanwhile(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists)
}

fn failed(doing: &str, key: &ObjectKey, error: &io::Error) -> StoreError {
    StoreError::Unavailable { doing: format!("{doing} {key:?}", key = key.as_str()), reason: error.to_string() }
}

#[cfg(test)]
mod tests;
