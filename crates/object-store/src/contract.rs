//! The contract of every store, as a test suite. The tests of each implementation call [`check_all`].
//!
//! The functions panic if the store breaks a promise. They only use keys with the given prefix, so they can run in a
//! bucket that holds other objects. Give each run a prefix of its own.

use std::{collections::BTreeSet, ops::Range, sync::Arc};

use bytes::Bytes;
use tokio::task::JoinSet;

use crate::{Object, ObjectKey, ObjectStore, PutCondition, StoreError, Version};

/// Runs the whole suite. Each call of `open` opens another instance over the same objects.
///
/// # Panics
/// If the store breaks a promise.
pub async fn check_all<F, Opened>(prefix: &str, open: F)
where
    F: Fn() -> Opened,
    Opened: Future<Output = Arc<dyn ObjectStore>>,
{
    let store = open().await;
    let at = |case: &str| format!("{prefix}/{case}");
    put_and_get(&*store, &at("put-and-get")).await;
    absent_objects(&*store, &at("absent")).await;
    conditions(&*store, &at("conditions")).await;
    versions_name_contents(&*store, &at("versions")).await;
    ranges(&*store, &at("ranges")).await;
    big_objects(&*store, &at("big")).await;
    listing(&*store, &at("listing")).await;
    many_objects(&*store, &at("many")).await;
    seen_by_other_instances(&*store, &*open().await, &at("seen")).await;
    let mut instances = Vec::new();
    for _ in 0..4 {
        instances.push(open().await);
    }
    one_creator_wins(&instances, &at("creators")).await;
    increments_are_not_lost(&instances, &at("increments")).await;
    readers_see_whole_objects(&instances, &at("whole")).await;
    crate::self_test(&*store).await.expect("the store passes the self-test");
    remove_all(&*store, &format!("{prefix}/")).await;
}

fn key(prefix: &str, name: &str) -> ObjectKey {
    ObjectKey::new(&format!("{prefix}/{name}")).expect("the suite's names are valid keys")
}

async fn put(store: &dyn ObjectStore, key: &ObjectKey, bytes: impl Into<Bytes>) -> Version {
    store.put(key, bytes.into(), PutCondition::Always).await.expect("a put without condition succeeds")
}

async fn get(store: &dyn ObjectStore, key: &ObjectKey) -> Object {
    store.get(key).await.expect("the object exists")
}

async fn remove_all(store: &dyn ObjectStore, prefix: &str) {
    for meta in store.list(prefix).await.expect("listing works") {
        store.delete(&meta.key).await.expect("deleting works");
    }
    assert_eq!(store.list(prefix).await.expect("listing works"), [], "deleted objects are listed");
}

/// A get returns what was put. A later put replaces all of it at once, even if it is shorter or empty.
///
/// # Panics
/// If the store breaks a promise.
pub async fn put_and_get(store: &dyn ObjectStore, prefix: &str) {
    let key = key(prefix, "a/b.c-d_e=1");
    for content in ["first", "second and longer", "3", ""] {
        let version = put(store, &key, content).await;
        let object = get(store, &key).await;
        assert_eq!(object.bytes, content);
        assert_eq!(object.version, version, "get returns another version than put");
        let meta = store.head(&key).await.expect("the object exists");
        assert_eq!((meta.key, meta.bytes), (key.clone(), content.len() as u64));
    }
}

/// Reads of absent objects fail with [`StoreError::NotFound`]. Deleting one succeeds.
///
/// # Panics
/// If the store breaks a promise.
pub async fn absent_objects(store: &dyn ObjectStore, prefix: &str) {
    let absent = key(prefix, "absent");
    let check = async |when: &str| {
        let named = |error: StoreError| matches!(error, StoreError::NotFound(name) if name == absent.as_str());
        assert!(store.get(&absent).await.is_err_and(named), "get, {when}");
        assert!(store.head(&absent).await.is_err_and(named), "head, {when}");
        assert!(store.get_range(&absent, 0..1).await.is_err_and(named), "get_range, {when}");
        assert!(store.get_ranges(&absent, &[0..1, 5..6]).await.is_err_and(named), "get_ranges, {when}");
    };
    check("never created").await;
    store.delete(&absent).await.expect("deleting an absent object succeeds");
    put(store, &absent, "x").await;
    store.delete(&absent).await.expect("deleting works");
    check("deleted").await;
    // A key that begins with this one is another object.
    put(store, &key(prefix, "absent2"), "x").await;
    check("an object with a longer name exists").await;
}

