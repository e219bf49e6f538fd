//! Objects in memory, for tests.

use std::{collections::BTreeMap, ops::Range};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::{Object, ObjectKey, ObjectMeta, ObjectStore, PutCondition, StoreError, Version, check_range, version_of};

/// Keeps objects in memory until the process ends. Versions are content hashes, as in the folder. All its futures are
/// ready when they are first polled; step-driven simulations rely on this.
#[derive(Debug, Default)]
pub struct MemoryStore {
    objects: Mutex<BTreeMap<ObjectKey, Stored>>,
}

#[derive(Clone, Debug)]
struct Stored {
    bytes: Bytes,
    version: Version,
}

impl MemoryStore {
    /// Creates an empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// The total bytes of all objects.
    pub fn bytes(&self) -> u64 {
        self.objects.lock().values().map(|stored| stored.bytes.len() as u64).sum()
    }

    fn find(&self, key: &ObjectKey) -> Result<Stored, StoreError> {
        self.objects.lock().get(key).cloned().ok_or_else(|| StoreError::NotFound(key.to_string()))
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    async fn get(&self, key: &ObjectKey) -> Result<Object, StoreError> {
        self.find(key).map(|stored| Object { bytes: stored.bytes, version: stored.version })
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        let bytes = self.find(key)?.bytes;
        let range = check_range(key, bytes.len() as u64, range)?;
        Ok(bytes.slice(range))
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
        self.find(key).map(|stored| ObjectMeta { key: key.clone(), bytes: stored.bytes.len() as u64 })
    }

    async fn put(&self, key: &ObjectKey, bytes: Bytes, condition: PutCondition) -> Result<Version, StoreError> {
        let version = version_of(&bytes);
        let mut objects = self.objects.lock();
        let holds = match (&condition, objects.get(key)) {
            (PutCondition::Always, _) | (PutCondition::IfAbsent, None) => true,
            (PutCondition::IfVersion(expected), Some(stored)) => stored.version == *expected,
            (PutCondition::IfAbsent, Some(_)) | (PutCondition::IfVersion(_), None) => false,
        };
        if !holds {
            return Err(StoreError::Precondition(key.to_string()));
        }
        objects.insert(key.clone(), Stored { bytes, version: version.clone() });
        Ok(version)
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.objects.lock().remove(key);
        Ok(())
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        let objects = self.objects.lock();
        let found = objects.iter().filter(|(key, _)| key.as_str().starts_with(prefix));
        Ok(found.map(|(key, stored)| ObjectMeta { key: key.clone(), bytes: stored.bytes.len() as u64 }).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn keeps_the_contract() {
        let store: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
        crate::contract::check_all("contract", || {
            let store = store.clone();
            async move { store }
        })
        .await;
    }
}
