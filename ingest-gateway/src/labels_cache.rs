//! Label sets by their text: agents send the same texts again and again.

use dashmap::DashMap;
use model::{Labels, LabelsError, parse_labels};
use xxhash_rust::xxh3::xxh3_64;

/// Number of label texts that are remembered.
const REMEMBERED_MAX: usize = 50_000;

/// A longer text is parsed each time.
const TEXT_BYTES_MAX: usize = 4096;

/// Label sets that were parsed before.
#[derive(Debug, Default)]
pub(crate) struct LabelsCache(DashMap<u64, (Box<str>, Labels)>);

impl LabelsCache {
    pub(crate) fn parse(&self, text: &str) -> Result<Labels, LabelsError> {
        let hash = xxh3_64(text.as_bytes());
        if let Some(cached) = self.0.get(&hash).filter(|cached| *cached.0 == *text) {
            return Ok(cached.1.clone());
        }
        let labels = parse_labels(text)?;
        if text.len() <= TEXT_BYTES_MAX {
            // Forgetting all of them now and then costs less than keeping track of which are used.
            if self.0.len() >= REMEMBERED_MAX {
                self.0.clear();
            }
            self.0.insert(hash, (text.into(), labels.clone()));
        }
        Ok(labels)
    }
}
