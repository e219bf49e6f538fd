//! Level-0 blocks replaced by others of the same ranges, beside whoever leads the partition.

use std::{collections::HashMap, sync::Arc};

use model::PartitionId;
use object_store::PutCondition;

use crate::{
    BlockEntry, CatalogueError, Head, Heads,
    heads::{may_be_retried, no_attempts},
    rules::{Rule, holds},
};

impl Heads {
    /// Replaces level-0 blocks by others that hold exactly the same ranges: all of them in one compare-and-swap, or
    /// none. `swaps` names the block that is listed now and the one to list in its place; the new blocks must be in the
    /// store already. Nothing else changes: not F, not the epoch, not the leader's nonce. So anybody may do so while the
    /// partition is led: a leader whose own change fails because of it reads the head again and builds on it, as after
    /// [`Heads::trim`]. The old objects stay: readers with older plans use them.
    ///
    /// May be called again with the same swaps at any time, also after a crash: what was swapped already is left as it is.
    ///
    /// # Errors
    /// [`CatalogueError::Unlisted`] when a block is listed neither by its old key nor by its new one: it was trimmed, or
    /// swapped by somebody else; nothing was changed by this call. [`CatalogueError::Invalid`] when ranges differ or a
    /// block comes twice. Otherwise as [`Heads::read`]; after an error that
    /// [is unavailable](CatalogueError::is_unavailable) it may or may not have happened.
    pub async fn swap_blocks(
        &self,
        partition: PartitionId,
        swaps: &[(String, BlockEntry)],
    ) -> Result<(), CatalogueError> {
        let mut last = None;
        for attempt in 0..self.attempts() {
            self.pause(attempt).await;
            let (head, version) = match self.read_once(partition).await {
                Err(error) if error.is_unavailable() => {
                    last = Some(error);
                    continue;
                }
                found => found?.ok_or_else(|| CatalogueError::Gone(format!("the head of partition {partition}")))?,
            };
            let Some(mut next) = head.swapped(swaps)? else { return Ok(()) };
            if !holds(Rule::SwapKeepsNonce) {
                next.nonce = self.fresh_nonce();
            }
            match self.write(&Arc::new(next), PutCondition::IfVersion(version)).await {
                Ok(_) => return Ok(()),
                Err(error) if may_be_retried(&error) => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| no_attempts(partition)))
    }
}

