//! Settings of the S3 store.

use std::{fmt, num::NonZeroUsize, time::Duration};

use limits::{ByteSize, PromDuration};
use serde::{Deserialize, Serialize, Serializer};

use crate::ObjectKey;

/// The smallest part that S3 takes, except for the last part of an upload.
pub(super) const PART_BYTES_MIN: u64 = 5 << 20;
/// The largest request that S3 takes.
const REQUEST_BYTES_MAX: u64 = 5 << 30;
/// Replaces secrets when settings are shown.
const HIDDEN: &str = "<secret>";

/// Settings of [`S3Store`](crate::S3Store).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3Config {
    /// The bucket. Empty means that S3 is not used.
    pub bucket: String,
    /// The prefix of all keys, so that several installations can share a bucket. Empty means the whole bucket.
    pub prefix: String,
    /// The bucket's region. If empty, it comes from the environment, the profile or the instance. If none of them has it
    /// and an endpoint is set, the region is `us-east-1`.
    pub region: String,
    /// The URL of a server other than AWS. Empty means AWS, or the value of `AWS_ENDPOINT_URL`.
    pub endpoint: String,
    /// Uses `http://host/bucket/key` instead of `http://bucket.host/key`. Most servers other than AWS need it.
    pub path_style: bool,
    /// The access key. If empty, credentials come from the environment, the profile, web identity (IRSA), or the role of
    /// the instance.
    pub access_key_id: String,
    /// The secret of the access key. It is never shown.
    pub secret_access_key: Secret,
    /// The encryption to request for each object: `AES256`, `aws:kms`, or empty for the bucket's default.
    pub server_side_encryption: Encryption,
    /// The key for `aws:kms`: an id, ARN or alias. Empty means the account's default key for S3.
    pub kms_key_id: String,
    /// The time-out for a new connection.
    pub connect_timeout: PromDuration,
    /// The time-out of one try, plus a second for each 2 MB it sends. While an object is read, it limits the time without
    /// a byte. If it is too short, slow requests are sent twice; if it is too long, a dead server delays the next try.
    pub attempt_timeout: PromDuration,
    /// The time-out of all tries of a request, including pauses and the wait for `concurrency_max`.
    pub operation_timeout: PromDuration,
    /// The most tries of a request.
    pub attempts_max: u32,
    /// The longest pause before the second try. It doubles with each further try. Pauses are random, so that processes
    /// do not retry at the same time.
    pub backoff: PromDuration,
    /// The longest pause before any try.
    pub backoff_max: PromDuration,
    /// The most requests in flight; others wait. Each request holds a connection and the bytes it transfers.
    pub concurrency_max: NonZeroUsize,
    /// Objects of this size or larger are uploaded in parts. Parts are faster, and a failure only repeats one part. At
    /// least 5 MB.
    pub multipart_bytes_min: ByteSize,
    /// The size of a part, at least 5 MB. Parts are larger if an object would otherwise have more than 10,000 of them.
    pub multipart_part_bytes: ByteSize,
    /// Number of failures in a row (no answer, or 5xx) after which requests fail at once. 0 turns this off.
    pub breaker_failures: u32,
    /// How long requests fail at once. After this time, one request tests whether the server is back.
    pub breaker_pause: PromDuration,
    /// When requests carry checksums in addition to their signature: `when_required` or `when_supported`. AWS takes them
    /// on all requests, but many other servers do not.
    pub checksums: Checksums,
}

impl Default for S3Config {
    fn default() -> Self {
        Self {
            bucket: String::new(),
            prefix: String::new(),
            region: String::new(),
            endpoint: String::new(),
            path_style: false,
            access_key_id: String::new(),
            secret_access_key: Secret::default(),
            server_side_encryption: Encryption::BucketDefault,
            kms_key_id: String::new(),
            connect_timeout: PromDuration::new(Duration::from_secs(3)),
            attempt_timeout: PromDuration::new(Duration::from_secs(5)),
            operation_timeout: PromDuration::new(Duration::from_secs(60)),
            attempts_max: 6,
            backoff: PromDuration::new(Duration::from_millis(100)),
            backoff_max: PromDuration::new(Duration::from_secs(3)),
            concurrency_max: NonZeroUsize::new(64).expect("64 is not 0"),
            multipart_bytes_min: ByteSize::from_mb(32),
            multipart_part_bytes: ByteSize::from_mb(16),
            breaker_failures: 20,
            breaker_pause: PromDuration::new(Duration::from_secs(2)),
            checksums: Checksums::WhenRequired,
        }
    }
}

