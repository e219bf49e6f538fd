//! Objects as files in a local folder.
//!
//! The key `a/b/c` is the file `a/b/c` in the folder. A key cannot begin with `#`, so the store uses such names for its
//! own files: `#temporary/` holds files that are being written, and `#locks/` holds the locks that writers take while
//! they check and replace an object.
//!
//! A put writes a temporary file and syncs it. Then it takes the key's lock, checks the condition, and moves the file
//! into place. Finally it syncs the folders on the path. So a reader sees either the old bytes or the new ones, writers of
//! all processes decide on the current state, and an acknowledged put survives a power cut. Readers take no lock. A put
//! whose future is dropped may still happen.
//!
//! Unlike other stores, a folder cannot hold an object `a` and an object `a/b` at the same time. The later put fails.

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
use model::{Random, SystemRandom};
use tokio::sync::Semaphore;
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    Object, ObjectKey, ObjectMeta, ObjectStore, PutCondition, StoreError, Version, check_range, ranges, version_of,
};

/// The most concurrent reads. Enough to keep a disk's queue full, few enough to bound threads and open files.
const READS_MAX: usize = 32;
/// The most concurrent writes. Reads and writes have separate limits, so that neither delays the other.
const WRITES_MAX: usize = 16;
/// Ranges of one call that are at most this far apart are read at once: reading the gap is cheaper than another call.
const GAP_BYTES_MAX: u64 = 32 << 10;
/// The number of locks that all keys share.
const LOCKS: u64 = 64;
/// Temporary files that are older than this were left behind by a crash.
const TEMPORARY_AGE_MAX: Duration = Duration::from_secs(3600);
/// Number of times that a put recreates its folders if deletes keep removing them because they are empty.
const MOVE_TRIES: usize = 100;

const TEMPORARY: &str = "#temporary";
const LOCK_FOLDER: &str = "#locks";

/// Keeps objects as files in a folder. Any number of instances and processes on one machine may share the folder.
#[derive(Clone, Debug)]
pub struct FolderStore {
    folder: Arc<Folder>,
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
}

impl FolderStore {
    /// Opens the folder or creates it, and removes temporary files that crashes left behind. Blocks for a moment.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if the folder cannot be created or written to.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_with(path, &SystemRandom)
    }

    /// Like [`FolderStore::open`], with the caller's randomness, which distinguishes the temporary files of instances.
    ///
    /// # Errors
    /// As [`FolderStore::open`].
    pub fn open_with(path: impl AsRef<Path>, random: &dyn Random) -> Result<Self, StoreError> {
        let path = path.as_ref();
        let folder = Folder::open(path, random).map_err(|error| StoreError::Unavailable {
            doing: format!("opening the folder {}", path.display()),
            reason: error.to_string(),
        })?;
        Ok(Self {
            folder: Arc::new(folder),
            reads: Arc::new(Semaphore::new(READS_MAX)),
            writes: Arc::new(Semaphore::new(WRITES_MAX)),
        })
    }

    /// The path of the folder.
    pub fn path(&self) -> &Path {
        &self.folder.root
    }

    /// Runs `work` on a thread that may block. All file I/O of the store goes through here.
    #[expect(clippy::disallowed_methods, reason = "the one place for the store's file I/O, bounded by permits")]
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

/// The part of the store that blocks.
#[derive(Debug)]
struct Folder {
    root: PathBuf,
    temporary: PathBuf,
    locks: PathBuf,
    /// Numbers the temporary files of this instance.
    writes: AtomicU64,
    /// Distinguishes the instances of all processes.
    instance: u64,
}

impl Folder {
    fn open(path: &Path, random: &dyn Random) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        let root = path.canonicalize()?;
        let (temporary, locks) = (root.join(TEMPORARY), root.join(LOCK_FOLDER));
        for folder in [&temporary, &locks] {
            fs::create_dir_all(folder)?;
        }
        let folder = Self { root, temporary, locks, writes: AtomicU64::new(0), instance: random.next_u64() };
        sync_folder(&folder.root)?;
        if let Some(parent) = folder.root.parent() {
            // Best effort: this process may not be allowed to open the parent.
            let _ = sync_folder(parent);
        }
        folder.remove_stale_temporaries()?;
        Ok(folder)
    }

    /// Measures ages by the file system's clock: the modification time of a new file is now.
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

    /// Takes the key's lock among all threads and processes, until the returned file is dropped.
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
        // The object is visible now. If a sync fails, a power cut may still lose it.
        for folder in target.ancestors().skip(1).take_while(|folder| folder.starts_with(&self.root)) {
            match sync_folder(folder) {
                Err(error) if !is_absent(&error) => return Err(failed("syncing the folder of", key, &error)),
                // If the folder is absent, the object was deleted meanwhile.
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
                    return Err(StoreError::Key(format!("{key} (it conflicts with another object in the folder)")));
                }
                // A delete removed a folder between the two calls, or while it was being created.
                Err(error) if is_gone_meanwhile(&error) && temporary.path.exists() => last = error,
                Err(error) => return Err(failed("moving into place", key, &error)),
            }
        }
        Err(failed("moving into place", key, &last))
    }

    /// True if there is a file where `target` needs a folder, or a folder where `target` should be.
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
                // A folder is not an object, and there are no objects below a file.
                Err(error) if is_absent(&error) || target.is_dir() => return Ok(()),
                Err(error) => return Err(failed("deleting", key, &error)),
            }
        }
        for folder in target.ancestors().skip(1).take_while(|folder| *folder != self.root) {
            // Fails if the folder is not empty, for example because another process has just put an object there.
            if fs::remove_dir(folder).is_err() {
                break;
            }
        }
        Ok(())
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        let mut found = Vec::new();
        // The deepest folder that holds all keys with the prefix. No key begins with an invalid prefix.
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
        // The order of a walk differs from the order of keys, in which `a-b` comes before `a/b`.
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
            // Skip files whose path is not a key: temporary files, locks, files of others.
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

/// A file that is being written. It is removed when this is dropped, unless it was moved.
struct Temporary {
    path: PathBuf,
    moved: bool,
}

impl Temporary {
    /// Writes and syncs a new file.
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
            tracing::warn!(file = %self.path.display(), %error, "cannot remove a temporary file");
        }
    }
}

/// An object that is open for reading. A put does not change the bytes that this reads.
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
        let joined = ranges::join(ranges, GAP_BYTES_MAX);
        let parts = joined.iter().map(|range| self.read(range.clone())).collect::<Result<Vec<_>, _>>()?;
        Ok(ranges.iter().map(|range| ranges::cut_out(range, &joined, |i| &parts[i])).collect())
    }
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

/// True if the file does not exist, including the case that a part of its path is a file.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// True for errors of creating a folder, or moving a file into it, while the folder is being removed.
fn is_gone_meanwhile(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists)
}

fn failed(doing: &str, key: &ObjectKey, error: &io::Error) -> StoreError {
    StoreError::Unavailable { doing: format!("{doing} {key:?}", key = key.as_str()), reason: error.to_string() }
}

#[cfg(test)]
mod tests;