impl Head {
    /// This head with these blocks in place of others; none when all of them are listed already.
    fn swapped(&self, swaps: &[(String, BlockEntry)]) -> Result<Option<Self>, CatalogueError> {
        let invalid = |reason: String| CatalogueError::Invalid { partition: self.partition, reason };
        let places: HashMap<&str, usize> = self.blocks.iter().enumerate().map(|(i, b)| (b.key.as_str(), i)).collect();
        let mut next = None;
        let mut unlisted = Vec::new();
        for (i, (old, new)) in swaps.iter().enumerate() {
            if swaps[..i].iter().any(|(other, block)| other == old || block.key == new.key) {
                return Err(invalid(format!("{old} or its replacement {} comes twice", new.key)));
            }
            if let Some(place) = places.get(new.key.as_str()) {
                if self.blocks[*place] != *new {
                    return Err(invalid(format!("{} is listed already, and otherwise", new.key)));
                }
                continue;
            }
            let Some(place) = places.get(old.as_str()).copied() else {
                unlisted.push(old.clone());
                continue;
            };
            let range = self.blocks[place].range;
            if range != new.range {
                return Err(invalid(format!("{} holds {}, not {range} as {old} does", new.key, new.range)));
            }
            next.get_or_insert_with(|| self.clone()).blocks[place] = new.clone();
        }
        if unlisted.is_empty() {
            Ok(next)
        } else {
            Err(CatalogueError::Unlisted { partition: self.partition, keys: unlisted })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use model::{ManualClock, Offset, OffsetRange, SeededRandom, TimestampNs};
    use object_store::{Effect, Fault, Faults, MemoryStore, Operation};
    use runtime::Backoff;

    use super::*;
    use crate::block_key;

    const PARTITION: PartitionId = PartitionId::new(2);

    fn range(start: i64, end: i64) -> OffsetRange {
        OffsetRange::new(Offset::new(start), Offset::new(end))
    }

    /// A block under a fresh key.
    fn block(range: OffsetRange) -> BlockEntry {
        BlockEntry {
            key: block_key("log", PARTITION, range).unwrap().to_string(),
            bytes: 100,
            tail_bytes: 10,
            range,
            rows: 3,
            line_bytes: 30,
            time: None,
            tenants: Vec::new(),
            quarantined: 0,
        }
    }

    /// A head of three blocks, its leader, and a store with faults.
    async fn three_blocks() -> (Arc<Faults>, Heads, crate::Leadership, Vec<BlockEntry>) {
        let faults = Arc::new(Faults::new(Arc::new(MemoryStore::new()), 1));
        let backoff = Backoff { attempts: 4, first: Duration::ZERO, max: Duration::ZERO };
        let clock = Arc::new(ManualClock::new(TimestampNs::from_secs(1)));
        let random = Arc::new(SeededRandom::new(1));
        let heads = Heads::with(faults.clone(), "log", backoff, clock, random).unwrap();
        let mut lead = heads.acquire(PARTITION, "one", Offset::ZERO).await.unwrap();
        let blocks: Vec<_> = [(0, 10), (10, 20), (20, 30)].map(|(start, end)| block(range(start, end))).into();
        for block in &blocks {
            lead.publish(block.range, Some(block.clone())).await.unwrap();
        }
        (faults, heads, lead, blocks)
    }

    async fn keys(heads: &Heads) -> Vec<String> {
        let (head, _) = heads.read(PARTITION).await.unwrap().unwrap();
        head.blocks.into_iter().map(|block| block.key).collect()
    }

    #[tokio::test]
    async fn blocks_are_swapped_beside_their_leader() {
        let (_, heads, mut lead, old) = three_blocks().await;
        let before = lead.head().clone();
        let new: Vec<_> = old[..2].iter().map(|old| block(old.range)).collect();
        let swaps: Vec<_> = old.iter().zip(&new).map(|(old, new)| (old.key.clone(), new.clone())).collect();
        heads.fresh().swap_blocks(PARTITION, &swaps).await.unwrap();
        assert_eq!(keys(&heads).await, [&new[0].key, &new[1].key, &old[2].key].map(String::clone));

        // The leader does not know, and goes on.
        let next = block(range(30, 40));
        lead.publish(next.range, Some(next.clone())).await.unwrap();
        assert_eq!(lead.epoch(), before.epoch);
        assert_eq!(keys(&heads).await, [&new[0].key, &new[1].key, &old[2].key, &next.key].map(String::clone));

        // Once more changes nothing, nor does it when one of them is swapped again.
        let nonce = lead.head().nonce.clone();
        heads.swap_blocks(PARTITION, &swaps).await.unwrap();
        heads.swap_blocks(PARTITION, &[]).await.unwrap();
        let (head, _) = heads.read(PARTITION).await.unwrap().unwrap();
        assert_eq!((&head, &head.nonce), (lead.head(), &nonce));
    }

    #[tokio::test]
    async fn what_does_not_fit_is_refused_and_nothing_is_changed() {
        let (_, heads, _lead, old) = three_blocks().await;
        let before = keys(&heads).await;
        let check = async |swaps: Vec<(&str, BlockEntry)>, expected: &str| {
            let swaps: Vec<_> = swaps.into_iter().map(|(key, block)| (key.to_owned(), block)).collect();
            let text = heads.swap_blocks(PARTITION, &swaps).await.unwrap_err().to_string();
            assert!(text.contains(expected), "{text}");
            assert_eq!(keys(&heads).await, before, "{expected}");
        };
        let good = || (old[0].key.as_str(), block(range(0, 10)));
        check(vec![good(), ("data/log/2/x", block(range(10, 20)))], "no longer lists data/log/2/x").await;
        check(vec![good(), (&old[1].key, block(range(10, 21)))], "not [10, 20)").await;
        check(vec![good(), good()], "comes twice").await;
        let same = block(range(0, 10));
        check(vec![(&old[0].key, same.clone()), (&old[1].key, same)], "comes twice").await;
        let taken = BlockEntry { rows: 1, ..old[1].clone() };
        check(vec![good(), (&old[1].key, taken)], "listed already").await;
        heads.trim(PARTITION, Offset::new(10)).await.unwrap();
        let error = heads.swap_blocks(PARTITION, &[(old[0].key.clone(), block(range(0, 10)))]).await.unwrap_err();
        assert!(matches!(error, CatalogueError::Unlisted { .. }), "{error}");
        let nobody = heads.swap_blocks(PartitionId::new(7), &[]).await.unwrap_err();
        assert!(matches!(nobody, CatalogueError::Gone(_)), "{nobody}");
    }

    #[tokio::test]
    async fn lost_replies_are_resolved() {
        use Effect::{ErrorAfter, ErrorBefore};
        use Operation::{Get, Put};
        let check = async |effects: &[(Operation, Effect)]| {
            let (faults, heads, mut lead, old) = three_blocks().await;
            let new = block(old[1].range);
            effects.iter().for_each(|(operation, effect)| faults.add(Fault::once(*operation, *effect)));
            heads.swap_blocks(PARTITION, &[(old[1].key.clone(), new.clone())]).await.unwrap();
            faults.clear();
            assert_eq!(keys(&heads).await[1], new.key, "{effects:?}");
            // And a leader whose own reply is lost meanwhile still knows its change.
            faults.add(Fault::once(Put, ErrorAfter));
            lead.publish(range(30, 31), None).await.unwrap();
        };
        check(&[]).await;
        check(&[(Put, ErrorBefore)]).await;
        check(&[(Put, ErrorAfter)]).await;
        check(&[(Put, ErrorAfter), (Get, ErrorBefore)]).await;
        check(&[(Get, ErrorBefore), (Put, ErrorBefore), (Put, ErrorAfter)]).await;
    }
}
