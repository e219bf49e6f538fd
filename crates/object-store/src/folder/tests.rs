use std::{process::Command, sync::Arc};

use proptest::prelude::*;

use super::*;
use crate::contract;

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

async fn put(store: &FolderStore, name: &str, content: &'static str) -> Result<Version, StoreError> {
    store.put(&key(name), Bytes::from_static(content.as_bytes()), PutCondition::Always).await
}

async fn names(store: &FolderStore, prefix: &str) -> Vec<String> {
    store.list(prefix).await.unwrap().into_iter().map(|meta| meta.key.to_string()).collect()
}

fn files_in(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let open = || async { Arc::new(FolderStore::open(folder.path()).unwrap()) as Arc<dyn ObjectStore> };
    contract::check_all("contract", open).await;
    assert_eq!(files_in(&folder.path().join(TEMPORARY)), 0, "temporary files were left behind");
}

#[tokio::test]
async fn passes_the_self_test_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = FolderStore::open(folder.path()).unwrap();
    crate::self_test(&store).await.unwrap();
    assert!(names(&store, "").await.is_empty());
    assert!(!folder.path().join("meta").exists(), "empty folders are removed");
}

#[tokio::test]
async fn objects_survive_reopening_and_have_their_keys_as_paths() {
    let folder = tempfile::tempdir().unwrap();
    put(&FolderStore::open(folder.path()).unwrap(), "data/x/1.parquet", "hello").await.unwrap();
    assert_eq!(fs::read(folder.path().join("data/x/1.parquet")).unwrap(), b"hello");
    let again = FolderStore::open(folder.path()).unwrap();
    assert_eq!(again.get(&key("data/x/1.parquet")).await.unwrap().bytes, "hello");
}

#[tokio::test]
async fn an_object_and_a_folder_of_one_name_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = FolderStore::open(folder.path()).unwrap();
    put(&store, "a/b", "x").await.unwrap();
    assert!(matches!(put(&store, "a", "x").await, Err(StoreError::Key(_))));
    assert!(matches!(put(&store, "a/b/c", "x").await, Err(StoreError::Key(_))));
    for absent in ["a", "a/b/c"] {
        assert!(matches!(store.get(&key(absent)).await, Err(StoreError::NotFound(_))), "{absent}");
        assert!(matches!(store.head(&key(absent)).await, Err(StoreError::NotFound(_))), "{absent}");
        store.delete(&key(absent)).await.unwrap();
    }
    assert_eq!(names(&store, "").await, ["a/b"]);
}

#[tokio::test]
async fn other_files_and_temporary_files_are_hidden() {
    let folder = tempfile::tempdir().unwrap();
    let store = FolderStore::open(folder.path()).unwrap();
    put(&store, "a/b", "x").await.unwrap();
    fs::write(folder.path().join(TEMPORARY).join("left"), "half").unwrap();
    fs::write(folder.path().join("a/no key"), "x").unwrap();
    std::os::unix::fs::symlink("/", folder.path().join("a/root")).unwrap();
    assert_eq!(names(&store, "").await, ["a/b"]);
    assert_eq!(names(&store, "#temporary/").await, [""; 0]);
    assert_eq!(names(&store, "../").await, [""; 0]);
    assert_eq!(names(&store, "/").await, [""; 0]);
}

#[test]
fn opening_removes_stale_temporaries_only() {
    let folder = tempfile::tempdir().unwrap();
    FolderStore::open(folder.path()).unwrap();
    let (stale, fresh) = (folder.path().join(TEMPORARY).join("stale"), folder.path().join(TEMPORARY).join("fresh"));
    for path in [&stale, &fresh] {
        fs::write(path, "half").unwrap();
    }
    let now = fs::metadata(&stale).unwrap().modified().unwrap();
    File::options().write(true).open(&stale).unwrap().set_modified(now - TEMPORARY_AGE_MAX * 2).unwrap();
    FolderStore::open(folder.path()).unwrap();
    assert!(!stale.exists() && fresh.exists());
}

