//! The messages on the topic: a version and a [`ProcessState`], as JSON. `schemas/README.md` documents the format.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ProcessState;

/// The version of the messages that this program writes.
pub const MESSAGE_VERSION: u32 = 1;

/// Why a message cannot be used.
#[derive(Debug, Error)]
pub enum MessageError {
    /// A later version of the program wrote it. This is normal during an upgrade.
    #[error("message of version {0}; this program reads up to {MESSAGE_VERSION}")]
    Newer(u32),
    /// It is not a valid message.
    #[error("unreadable: {0}")]
    Unreadable(String),
}

#[derive(Serialize)]
struct Written<'a> {
    v: u32,
    #[serde(flatten)]
    state: &'a ProcessState,
}

#[derive(Deserialize)]
struct Version {
    v: u32,
}

/// Encodes a message.
pub fn encode(state: &ProcessState) -> Bytes {
    let message = Written { v: MESSAGE_VERSION, state };
    serde_json::to_vec(&message).expect("a state only has types that JSON can hold").into()
}

/// Decodes a message that process `key` published.
///
/// # Errors
/// If a later version wrote the message, or it is not a valid message of this process.
pub fn decode(key: &str, payload: &[u8]) -> Result<ProcessState, MessageError> {
    let unreadable = |error: serde_json::Error| MessageError::Unreadable(error.to_string());
    // Read the version first, since a later version may have changed the meaning of everything else.
    let Version { v } = serde_json::from_slice(payload).map_err(unreadable)?;
    if v > MESSAGE_VERSION {
        return Err(MessageError::Newer(v));
    }
    if v == 0 {
        return Err(MessageError::Unreadable("version 0".to_owned()));
    }
    let state: ProcessState = serde_json::from_slice(payload).map_err(unreadable)?;
    if state.id != key {
        return Err(MessageError::Unreadable(format!("process {key} sent a message of {:?}", state.id)));
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use model::{Offset, OffsetRange, PartitionId, TenantId};
    use proptest::prelude::*;

    use super::*;
    use crate::{PartitionRole, PartitionState, Role};

    fn state() -> ProcessState {
        ProcessState {
            id: "consumer-1-5f3a09c2".to_owned(),
            roles: vec![Role::Gateway, Role::Consumer, Role::Follower, Role::Builder, Role::QueryService],
            rpc: Some("10.0.0.7:3100".to_owned()),
            zone: "a".to_owned(),
            leaving: false,
            partition_count: 16,
            partitions: vec![
                PartitionState {
                    partition: PartitionId::new(3),
                    role: PartitionRole::Leading,
                    epoch: 7,
                    held: OffsetRange::new(Offset::new(100), Offset::new(250)),
                },
                PartitionState {
                    partition: PartitionId::new(4),
                    role: PartitionRole::Draining,
                    epoch: 2,
                    held: OffsetRange::new(Offset::new(5), Offset::new(5)),
                },
            ],
            rates: [(TenantId::new("acme").unwrap(), 52_000)].into(),
        }
    }

    /// The message shown in `schemas/README.md`. Do not regenerate it: if the bytes change, that is a new version.
    const GOLDEN: &str = concat!(
        r#"{"v":1,"id":"consumer-1-5f3a09c2","roles":["gateway","consumer","follower","builder","query-service"],"#,
        r#""rpc":"10.0.0.7:3100","zone":"a","leaving":false,"partition_count":16,"partitions":["#,
        r#"{"partition":3,"role":"leading","epoch":7,"held":{"start":100,"end":250}},"#,
        r#"{"partition":4,"role":"draining","epoch":2,"held":{"start":5,"end":5}}],"#,
        r#""rates":{"acme":52000}}"#,
    );

    #[test]
    fn version_1_does_not_change() {
        assert_eq!(std::str::from_utf8(&encode(&state())).unwrap(), GOLDEN);
        assert_eq!(decode("consumer-1-5f3a09c2", GOLDEN.as_bytes()).unwrap(), state());
        let readme = include_str!("../../../schemas/README.md");
        let shown: String = readme.lines().map(str::trim).collect();
        assert!(shown.contains(&GOLDEN.replace(", ", ",")), "the golden message is shown in schemas/README.md");
    }

    #[test]
    fn decodes_valid_messages_only() {
        let check = |payload: &str, expected: Result<usize, &str>| {
            let found = decode("a", payload.as_bytes()).map(|s| s.roles.len()).map_err(|e| e.to_string());
            assert_eq!(found.as_ref().map(|n| *n).map_err(String::as_str), expected, "{payload}");
        };
        check(r#"{"v":1,"id":"a"}"#, Ok(0));
        check(r#"{"v":1,"id":"a","roles":["gateway","poet"],"mood":{"of":["today"]}}"#, Ok(1));
        check(r#"{"v":2,"id":7}"#, Err("message of version 2; this program reads up to 1"));
        check(r#"{"v":0,"id":"a"}"#, Err("unreadable: version 0"));
        check(r#"{"v":1,"id":"b"}"#, Err("unreadable: process a sent a message of \"b\""));
        check(r#"{"id":"a"}"#, Err("unreadable: missing field `v` at line 1 column 10"));
        check("", Err("unreadable: EOF while parsing a value at line 1 column 0"));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes: Vec<u8>) {
            let _ = decode("a", &bytes);
        }

        #[test]
        fn decodes_what_was_encoded(
            id in "\\PC{0,20}", zone in "\\PC{0,8}", leaving: bool, partition_count: u32,
            partitions in proptest::collection::vec((any::<u32>(), 0..4usize, any::<u64>(), any::<i64>(), any::<i64>()), 0..6),
            rate: u64,
        ) {
            let roles = [PartitionRole::Warming, PartitionRole::Leading, PartitionRole::Following, PartitionRole::Draining];
            let partitions = partitions.into_iter().map(|(partition, role, epoch, start, end)| PartitionState {
                partition: PartitionId::new(partition),
                role: roles[role],
                epoch,
                held: OffsetRange::new(Offset::new(start), Offset::new(end)),
            });
            let rates = [(TenantId::new("t").unwrap(), rate)].into();
            let state = ProcessState {
                id, zone, leaving, partition_count, partitions: partitions.collect(), rates, ..ProcessState::default()
            };
            prop_assert_eq!(decode(&state.id, &encode(&state)).unwrap(), state);
        }
    }
}
