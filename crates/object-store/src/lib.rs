//! Objects with compare-and-swap.
//!
//! [`ObjectStore`] is the trait. [`FolderStore`] keeps objects in a local folder, [`S3Store`] in a bucket of S3, and
//! [`MemoryStore`] in memory. [`Faults`] injects faults into any of them, for tests. All implementations pass the same
//! suite, [`contract`].
//!
//! Every implementation promises:
//! - A reader sees a put completely or not at all.
//! - A conditional put is atomic among all processes that use the store.
//! - Once a put has succeeded, every get sees it.
//! - A put that failed with [`StoreError::Unavailable`] may still have happened. Read the object to find out.
//!
//! A version identifies a content. The folder and the memory use the XXH3-128 of the bytes, and S3 uses its ETag. An
//! object that changes from A to B and back to A has its first version again. Callers that must tell those states apart,
//! such as heads, put a fresh nonce into the content.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests own what they start"))]

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
mod ranges;
pub mod s3;
mod self_test;

pub use faults::{Counts, Effect, Fault, Faults, Operation};
pub use folder::FolderStore;
pub use key::ObjectKey;
pub use memory::MemoryStore;
pub use s3::{S3Config, S3Error, S3Store};
pub use self_test::{SelfTestError, self_test, self_test_with};

/// Identifies a content of an object. Different contents of one object have different versions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version(pub String);

/// The condition of a put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutCondition {
    /// Creates or replaces the object in any case.
    Always,
    /// Creates the object if it does not exist (`If-None-Match: *`).
    IfAbsent,
    /// Replaces the object if it has this version (`If-Match`).
    IfVersion(Version),
}

/// An object without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// The object's key.
    pub key: ObjectKey,
    /// The object's length in bytes.
    pub bytes: u64,
}

/// An object's bytes and their version.
#[derive(Clone, Debug)]
pub struct Object {
    /// All bytes of the object.
    pub bytes: Bytes,
    /// The version of these bytes, for [`PutCondition::IfVersion`].
    pub version: Version,
}

/// Why an operation of a store failed.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The object does not exist.
    #[error("object {0:?} does not exist")]
    NotFound(String),
    /// The condition of a put did not hold, and nothing was changed. Read the object and decide again.
    #[error("object {0:?} is not in the expected state")]
    Precondition(String),
    /// The text is not a valid object key.
    #[error("{0:?} is not a valid object key")]
    Key(String),
    /// The range is not inside the object.
    #[error("object {key:?} has {bytes} bytes, asked for {range:?}")]
    Range {
        /// The object.
        key: String,
        /// The object's length.
        bytes: u64,
        /// The requested range.
        range: Range<u64>,
    },
    /// The store did not answer, or not in time. A put may or may not have happened. Try again later.
    #[error("object store is unavailable while {doing}: {reason}")]
    Unavailable {
        /// The operation.
        doing: String,
        /// The store's answer, or what happened to the connection.
        reason: String,
    },
}

/// A store of objects. The crate's documentation lists its promises.
#[async_trait]
pub trait ObjectStore: Send + Sync + 'static {
    /// Reads an object.
    async fn get(&self, key: &ObjectKey) -> Result<Object, StoreError>;

    /// Reads a range of an object. The range must be inside the object.
    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError>;

    /// Reads several ranges of one object and returns them in the given order. Implementations may join near ranges into
    /// one read.
    async fn get_ranges(&self, key: &ObjectKey, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, StoreError> {
        let mut out = Vec::with_capacity(ranges.len());
        for range in ranges {
            out.push(self.get_range(key, range.clone()).await?);
        }
        Ok(out)
    }

    /// Looks up an object without reading it.
    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError>;

    /// Creates or replaces an object durably if `condition` holds. Returns the new version.
    async fn put(&self, key: &ObjectKey, bytes: Bytes, condition: PutCondition) -> Result<Version, StoreError>;

    /// Deletes an object. Succeeds if the object does not exist.
    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError>;

    /// Lists all objects whose keys begin with `prefix`, in key order. An empty prefix lists all objects.
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError>;
}

/// The version of a content in stores that do not have versions of their own.
fn version_of(bytes: &[u8]) -> Version {
    Version(format!("{:032x}", xxh3_128(bytes)))
}

/// Converts `range` into positions in an object of `bytes` bytes.
fn check_range(key: &ObjectKey, bytes: u64, range: Range<u64>) -> Result<Range<usize>, StoreError> {
    let positions = usize::try_from(range.start).and_then(|start| usize::try_from(range.end).map(|end| start..end));
    match positions {
        Ok(positions) if range.start <= range.end && range.end <= bytes => Ok(positions),
        _ => Err(StoreError::Range { key: key.to_string(), bytes, range }),
    }
}