#[test]
fn a_folder_that_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    let text = FolderStore::open(&file).unwrap_err().to_string();
    assert!(text.contains("opening the folder") && text.contains("file"), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn joined_reads_return_what_was_requested(ranges in proptest::collection::vec((0u64..200_000, 0u64..5_000), 0..20)) {
        let folder = tempfile::tempdir().unwrap();
        let folder = Folder::open(folder.path(), &SystemRandom).unwrap();
        let content: Vec<u8> = (0..205_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let key = key("object");
        folder.put(&key, &Bytes::from(content.clone()), &PutCondition::Always).unwrap();
        let ranges: Vec<_> = ranges.into_iter().map(|(start, length)| start..start + length).collect();
        let read = OpenObject::open(&folder, &key).unwrap().read_all(&ranges).unwrap();
        for (range, bytes) in ranges.iter().zip(read) {
            prop_assert_eq!(&bytes[..], &content[range.start as usize..range.end as usize]);
        }
    }
}

/// Puts create folders while deletes remove them. Neither may fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn puts_and_deletes_race_for_folders() {
    let folder = tempfile::tempdir().unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..8 {
        let store = FolderStore::open(folder.path()).unwrap();
        tasks.spawn(async move {
            let name = format!("a/b/c/{task}");
            for _ in 0..100 {
                put(&store, &name, "x").await.unwrap();
                store.get(&key(&name)).await.unwrap();
                store.delete(&key(&name)).await.unwrap();
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert!(!folder.path().join("a").exists());
}

const CHILD: &str = "MILLRACE_TEST_FOLDER";
const PROCESSES: usize = 5;
const INCREMENTS: usize = 40;

/// [`processes_increment_one_counter`] runs this in separate processes. Otherwise it does nothing.
#[tokio::test]
async fn child_increments_a_counter() {
    let Some(folder) = std::env::var_os(CHILD) else { return };
    let store = FolderStore::open(PathBuf::from(folder)).unwrap();
    contract::increment(&store, &key("counter"), INCREMENTS).await;
}

#[tokio::test]
async fn processes_increment_one_counter() {
    let folder = tempfile::tempdir().unwrap();
    let program = std::env::current_exe().unwrap();
    let spawn = |_| {
        let arguments = ["--exact", "folder::tests::child_increments_a_counter", "--nocapture"];
        let mut command = Command::new(&program);
        command.args(arguments).env(CHILD, folder.path()).stdout(std::process::Stdio::null()).spawn().unwrap()
    };
    let children: Vec<_> = (0..PROCESSES).map(spawn).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let store = FolderStore::open(folder.path()).unwrap();
    assert_eq!(contract::count(&store, &key("counter")).await, PROCESSES * INCREMENTS);
}

/// Processes that are killed during puts leave only complete objects, and locks that others can take.
#[tokio::test]
async fn killed_writers_leave_whole_objects() {
    let folder = tempfile::tempdir().unwrap();
    let program = std::env::current_exe().unwrap();
    let store = FolderStore::open(folder.path()).unwrap();
    let object = key("big");
    for round in 0..10 {
        let arguments = ["--exact", "folder::tests::child_puts_big_objects", "--nocapture"];
        let mut command = Command::new(&program);
        command.args(arguments).env(CHILD, folder.path()).stdout(std::process::Stdio::null());
        let mut child = command.spawn().unwrap();
        tokio::time::sleep(Duration::from_millis(30 + 13 * round)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        match store.get(&object).await {
            Ok(found) => {
                assert_eq!(found.bytes.len(), 1 << 20);
                assert!(found.bytes.iter().all(|b| *b == found.bytes[0]));
            }
            Err(StoreError::NotFound(_)) => {}
            Err(error) => panic!("{error}"),
        }
        store.put(&object, Bytes::from(vec![255; 1 << 20]), PutCondition::Always).await.unwrap();
    }
    assert_eq!(names(&store, "").await, ["big"]);
}

/// [`killed_writers_leave_whole_objects`] runs this in separate processes. Otherwise it does nothing.
#[tokio::test]
async fn child_puts_big_objects() {
    let Some(folder) = std::env::var_os(CHILD) else { return };
    let store = FolderStore::open(PathBuf::from(folder)).unwrap();
    for i in 0u8.. {
        store.put(&key("big"), Bytes::from(vec![i; 1 << 20]), PutCondition::Always).await.unwrap();
        if i == 254 {
            break;
        }
    }
}
