//! The log's folder: its lock, the log's identity, and the list of files.
//!
//! ```text
//! lock                       held by the process that uses the log
//! log                        the log's id and number of partitions
//! committed                  the committed offsets; a hint that is not synced
//! 00000000000000000001.seg   records
//! 00000000000000000001.idx   the index of a full segment; may be deleted
//! ```
//!
//! Only this module and `segment` use the file system, and only on threads that may block ([`blocking`]).

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use model::Offset;
use rustix::fs::{FlockOperation, flock};

use crate::LogError;

/// An error about a folder that cannot be used.
pub(super) fn unusable(folder: &Path, reason: impl Into<String>) -> LogError {
    LogError::Open { folder: folder.display().to_string(), reason: reason.into() }
}

/// Runs work on the log's files on a thread that may block.
#[expect(clippy::disallowed_methods, reason = "all file I/O of the log that does not run on its writer's thread")]
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(LogError::Unavailable(format!("work on the log's files did not finish: {error}"))))
}

/// The exclusive right to use a folder, until this is dropped or the process ends.
pub(super) struct FolderLock(File);

impl Drop for FolderLock {
    fn drop(&mut self) {
        // Closing the file is not enough: if another thread is starting a child process, that shares it for a moment.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

/// Creates the folder if necessary, and locks it.
pub(super) fn lock(folder: &Path) -> Result<FolderLock, LogError> {
    let io = |error: io::Error| unusable(folder, error.to_string());
    if !folder.exists() {
        fs::create_dir_all(folder).map_err(io)?;
        if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_folder(parent).map_err(io)?;
        }
    }
    let file = File::options().create(true).truncate(false).write(true).open(folder.join("lock")).map_err(io)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(FolderLock(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(unusable(
            folder,
            "another process is using it. Only one process can use a local log: stop the other process, or choose \
             another folder",
        )),
        Err(error) => Err(unusable(folder, format!("it cannot be locked: {error}"))),
    }
}

/// The content of the file `log`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LogIdentity {
    pub(super) log_id: String,
    pub(super) partitions: u32,
}

impl LogIdentity {
    /// Reads the file. Returns `None` if it does not exist.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>, LogError> {
        let path = folder.join("log");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unusable(folder, format!("cannot read the file 'log': {error}"))),
        };
        let parsed = Self::parse(&text);
        parsed.map(Some).ok_or_else(|| unusable(folder, "the file 'log' is damaged; restore the folder from a copy"))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next()? != "millrace-log 1" {
            return None;
        }
        let log_id = lines.next()?.strip_prefix("id ")?.to_owned();
        let partitions = lines.next()?.strip_prefix("partitions ")?.parse().ok()?;
        (!log_id.is_empty()).then_some(Self { log_id, partitions })
    }

    /// Writes the file so that it survives a crash.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        let text = format!("millrace-log 1\nid {}\npartitions {}\n", self.log_id, self.partitions);
        write_durably(&folder.join("log"), text.as_bytes()).map(drop)
    }
}

/// The sequence numbers of the segments, in order. Removes the files of unfinished writes.
pub(super) fn segments(folder: &Path) -> io::Result<Vec<u64>> {
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        if name.to_str().is_some_and(|name| name.ends_with(".new")) {
            fs::remove_file(folder.join(name))?;
        }
    }
    list_segments(folder)
}

/// The sequence numbers of the segments, in order.
pub(super) fn list_segments(folder: &Path) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        if let Some(sequence) = name.strip_suffix(".seg").and_then(|digits| digits.parse().ok()) {
            found.push(sequence);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Reads the committed offsets. They are hints, so what cannot be read is ignored.
pub(super) fn read_committed(folder: &Path, partitions: u32) -> Vec<Option<Offset>> {
    let mut committed = vec![None; partitions as usize];
    let text = fs::read_to_string(folder.join("committed")).unwrap_or_default();
    for line in text.lines() {
        let pair = line.split_once(' ').and_then(|(p, o)| Some((p.parse::<usize>().ok()?, o.parse::<i64>().ok()?)));
        if let Some((partition, offset)) = pair
            && let Some(slot) = committed.get_mut(partition)
        {
            *slot = Some(Offset::new(offset));
        }
    }
    committed
}

/// Writes the committed offsets.
pub(super) fn write_committed(folder: &Path, committed: &[Option<Offset>]) -> io::Result<()> {
    let mut text = String::new();
    for (partition, offset) in committed.iter().enumerate() {
        if let Some(offset) = offset {
            text.push_str(&format!("{partition} {offset}\n"));
        }
    }
    write_hint(folder, &folder.join("committed"), text.as_bytes())
}

/// Writes a file so that after a crash it either has all its content or does not exist. Returns it open at its end.
pub(super) fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let new = new_name(path);
    let mut file = File::options().create(true).truncate(true).read(true).write(true).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    if let Some(parent) = path.parent() {
        sync_folder(parent)?;
    }
    Ok(file)
}

/// Replaces a file in one step, without waiting for the disk.
pub(super) fn write_hint(folder: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    debug_assert_eq!(path.parent(), Some(folder), "the log only writes in its own folder");
    let new = new_name(path);
    fs::write(&new, bytes)?;
    fs::rename(&new, path)
}

/// Makes the creation, renaming and removal of files in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn new_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_released_although_its_file_is_shared() {
        let folder = tempfile::tempdir().unwrap();
        let held = lock(folder.path()).unwrap();
        assert!(lock(folder.path()).is_err());
        let shared = held.0.try_clone().unwrap();
        drop(held);
        assert!(lock(folder.path()).is_ok());
        drop(shared);
    }

    #[test]
    fn identity() {
        let check = |text: &str, expected: Option<(&str, u32)>| {
            let expected = expected.map(|(id, partitions)| LogIdentity { log_id: id.to_owned(), partitions });
            assert_eq!(LogIdentity::parse(text), expected, "{text:?}");
        };
        check("millrace-log 1\nid ab\npartitions 4\n", Some(("ab", 4)));
        check("millrace-log 2\nid ab\npartitions 4\n", None);
        check("millrace-log 1\nid ab\npart", None);
        check("millrace-log 1\nid \npartitions 4\n", None);
        check("", None);
    }

    #[test]
    fn committed_offsets() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read_committed(folder.path(), 2), [None, None]);
        write_committed(folder.path(), &[None, Some(Offset::new(7))]).unwrap();
        assert_eq!(read_committed(folder.path(), 2), [None, Some(Offset::new(7))]);
        fs::write(folder.path().join("committed"), "x\n0 5\n1\n9 9\n").unwrap();
        assert_eq!(read_committed(folder.path(), 2), [Some(Offset::new(5)), None]);
    }
}