/// A put succeeds exactly if its condition holds. A refused put changes nothing.
///
/// # Panics
/// If the store breaks a promise.
pub async fn conditions(store: &dyn ObjectStore, prefix: &str) {
    let key = key(prefix, "object");
    let refused = async |content: &'static str, condition: PutCondition, why: &str| {
        let before = store.get(&key).await.ok().map(|object| object.bytes);
        let answer = store.put(&key, Bytes::from_static(content.as_bytes()), condition).await;
        assert!(matches!(answer, Err(StoreError::Precondition(_))), "{why}: {answer:?}");
        let after = store.get(&key).await.ok().map(|object| object.bytes);
        assert_eq!(before, after, "{why}: a refused put changed the object");
    };
    let accepted = async |content: &'static str, condition: PutCondition| {
        let version = store.put(&key, Bytes::from_static(content.as_bytes()), condition).await;
        let version = version.expect("the condition holds");
        assert_eq!(get(store, &key).await.bytes, content);
        version
    };
    let nothing = Version("00000000000000000000000000000000".to_owned());
    refused("x", PutCondition::IfVersion(nothing.clone()), "the object with an expected version does not exist").await;
    let first = accepted("1", PutCondition::IfAbsent).await;
    refused("x", PutCondition::IfAbsent, "the object exists").await;
    refused("1", PutCondition::IfAbsent, "the object exists with the same content").await;
    refused("x", PutCondition::IfVersion(nothing), "another version is expected").await;
    let second = accepted("2", PutCondition::IfVersion(first.clone())).await;
    refused("x", PutCondition::IfVersion(first.clone()), "the version was replaced").await;
    accepted("3", PutCondition::Always).await;
    refused("x", PutCondition::IfVersion(second.clone()), "the version was replaced without condition").await;
    store.delete(&key).await.expect("deleting works");
    refused("x", PutCondition::IfVersion(second), "the object was deleted").await;
    accepted("4", PutCondition::IfAbsent).await;
    refused("x", PutCondition::IfVersion(first), "the object was recreated").await;
}

/// Different contents have different versions, even if they have the same length.
///
/// # Panics
/// If the store breaks a promise.
pub async fn versions_name_contents(store: &dyn ObjectStore, prefix: &str) {
    let key = key(prefix, "object");
    let mut seen = BTreeSet::new();
    for i in 0..100 {
        let version = put(store, &key, format!("content {i:03}")).await;
        assert!(seen.insert(version.0), "two contents had the same version");
    }
}

/// Ranges, one or several at once: in any order, overlapping, empty, up to the end, beyond the end.
///
/// # Panics
/// If the store breaks a promise.
pub async fn ranges(store: &dyn ObjectStore, prefix: &str) {
    let key = key(prefix, "object");
    let content: Vec<u8> = (0..200_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 23) as u8).collect();
    let bytes = content.len() as u64;
    put(store, &key, content.clone()).await;
    let inside: [Range<u64>; 9] =
        [0..1, 0..bytes, 100..200, 150..160, bytes - 1..bytes, 7..7, bytes..bytes, 90_000..90_010, 3..100_000];
    for range in &inside {
        let found = store.get_range(&key, range.clone()).await.expect("the range is inside the object");
        assert_eq!(found, content[range.start as usize..range.end as usize], "{range:?}");
    }
    let found = store.get_ranges(&key, &inside).await.expect("the ranges are inside the object");
    assert_eq!(found.len(), inside.len());
    for (range, found) in inside.iter().zip(found) {
        assert_eq!(found, content[range.start as usize..range.end as usize], "{range:?} of several");
    }
    assert!(store.get_ranges(&key, &[]).await.expect("a list without ranges is valid").is_empty());
    let backwards = Range { start: 5, end: 4 };
    for wrong in [0..bytes + 1, bytes..bytes + 1, bytes + 5..bytes + 9, bytes + 1..bytes + 1, 0..u64::MAX, backwards] {
        let check = |answer: Result<(), StoreError>| match answer {
            Err(StoreError::Range { bytes: length, range, .. }) => assert_eq!((length, &range), (bytes, &wrong)),
            other => panic!("{wrong:?}: {other:?}"),
        };
        check(store.get_range(&key, wrong.clone()).await.map(drop));
        check(store.get_ranges(&key, &[0..1, wrong.clone()]).await.map(drop));
    }
}