impl S3Config {
    /// Describes every invalid setting.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut wrong = |is_wrong: bool, text: &str| {
            if is_wrong {
                problems.push(text.to_owned());
            }
        };
        wrong(self.bucket.is_empty(), "bucket is not set");
        wrong(self.bucket.contains('/'), "bucket must be a name without a path; see prefix");
        wrong(
            !self.prefix.is_empty() && ObjectKey::new(&self.prefix).is_err(),
            "prefix must be words joined by `/`, without a `/` at either end",
        );
        wrong(
            self.access_key_id.is_empty() != self.secret_access_key.is_empty(),
            "access_key_id and secret_access_key belong together: set both or none",
        );
        wrong(
            self.secret_access_key.reveal() == HIDDEN,
            "secret_access_key is the text that settings show instead of a secret, not the secret",
        );
        let has_scheme = self.endpoint.starts_with("http://") || self.endpoint.starts_with("https://");
        wrong(!self.endpoint.is_empty() && !has_scheme, "endpoint must begin with http:// or https://");
        wrong(
            !self.kms_key_id.is_empty() && self.server_side_encryption != Encryption::AwsKms,
            "kms_key_id needs server_side_encryption: aws:kms",
        );
        wrong(self.connect_timeout.is_zero(), "connect_timeout must be longer than 0");
        wrong(self.attempt_timeout.is_zero(), "attempt_timeout must be longer than 0");
        wrong(
            Duration::from(self.operation_timeout) < Duration::from(self.attempt_timeout),
            "operation_timeout must be at least attempt_timeout",
        );
        wrong(self.attempts_max == 0, "attempts_max must be at least 1");
        let part = self.multipart_part_bytes.bytes();
        wrong(!(PART_BYTES_MIN..=REQUEST_BYTES_MAX).contains(&part), "multipart_part_bytes must be from 5MB to 5GB");
        let min = self.multipart_bytes_min.bytes();
        wrong(!(PART_BYTES_MIN..=REQUEST_BYTES_MAX).contains(&min), "multipart_bytes_min must be from 5MB to 5GB");
        problems
    }
}

/// The encryption to request for each object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encryption {
    /// Requests none, so the bucket's setting applies.
    #[default]
    #[serde(rename = "")]
    BucketDefault,
    /// Encryption with keys that S3 manages.
    #[serde(rename = "AES256")]
    Aes256,
    /// Encryption with a key of the key management service.
    #[serde(rename = "aws:kms")]
    AwsKms,
}

/// When requests carry checksums in addition to their signature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Checksums {
    /// Only where the protocol requires them. Every server supports this.
    #[default]
    WhenRequired,
    /// Wherever AWS accepts them.
    WhenSupported,
}

/// A text that neither `Debug` nor the output of settings shows.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret text.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// True if the text is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn shown(&self) -> &'static str {
        if self.is_empty() { "" } else { HIDDEN }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.shown())
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.shown())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> S3Config {
        S3Config { bucket: "logs".to_owned(), ..S3Config::default() }
    }

    #[test]
    fn problems() {
        let check = |change: fn(&mut S3Config), expected: &str| {
            let mut config = config();
            change(&mut config);
            let problems = config.problems();
            match expected {
                "" => assert_eq!(problems, [""; 0]),
                part => assert!(problems.len() == 1 && problems[0].contains(part), "{part}: {problems:?}"),
            }
        };
        check(|_| {}, "");
        check(|c| c.prefix = "a/b".to_owned(), "");
        check(|c| c.endpoint = "http://127.0.0.1:9000".to_owned(), "");
        check(|c| c.bucket.clear(), "bucket is not set");
        check(|c| c.bucket.push_str("/x"), "without a path");
        check(|c| c.prefix = "a/".to_owned(), "prefix");
        check(|c| c.access_key_id.push('x'), "belong together");
        check(|c| c.secret_access_key = Secret::new("x"), "belong together");
        check(
            |c| {
                c.access_key_id.push('x');
                c.secret_access_key = Secret::new("<secret>");
            },
            "not the secret",
        );
        check(|c| c.endpoint = "localhost:9000".to_owned(), "http://");
        check(|c| c.kms_key_id.push('k'), "aws:kms");
        check(|c| c.attempts_max = 0, "attempts_max");
        check(|c| c.attempt_timeout = PromDuration::ZERO, "attempt_timeout must be longer");
        check(|c| c.connect_timeout = PromDuration::ZERO, "connect_timeout");
        check(|c| c.operation_timeout = PromDuration::new(Duration::from_secs(1)), "operation_timeout");
        check(|c| c.multipart_part_bytes = ByteSize::from_mb(4), "multipart_part_bytes");
        check(|c| c.multipart_bytes_min = ByteSize::from_kb(4), "multipart_bytes_min");
        assert_eq!(S3Config { attempts_max: 0, ..S3Config::default() }.problems().len(), 2, "all at once");
    }

    #[test]
    fn secrets_are_not_shown() {
        let mut config = config();
        config.access_key_id = "AKIA1".to_owned();
        config.secret_access_key = Secret::new("hunter2");
        let shown = format!("{config:?} {}", serde_json::to_string(&config).unwrap());
        assert!(!shown.contains("hunter2") && shown.contains("<secret>"), "{shown}");
    }

    #[test]
    fn reads_what_it_writes() {
        let config = config();
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<S3Config>(&text).unwrap(), config);
        let check = |text: &str, right: bool| {
            assert_eq!(serde_json::from_str::<S3Config>(text).is_ok(), right, "{text}");
        };
        check(r#"{"bucket": "b", "server_side_encryption": "aws:kms", "checksums": "when_supported"}"#, true);
        check(r#"{"server_side_encryption": "rot13"}"#, false);
        check(r#"{"buckets": "b"}"#, false);
        check(r#"{"concurrency_max": 0}"#, false);
    }
}
