//! Checks that a store keeps the promises on which Millrace relies. Runs at every start and in `millrace doctor`.

use bytes::Bytes;
use model::{Random, SystemRandom};
use thiserror::Error;

use crate::{ObjectKey, ObjectStore, PutCondition, StoreError, Version};

/// Why a store must not be used.
#[derive(Debug, Error)]
pub enum SelfTestError {
    /// An operation failed that must succeed.
    #[error("the object store failed its self-test while {doing}: {error}")]
    Failed {
        /// The operation.
        doing: &'static str,
        /// The store's error.
        error: StoreError,
    },
    /// An operation had the wrong result.
    #[error(
        "the object store failed its self-test: {0}. Millrace needs reads after writes and conditional writes \
         (If-None-Match and If-Match); without them two writers overwrite each other and data is lost. \
         Use a store that has them"
    )]
    Wrong(&'static str),
}

/// Puts, replaces, reads and deletes a small object under `meta/self-test/`, and checks every condition.
///
/// # Errors
/// If the store cannot be used or ignores conditions.
pub async fn self_test(store: &dyn ObjectStore) -> Result<(), SelfTestError> {
    self_test_with(store, &SystemRandom).await
}

/// Like [`self_test`], with the caller's randomness, which names the object.
///
/// # Errors
/// As [`self_test`].
pub async fn self_test_with(store: &dyn ObjectStore, random: &dyn Random) -> Result<(), SelfTestError> {
    let name = format!("meta/self-test/{}", random.unique_name());
    let key = ObjectKey::new(&name).map_err(|error| SelfTestError::Failed { doing: "naming the probe", error })?;
    let outcome = probe(store, &key).await;
    let removed = store.delete(&key).await;
    outcome?;
    removed.map_err(|error| SelfTestError::Failed { doing: "deleting the probe", error })?;
    match store.get(&key).await {
        Err(StoreError::NotFound(_)) => Ok(()),
        Ok(_) => Err(SelfTestError::Wrong("a deleted object could still be read")),
        Err(error) => Err(SelfTestError::Failed { doing: "reading a deleted object", error }),
    }
}

async fn probe(store: &dyn ObjectStore, key: &ObjectKey) -> Result<(), SelfTestError> {
    const FIRST: &[u8] = b"first";
    const SECOND: &[u8] = b"second, longer";

    let absent = Version("0".repeat(32));
    refused(store, key, FIRST, PutCondition::IfVersion(absent), "it replaced an object that did not exist").await?;
    let first = accepted(store, key, FIRST, PutCondition::IfAbsent, "creating an object").await?;
    reads(store, key, FIRST, &first).await?;
    refused(store, key, SECOND, PutCondition::IfAbsent, "it created an object that already existed (If-None-Match)")
        .await?;
    reads(store, key, FIRST, &first).await?;

    let second = accepted(store, key, SECOND, PutCondition::IfVersion(first.clone()), "replacing an object").await?;
    if second == first {
        return Err(SelfTestError::Wrong("two contents had the same version"));
    }
    reads(store, key, SECOND, &second).await?;
    refused(store, key, FIRST, PutCondition::IfVersion(first), "it replaced an object with another version (If-Match)")
        .await?;
    reads(store, key, SECOND, &second).await?;

    let part = store.get_range(key, 1..4).await;
    let part = part.map_err(|error| SelfTestError::Failed { doing: "reading a range", error })?;
    if part[..] != SECOND[1..4] {
        return Err(SelfTestError::Wrong("a ranged read returned other bytes than were written"));
    }
    let listed = store.list(key.as_str()).await;
    let listed = listed.map_err(|error| SelfTestError::Failed { doing: "listing", error })?;
    match &listed[..] {
        [one] if one.key == *key && one.bytes == SECOND.len() as u64 => Ok(()),
        _ => Err(SelfTestError::Wrong("an object that was just written is missing from the listing")),
    }
}

async fn accepted(
    store: &dyn ObjectStore,
    key: &ObjectKey,
    content: &'static [u8],
    condition: PutCondition,
    doing: &'static str,
) -> Result<Version, SelfTestError> {
    let answer = store.put(key, Bytes::from_static(content), condition).await;
    answer.map_err(|error| SelfTestError::Failed { doing, error })
}

async fn refused(
    store: &dyn ObjectStore,
    key: &ObjectKey,
    content: &'static [u8],
    condition: PutCondition,
    wrong: &'static str,
) -> Result<(), SelfTestError> {
    match store.put(key, Bytes::from_static(content), condition).await {
        Err(StoreError::Precondition(_)) => Ok(()),
        Ok(_) => Err(SelfTestError::Wrong(wrong)),
        Err(error) => Err(SelfTestError::Failed { doing: "trying a put that must be refused", error }),
    }
}

async fn reads(
    store: &dyn ObjectStore,
    key: &ObjectKey,
    content: &'static [u8],
    version: &Version,
) -> Result<(), SelfTestError> {
    let object = store.get(key).await;
    let object = object.map_err(|error| SelfTestError::Failed { doing: "reading what was written", error })?;
    if object.bytes != content {
        return Err(SelfTestError::Wrong("a read after a write returned other bytes"));
    }
    if object.version != *version {
        return Err(SelfTestError::Wrong("a read after a write returned another version"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{ops::Range, sync::Arc};

    use async_trait::async_trait;

    use super::*;
    use crate::{Effect, Fault, Faults, MemoryStore, Object, ObjectMeta, Operation};

    /// A store that ignores one kind of condition, like some S3 clones.
    struct Ignores(MemoryStore, fn(&PutCondition) -> bool);

    #[async_trait]
    impl ObjectStore for Ignores {
        async fn get(&self, key: &ObjectKey) -> Result<Object, StoreError> {
            self.0.get(key).await
        }
        async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError> {
            self.0.get_range(key, range).await
        }
        async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
            self.0.head(key).await
        }
        async fn put(&self, key: &ObjectKey, bytes: Bytes, condition: PutCondition) -> Result<Version, StoreError> {
            let ignored = (self.1)(&condition);
            self.0.put(key, bytes, if ignored { PutCondition::Always } else { condition }).await
        }
        async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
            self.0.delete(key).await
        }
        async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
            self.0.list(prefix).await
        }
    }

    #[tokio::test]
    async fn finds_stores_that_ignore_conditions() {
        let check = async |ignored: fn(&PutCondition) -> bool, expected: Option<&str>| {
            let store = Ignores(MemoryStore::new(), ignored);
            let found = self_test(&store).await.err().map(|e| e.to_string());
            match expected {
                None => assert_eq!(found, None),
                Some(part) => assert!(found.as_deref().is_some_and(|text| text.contains(part)), "{found:?}"),
            }
            assert!(store.list("").await.unwrap().is_empty(), "the self-test left its object behind");
        };
        check(|_| false, None).await;
        check(|c| *c == PutCondition::IfAbsent, Some("If-None-Match")).await;
        check(|c| matches!(c, PutCondition::IfVersion(v) if !v.0.starts_with("0000")), Some("If-Match")).await;
        check(|c| matches!(c, PutCondition::IfVersion(_)), Some("did not exist")).await;
    }

    #[tokio::test]
    async fn names_the_operation_that_failed() {
        let store = Faults::new(Arc::new(MemoryStore::new()), 1);
        store.add(Fault { operations: vec![Operation::Get], ..Fault::always(Effect::ErrorBefore) });
        let text = self_test(&store).await.unwrap_err().to_string();
        assert!(text.contains("while reading what was written"), "{text}");
    }
}
