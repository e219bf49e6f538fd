//! Requests a topic's id from Kafka: 16 bytes that the topic got when it was created. A topic that was deleted and
//! recreated with the same name has another id. This shows that it is another topic (docs/adr/0008-topic-id.md).
//!
//! librdkafka can request the id, but rdkafka, the safe crate over it, has no function for it. This crate and
//! `crates/allocator` have all unsafe code of the repository. Here it is one function, which calls librdkafka's C
//! functions and frees what they return.

use std::ffi::{CStr, CString};
use std::fmt;
use std::time::Duration;

use rdkafka::client::{Client, ClientContext};
use rdkafka_sys as sys;
use rdkafka_sys::types::RDKafkaErrorCode;
use thiserror::Error;

/// The id of a topic. It is displayed like in Kafka's own tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TopicId([u8; 16]);

/// Why the id cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TopicIdError {
    /// The topic does not exist.
    #[error("topic {0:?} does not exist")]
    NoTopic(String),
    /// The brokers are older than Kafka 2.8, which introduced topic ids.
    #[error("topic {0:?} has no id: Kafka 2.8 or newer is needed")]
    NoId(String),
    /// Kafka refused or did not answer.
    #[error("the id of topic {topic:?} cannot be read: {reason}")]
    Kafka {
        /// The topic.
        topic: String,
        /// librdkafka's error text.
        reason: String,
        /// librdkafka's error code.
        code: RDKafkaErrorCode,
    },
}

/// The letters of displayed ids: URL-safe base64.
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl TopicId {
    /// Joins the two halves of an id. The first half has the higher bits.
    fn new(high: i64, low: i64) -> Self {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&high.to_be_bytes());
        bytes[8..].copy_from_slice(&low.to_be_bytes());
        Self(bytes)
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = u128::from_be_bytes(self.0);
        // 21 letters with 6 bits each, from the top. The last letter has the remaining 2 bits.
        let letters = (0..22).map(|i| if i < 21 { bits >> (122 - 6 * i) } else { bits << 4 } & 63);
        for letter in letters {
            write!(f, "{}", char::from(LETTERS[letter as usize]))?;
        }
        Ok(())
    }
}

/// Requests the id of a topic from this broker, or from the controller if `broker` is `None`. Blocks for up to
/// `patience` and a second.
///
/// # Errors
/// See [`TopicIdError`].
#[allow(unsafe_code, reason = "rdkafka has no function for it; docs/adr/0008-topic-id.md")]
pub fn topic_id<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    broker: Option<i32>,
    patience: Duration,
) -> Result<TopicId, TopicIdError> {
    let kafka = |code: sys::rd_kafka_resp_err_t, reason: &str| match code.into() {
        RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => {
            TopicIdError::NoTopic(topic.to_owned())
        }
        code => TopicIdError::Kafka { topic: topic.to_owned(), reason: reason.to_owned(), code },
    };
    let patience_ms = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
    let name = CString::new(topic).map_err(|_| TopicIdError::NoTopic(topic.to_owned()))?;
    let mut names = [name.as_ptr()];
    let client = client.native_ptr();

    // SAFETY: `client` belongs to a value that is borrowed for longer than this function runs. A guard frees each object
    // created here when the function ends, in reverse order, and pointers into an object are only read while it lives.
    // `names` holds one pointer to a string that ends with a zero byte and outlives the call that copies it.
    #[allow(clippy::multiple_unsafe_ops_per_block, reason = "the operations share objects and their lifetimes")]
    unsafe {
        let queue = Guard(sys::rd_kafka_queue_new(client), sys::rd_kafka_queue_destroy);
        let options =
            sys::rd_kafka_AdminOptions_new(client, sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        let options = Guard(options, sys::rd_kafka_AdminOptions_destroy);
        let mut text = [0; 256];
        let mut set =
            sys::rd_kafka_AdminOptions_set_request_timeout(options.0, patience_ms, text.as_mut_ptr(), text.len());
        if let (sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR, Some(broker)) = (set, broker) {
            set = sys::rd_kafka_AdminOptions_set_broker(options.0, broker, text.as_mut_ptr(), text.len());
        }
        if set != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(kafka(set, &CStr::from_ptr(text.as_ptr()).to_string_lossy()));
        }
        let topics = sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        let topics = Guard(topics, sys::rd_kafka_TopicCollection_destroy);
        sys::rd_kafka_DescribeTopics(client, topics.0, options.0, queue.0);

        // librdkafka always answers, with an error after the time-out. Wait a second longer than that.
        let event = sys::rd_kafka_queue_poll(queue.0, patience_ms.saturating_add(1000));
        if event.is_null() {
            return Err(kafka(sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__TIMED_OUT, "no answer"));
        }
        let event = Guard(event, sys::rd_kafka_event_destroy);
        let code = sys::rd_kafka_event_error(event.0);
        if code != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(kafka(code, &CStr::from_ptr(sys::rd_kafka_event_error_string(event.0)).to_string_lossy()));
        }
        let result = sys::rd_kafka_event_DescribeTopics_result(event.0);
        if result.is_null() {
            return Err(kafka(
                sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__BAD_MSG,
                "the answer is for another request",
            ));
        }
        let mut count = 0;
        let descriptions = sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        if descriptions.is_null() || count != 1 {
            return Err(kafka(
                sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__BAD_MSG,
                "the answer is not about one topic",
            ));
        }
        let error = sys::rd_kafka_TopicDescription_error(*descriptions);
        let code = sys::rd_kafka_error_code(error);
        if code != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(kafka(code, &CStr::from_ptr(sys::rd_kafka_error_string(error)).to_string_lossy()));
        }
        let id = sys::rd_kafka_TopicDescription_topic_id(*descriptions);
        if id.is_null() {
            return Err(TopicIdError::NoId(topic.to_owned()));
        }
        let (high, low) = (sys::rd_kafka_Uuid_most_significant_bits(id), sys::rd_kafka_Uuid_least_significant_bits(id));
        if (high, low) == (0, 0) { Err(TopicIdError::NoId(topic.to_owned())) } else { Ok(TopicId::new(high, low)) }
    }
}

/// Frees an object of librdkafka.
struct Guard<T>(*mut T, unsafe extern "C" fn(*mut T));

impl<T> Drop for Guard<T> {
    #[allow(unsafe_code, reason = "librdkafka must free its own objects")]
    fn drop(&mut self) {
        // SAFETY: the guard holds an object and the function that frees it, and nothing else frees the object.
        unsafe { (self.1)(self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_shown_as_kafka_shows_them() {
        // The output of java.util.Base64's URL encoder, without padding.
        for (high, low, expected) in [
            (0, 1, "AAAAAAAAAAAAAAAAAAAAAQ"),
            (-1, -1, "_____________________w"),
            (0x0123_4567_89ab_cdef, 0x1122_3344_5566_7788, "ASNFZ4mrze8RIjNEVWZ3iA"),
        ] {
            assert_eq!(TopicId::new(high, low).to_string(), expected);
        }
    }
}
