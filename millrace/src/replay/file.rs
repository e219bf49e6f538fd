//! Writes batches to a file, one JSON object per entry; with `.zst` at the end of its name, compressed.
//!
//! A batch is acknowledged when the file is synced. The state then records the length of the file. When a replay is
//! resumed, bytes beyond that length are cut off, so that no entry is in the file twice.

use std::{
    fs::File,
    io::{self, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use anyhow::Context as _;
use async_trait::async_trait;
use block_builder::replay::{Batch, Entry, SendError, Target};
use model::{Labels, PartitionId};
use parking_lot::Mutex;
use serde::{Serialize, Serializer, ser::SerializeMap as _};

/// The compression level. Each batch is one frame; zstd readers take consecutive frames as one stream.
const ZSTD_LEVEL: i32 = 3;

/// A file that grows by whole batches.
pub(super) struct FileTarget {
    file: Arc<Mutex<File>>,
    path: PathBuf,
    packed: bool,
    bytes: AtomicU64,
}

impl FileTarget {
    /// Creates the file. A resumed replay opens the existing file and cuts it to the acknowledged length, `position`.
    pub(super) fn open(path: &Path, position: Option<u64>, goes_on: bool) -> anyhow::Result<Self> {
        let mut options = File::options();
        options.write(true).create_new(!goes_on).create(goes_on);
        let mut file = options.open(path).with_context(|| format!("cannot open {} for writing", path.display()))?;
        let bytes = position.unwrap_or(0);
        let mut cut = || {
            anyhow::ensure!(
                file.metadata()?.len() >= bytes,
                "it is shorter than what was acknowledged ({bytes} bytes)"
            );
            file.set_len(bytes)?;
            Ok(file.seek(SeekFrom::Start(bytes))?)
        };
        cut().with_context(|| format!("cannot go on with {}", path.display()))?;
        let packed = path.extension().is_some_and(|extension| extension == "zst");
        Ok(Self { file: Arc::new(Mutex::new(file)), path: path.to_owned(), packed, bytes: AtomicU64::new(bytes) })
    }
}

#[async_trait]
impl Target for FileTarget {
    async fn send(&self, batch: &Batch) -> Result<(), SendError> {
        let refused = |error: String| SendError::Refused(format!("{}: {error}", self.path.display()));
        let bytes = encode(batch, self.packed).map_err(|error| refused(error.to_string()))?;
        let (file, length) = (self.file.clone(), bytes.len() as u64);
        // A failed write is not retried: a resumed replay cuts off what it left.
        #[expect(clippy::disallowed_methods, reason = "blocking I/O, one write at a time")]
        let written = tokio::task::spawn_blocking(move || {
            let mut file = file.lock();
            file.write_all(&bytes)?;
            file.sync_data()
        });
        written.await.map_err(|error| refused(error.to_string()))?.map_err(|error| refused(error.to_string()))?;
        self.bytes.fetch_add(length, Relaxed);
        Ok(())
    }

    fn is_sequential(&self) -> bool {
        true
    }

    fn position(&self) -> Option<u64> {
        Some(self.bytes.load(Relaxed))
    }
}

/// One line of the file.
#[derive(Serialize)]
struct JsonEntry<'a> {
    /// Nanoseconds since the epoch, as text, because many JSON readers lose digits of such numbers.
    ts: String,
    labels: &'a Labels,
    #[serde(skip_serializing_if = "Pairs::is_empty")]
    metadata: Pairs<'a>,
    /// The line, if it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<&'a str>,
    /// The line in base64, if it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    line_base64: Option<String>,
    partition: PartitionId,
    offset: i64,
}

struct Pairs<'a>(&'a [(String, String)]);

impl Pairs<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Pairs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

fn encode(batch: &Batch, packed: bool) -> io::Result<Vec<u8>> {
    let mut lines = Vec::with_capacity(batch.bytes * 2);
    for Entry { stream, ts, line, metadata, offset } in &batch.entries {
        let text = std::str::from_utf8(line).ok();
        let entry = JsonEntry {
            ts: ts.nanos().to_string(),
            labels: &batch.streams[*stream].labels,
            metadata: Pairs(metadata),
            line: text,
            line_base64: text.is_none().then(|| base64(line)),
            partition: batch.partition,
            offset: offset.value(),
        };
        serde_json::to_writer(&mut lines, &entry)?;
        lines.push(b'\n');
    }
    if packed { zstd::stream::encode_all(&lines[..], ZSTD_LEVEL) } else { Ok(lines) }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = group.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for digit in 0..4 {
            let value = (word >> (18 - 6 * digit)) as usize & 63;
            text.push(if digit > group.len() { '=' } else { char::from(DIGITS[value]) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use block_builder::replay::BatchStream;
    use bytes::Bytes;
    use model::{Offset, TenantId, TimestampNs};

    use super::*;

    #[test]
    fn base64_of_all_lengths() {
        let check = |bytes: &[u8], expected: &str| assert_eq!(base64(bytes), expected);
        check(b"", "");
        check(b"f", "Zg==");
        check(b"fo", "Zm8=");
        check(b"foo", "Zm9v");
        check(b"\xff\xfe\xfd\xfc", "//79/A==");
    }

    fn batch(lines: &[&'static [u8]]) -> Batch {
        let tenant = TenantId::new("t").expect("a name");
        let entry = |line: &&'static [u8]| Entry {
            stream: 0,
            ts: TimestampNs::from_nanos(1_700_000_000_000_000_001),
            line: Bytes::from_static(line),
            metadata: vec![("k".to_owned(), "v".to_owned())],
            offset: Offset::new(5),
        };
        Batch {
            id: "x".to_owned(),
            partition: PartitionId::new(3),
            streams: vec![BatchStream { tenant, labels: Labels::from_pairs([("a", "b")]) }],
            entries: lines.iter().map(entry).collect(),
            bytes: 10,
        }
    }

    #[tokio::test]
    async fn resuming_cuts_off_unacknowledged_bytes() {
        let folder = tempfile::tempdir().expect("a folder");
        let one = r#"{"ts":"1700000000000000001","labels":{"a":"b"},"metadata":{"k":"v"},"line":"one","partition":3,"offset":5}"#;
        let two = r#"{"ts":"1700000000000000001","labels":{"a":"b"},"metadata":{"k":"v"},"line_base64":"/w==","partition":3,"offset":5}"#;
        for name in ["out.jsonl", "out.jsonl.zst"] {
            let path = folder.path().join(name);
            let target = FileTarget::open(&path, None, false).expect("new");
            target.send(&batch(&[b"one"])).await.expect("written");
            let acknowledged = target.position();
            target.send(&batch(&[b"lost"])).await.expect("written");
            assert!(FileTarget::open(&path, None, false).is_err(), "another replay must not write over it");
            let again = FileTarget::open(&path, acknowledged, true).expect("there");
            again.send(&batch(&[b"\xff", b"one"])).await.expect("written");
            assert_eq!(again.position(), Some(std::fs::metadata(&path).expect("there").len()));
            let bytes = std::fs::read(&path).expect("readable");
            let text = if again.packed { zstd::stream::decode_all(&bytes[..]).expect("zstd") } else { bytes };
            assert_eq!(String::from_utf8(text).expect("text"), format!("{one}\n{two}\n{one}\n"));
            assert!(FileTarget::open(&path, Some(1 << 20), true).is_err());
        }
    }
}
