//! Names of objects.

use model::{OffsetRange, PartitionId};
use object_store::ObjectKey;
use uuid::Uuid;

use crate::CatalogueError;

/// Where the head of a partition lives: `meta/<log id>/p/<n>/head`.
///
/// # Errors
/// [`CatalogueError::LogId`].
pub fn head_key(log_id: &str, partition: PartitionId) -> Result<ObjectKey, CatalogueError> {
    check_log_id(log_id)?;
    Ok(ObjectKey::new(&format!("meta/{log_id}/p/{partition}/head"))?)
}

/// A fresh key for a block of `range`, never given out before:
/// `data/<log id>/<partition>/<start>-<end>-<unique>.parquet`. Offsets are padded, so that listings are in their order.
///
/// # Errors
/// [`CatalogueError::LogId`].
#[expect(clippy::disallowed_methods, reason = "nothing depends on the value, only on its being unique")]
pub fn block_key(log_id: &str, partition: PartitionId, range: OffsetRange) -> Result<ObjectKey, CatalogueError> {
    check_log_id(log_id)?;
    let (start, end) = (range.start.value(), range.end.value());
    let unique = Uuid::new_v4().simple();
    Ok(ObjectKey::new(&format!("{}{start:016}-{end:016}-{unique}.parquet", blocks_prefix(log_id, partition)))?)
}

/// What all level-0 blocks of a partition have in front.
pub(crate) fn blocks_prefix(log_id: &str, partition: PartitionId) -> String {
    format!("data/{log_id}/{partition}/")
}

/// The offset range that a key made by [`block_key`] names.
pub(crate) fn range_of_block(key: &ObjectKey, prefix: &str) -> Option<OffsetRange> {
    let name = key.as_str().strip_prefix(prefix)?.strip_suffix(".parquet")?;
    let mut parts = name.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let range = OffsetRange::new(model::Offset::new(parts.next()??), model::Offset::new(parts.next()??));
    parts.next().is_some().then_some(range)
}

/// The log id and the partition of a head's key.
pub(crate) fn parse_head_key(key: &ObjectKey) -> Option<(&str, PartitionId)> {
    let parts: Vec<&str> = key.as_str().split('/').collect();
    match parts[..] {
        ["meta", log_id, "p", partition, "head"] => Some((log_id, PartitionId::new(partition.parse().ok()?))),
        _ => None,
    }
}

pub(crate) fn check_log_id(log_id: &str) -> Result<(), CatalogueError> {
    // One part, and short enough to leave room for the rest of a key.
    let right = !log_id.contains('/') && log_id.len() <= 200 && ObjectKey::new(log_id).is_ok();
    if right { Ok(()) } else { Err(CatalogueError::LogId(log_id.to_owned())) }
}

#[cfg(test)]
mod tests {
    use model::Offset;

    use super::*;

    #[test]
    fn keys_name_what_they_are_of() {
        let partition = PartitionId::new(7);
        let head = head_key("log-1", partition).unwrap();
        assert_eq!(head.as_str(), "meta/log-1/p/7/head");
        assert_eq!(parse_head_key(&head), Some(("log-1", partition)));
        let range = OffsetRange::new(Offset::new(5), Offset::new(1_000));
        let (one, two) = (block_key("log-1", partition, range).unwrap(), block_key("log-1", partition, range).unwrap());
        assert_ne!(one, two);
        assert!(one.as_str().starts_with("data/log-1/7/0000000000000005-0000000000001000-"), "{one}");
        assert_eq!(range_of_block(&one, &blocks_prefix("log-1", partition)), Some(range));
        assert_eq!(range_of_block(&one, &blocks_prefix("log-1", PartitionId::new(1))), None);
        for log_id in ["", "a/b", "..", "a b", &"x".repeat(201)] {
            assert!(matches!(head_key(log_id, partition), Err(CatalogueError::LogId(_))), "{log_id:?}");
            assert!(matches!(block_key(log_id, partition, range), Err(CatalogueError::LogId(_))), "{log_id:?}");
        }
    }

    #[test]
    fn strangers_are_no_blocks_and_no_heads() {
        let range = |name: &str| range_of_block(&ObjectKey::new(name).unwrap(), "data/log/0/");
        for name in ["data/log/0/x", "data/log/0/1-2.parquet", "data/log/0/a-b-c.parquet", "data/log/1/1-2-x.parquet"] {
            assert_eq!(range(name), None, "{name}");
        }
        for name in ["meta/log/p/x/head", "meta/log/p/1/tail", "meta/log/p/1/head/x", "data/log/p/1/head"] {
            assert_eq!(parse_head_key(&ObjectKey::new(name).unwrap()), None, "{name}");
        }
    }
}
