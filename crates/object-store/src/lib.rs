//! Objects with compare-and-swap.
//!
//! [`ObjectStore`] is the trait; [`FolderStore`] keeps objects in a local folder, [`S3Store`] in a bucket of S3,
//! [`MemoryStore`] in memory (with faults injected by [`Faults`], for tests). All implementations pass [`contract`], one
//! suite.
//!
//! What every implementation promises: a put is seen whole or not at all; a conditional put is atomic among all
//! processes that use the store; after a put was answered every get sees it. A put that failed with
//! [`StoreError::Unavailable`] may have happened all the same: read again to know.

//!
//! Versions name contents: folder and memory use the XXH3-128 of the bytes, S3 its ETag. An object that goes from A to B
//! and back to A has its first version again, so whoever must tell those states apart (heads do) puts a fresh nonce
//! into what is written.

#![forbid(unsafe_code)]

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_128;

pub mod contract;
mod faults;
mod folder;
mod key;
mod memory;
pub mod s3;
mod self_test;

pub use faults::{Counts, Effect, Fault, Faults, Operation};
pub use folder::FolderStore;
pub use key::ObjectKey;
pub use memory::MemoryStore;
pub use s3::{S3Config, S3Error, S3Store};
pub use self_test::{SelfTestError, self_test};

/// Names one content of one object. Another content of the same object has another version.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version(pub String);

/// When a put may go through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutCondition {
    /// Always: the object is made or replaced.
    Always,
    /// Only when there is no such object (`If-None-Match: *`).
    IfAbsent,
    /// Only when the object is still of this version (`If-Match`).
    IfVersion(Version),
}

/// What is known of an object without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Its name.
    pub key: ObjectKey,
    /// Its length in bytes.
    pub bytes: u64,
}

/// An object's bytes and their version.
#[derive(Clone, Debug)]
pub struct Object {
    /// All of it.
    pub bytes: Bytes,
    /// For [`PutCondition::IfVersion`].
    pub version: Version,
}

/// What a store may answer instead.
#[derive(Debug, Error)]
pub enum StoreError {
    /// There is no such object.
    #[error("object {0:?} does not exist")]
    NotFound(String),
    /// The condition of a put did not hold; nothing was changed. Read the object and decide again.
    #[error("object {0:?} is not in the expected state")]
    Precondition(String),
    /// The text is no object key.
    #[error("{0:?} is no object key")]
    Key(String),
    /// A range behind the end of the object.
    #[error("object {key:?} has {bytes} bytes, asked for {range:?}")]
    Range {
        /// The object.
        key: String,
        /// Its length.
        bytes: u64,
        /// What was asked for.
        range: Range<u64>,
    },
    /// The store did not answer, or not in time. A put may or may not have happened. Try again later.
    #[error("object store is unavailable while {doing}: {reason}")]
    Unavailable {
        /// What was being done.
        doing: String,
        /// What the store said.
        reason: String,
    },
}

/// Where objects live. See the crate's documentation for what is promised.
#[async_trait]
pub trait ObjectStore: Send + Sync + 'static {
    /// All bytes of an object.
    async fn get(&self, key: &ObjectKey) -> Result<Object, StoreError>;

    /// Some bytes of an object. The range must lie in the object.
    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError>;

    /// Several ranges of one object, in the order asked. Implementations may join near ranges into one read.
    async fn get_ranges(&self, key: &ObjectKey, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, StoreError> {
        let mut out = Vec::with_capacity(ranges.len());
        for range in ranges {
            out.push(self.get_range(key, range.clone()).await?);
        }
        Ok(out)
    }

    /// What is known of an object.
    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError>;

    /// Makes or replaces an object, durably, when `condition` holds. Answers the new version.
    async fn put(&self, key: &ObjectKey, bytes: Bytes, condition: PutCondition) -> Result<Version, StoreError>;

    /// Removes an object; it is no error when there is none.
    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError>;

    /// All objects whose keys begin with `prefix` (`""`: all), in key order.
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError>;
}

/// The version of a content, where the store itself names none.
fn version_of(bytes: &[u8]) -> Version {
    Version(format!("{:032x}", xxh3_128(bytes)))
}

/// `range` as positions in an object of `bytes` bytes.
fn check_range(key: &ObjectKey, bytes: u64, range: Range<u64>) -> Result<Range<usize>, StoreError> {
    let positions = usize::try_from(range.start).and_then(|start| usize::try_from(range.end).map(|end| start..end));
    match positions {
        Ok(positions) if range.start <= range.end && range.end <= bytes => Ok(positions),
        _ => Err(StoreError::Range { key: key.to_string(), bytes, range }),
    }
}