/// Objects of many megabytes.
///
/// # Panics
/// If the store breaks a promise.
pub async fn big_objects(store: &dyn ObjectStore, prefix: &str) {
    let key = key(prefix, "object");
    let content: Bytes = (0..24_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    put(store, &key, content.clone()).await;
    // Not `assert_eq`, which would print the whole content.
    assert!(get(store, &key).await.bytes == content, "a big object was read with other bytes");
    let range = 11_000_000..23_500_000;
    let part = store.get_range(&key, range.clone()).await.expect("the range is inside the object");
    assert!(part == content[range.start as usize..range.end as usize], "a big range was read with other bytes");
    store.delete(&key).await.expect("deleting works");
}

/// Listings go by prefixes of keys (not by folders), in key order, with lengths.
///
/// # Panics
/// If the store breaks a promise.
pub async fn listing(store: &dyn ObjectStore, prefix: &str) {
    // In key order: '!' < '-' < '.' < '/' < '0'.
    let names = ["a!x", "a-b", "a.b", "a/b", "a/c/d", "a0", "ab/c", "b"];
    for (i, name) in names.iter().enumerate().rev() {
        put(store, &key(prefix, name), vec![0; i]).await;
    }
    let check = async |part: &str, expected: &[&str]| {
        let listed = store.list(&format!("{prefix}/{part}")).await.expect("listing works");
        let found: Vec<_> = listed.iter().map(|meta| meta.key.as_str()).collect();
        let expected: Vec<_> = expected.iter().map(|name| format!("{prefix}/{name}")).collect();
        assert_eq!(found, expected, "prefix {part:?}");
        for meta in &listed {
            let i = names.iter().position(|name| meta.key.as_str() == format!("{prefix}/{name}"));
            assert_eq!(Some(meta.bytes as usize), i, "the length of {}", meta.key);
        }
    };
    check("", &names).await;
    check("a", &names[..7]).await;
    check("a/", &["a/b", "a/c/d"]).await;
    check("a/c", &["a/c/d"]).await;
    check("a/c/", &["a/c/d"]).await;
    check("a/c/d", &["a/c/d"]).await;
    check("a/c/d/", &[]).await;
    check("a-", &["a-b"]).await;
    check("ab", &["ab/c"]).await;
    check("c", &[]).await;
    check("a/none/", &[]).await;
    let all = store.list("").await.expect("listing works");
    assert!(all.is_sorted_by(|a, b| a.key < b.key), "the listing of everything is not in key order");
    let of_ours = all.iter().filter(|meta| meta.key.as_str().starts_with(&format!("{prefix}/")));
    assert_eq!(of_ours.count(), names.len());
}

/// More objects than one page of a listing holds.
///
/// # Panics
/// If the store breaks a promise.
pub async fn many_objects(store: &dyn ObjectStore, prefix: &str) {
    const COUNT: usize = 1_100;
    let names: Vec<_> = (0..COUNT).map(|i| key(prefix, &format!("{}/{i:04}", i % 3))).collect();
    for name in &names {
        put(store, name, "x").await;
    }
    let listed = store.list(&format!("{prefix}/")).await.expect("listing works");
    let found: BTreeSet<_> = listed.into_iter().map(|meta| meta.key).collect();
    assert_eq!(found, names.into_iter().collect());
    remove_all(store, &format!("{prefix}/")).await;
}

/// Another instance sees at once what one instance puts, replaces and deletes.
///
/// # Panics
/// If the store breaks a promise.
pub async fn seen_by_other_instances(store: &dyn ObjectStore, other: &dyn ObjectStore, prefix: &str) {
    let key = key(prefix, "object");
    for i in 0..20 {
        let version = put(store, &key, format!("{i}")).await;
        let seen = get(other, &key).await;
        assert_eq!((seen.bytes, seen.version), (Bytes::from(format!("{i}")), version));
    }
    store.delete(&key).await.expect("deleting works");
    assert!(matches!(other.get(&key).await, Err(StoreError::NotFound(_))), "a deleted object is still visible");
}

/// If many tasks create the same object at once, exactly one succeeds.
///
/// # Panics
/// If the store breaks a promise.
pub async fn one_creator_wins(instances: &[Arc<dyn ObjectStore>], prefix: &str) {
    for round in 0..10 {
        let key = key(prefix, &format!("{round}"));
        let mut creators = JoinSet::new();
        for creator in 0..8 {
            let (store, key) = (instances[creator % instances.len()].clone(), key.clone());
            creators.spawn(async move {
                let created = store.put(&key, Bytes::from(format!("{creator}")), PutCondition::IfAbsent).await;
                match created {
                    Ok(_) => Some(creator),
                    Err(StoreError::Precondition(_)) => None,
                    Err(error) => panic!("{error}"),
                }
            });
        }
        let winners: Vec<_> = creators.join_all().await.into_iter().flatten().collect();
        assert_eq!(winners.len(), 1, "{winners:?} all created the same object");
        assert_eq!(get(&*instances[0], &key).await.bytes, format!("{}", winners[0]));
    }
}

/// Fifty tasks on all instances increment one counter by compare-and-swap. No increment is lost.
///
/// # Panics
/// If the store breaks a promise.
pub async fn increments_are_not_lost(instances: &[Arc<dyn ObjectStore>], prefix: &str) {
    const TASKS: usize = 50;
    let counter = key(prefix, "counter");
    let mut tasks = JoinSet::new();
    for i in 0..TASKS {
        let (store, counter) = (instances[i % instances.len()].clone(), counter.clone());
        tasks.spawn(async move { increment(&*store, &counter, 1).await });
    }
    tasks.join_all().await;
    assert_eq!(count(&*instances[0], &counter).await, TASKS, "increments were lost");
}

/// Increments the number in an object `times` times, by compare-and-swap. For tests with several processes.
///
/// # Panics
/// If the store breaks a promise.
pub async fn increment(store: &dyn ObjectStore, counter: &ObjectKey, times: usize) {
    for _ in 0..times {
        loop {
            let (now, condition) = match store.get(counter).await {
                Ok(object) => (number(&object.bytes), PutCondition::IfVersion(object.version)),
                Err(StoreError::NotFound(_)) => (0, PutCondition::IfAbsent),
                Err(error) => panic!("{error}"),
            };
            match store.put(counter, Bytes::from(format!("{}", now + 1)), condition).await {
                Ok(_) => break,
                Err(StoreError::Precondition(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// The number that [`increment`] has counted.
///
/// # Panics
/// If the object does not hold a number.
pub async fn count(store: &dyn ObjectStore, counter: &ObjectKey) -> usize {
    number(&get(store, counter).await.bytes)
}

fn number(bytes: &[u8]) -> usize {
    std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).expect("the counter holds a number")
}

/// While an object is being replaced again and again, a reader always sees one content, never a mix of two.
///
/// # Panics
/// If the store breaks a promise.
pub async fn readers_see_whole_objects(instances: &[Arc<dyn ObjectStore>], prefix: &str) {
    const BYTES: usize = 300_000;
    let object = key(prefix, "object");
    put(&*instances[0], &object, vec![0; BYTES]).await;
    let mut tasks = JoinSet::new();
    for (i, store) in instances.iter().cloned().enumerate() {
        let object = object.clone();
        tasks.spawn(async move {
            for round in 0..15u8 {
                if i == 0 {
                    put(&*store, &object, vec![round; BYTES + usize::from(round)]).await;
                    continue;
                }
                let bytes = get(&*store, &object).await.bytes;
                let whole = bytes.iter().all(|b| *b == bytes[0]) && bytes.len() == BYTES + usize::from(bytes[0]);
                assert!(whole, "a reader saw a mix of two contents");
                let parts = store.get_ranges(&object, &[0..10, 299_000..299_999]).await;
                let parts = parts.expect("the ranges are inside the object");
                assert!(parts[1].iter().all(|b| *b == parts[1][0]), "a reader saw a mix of two contents");
            }
        });
    }
    tasks.join_all().await;
}
