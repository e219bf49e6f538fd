//! What an operator turns.

use std::{fmt, num::NonZeroUsize, time::Duration};

use limits::{ByteSize, PromDuration};
use serde::{Deserialize, Serialize, Serializer};

use crate::ObjectKey;

/// S3 takes no part smaller than this, but for the last.
pub(super) const PART_BYTES_MIN: u64 = 5 << 20;
/// S3 takes nothing larger in one request.
const REQUEST_BYTES_MAX: u64 = 5 << 30;
/// What secrets look like when settings are shown.
const HIDDEN: &str = "<secret>";

/// Settings of [`S3Store`](crate::S3Store).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3Config {
    /// The bucket. Empty: S3 is not used.
    pub bucket: String,
    /// All keys live under this prefix, so that several installations can share a bucket. Empty: the whole bucket.
    pub prefix: String,
    /// The bucket's region. Empty: from the environment, the profile or the instance; `us-east-1` when none of them
    /// knows and an endpoint is set.
    pub region: String,
    /// URL of a server that is not AWS's. Empty: AWS, or what `AWS_ENDPOINT_URL` says.
    pub endpoint: String,
    /// `http://host/bucket/key` in place of `http://bucket.host/key`. Most servers that are not AWS's need it.
    pub path_style: bool,
    /// Access key. Empty: environment, profile, web identity (IRSA), or the role of the instance.
    pub access_key_id: String,
    /// Secret of the access key. Shown nowhere.
    pub secret_access_key: Secret,
    /// Encryption that is asked for with each object: empty for what the bucket does by default, `AES256`, or
    /// `aws:kms`.
    pub server_side_encryption: Encryption,
    /// The key for `aws:kms`: id, ARN or alias. Empty: the account's own for S3.
    pub kms_key_id: String,
    /// A connection must stand within this time.
    pub connect_timeout: PromDuration,
    /// One try of a request must be answered within this time and a second for each 2 MB it sends; while an object is
    /// read, so long may pass without a byte. Too short, and slow answers are asked for twice; too long, and a server
    /// that died holds up a try.
    pub attempt_timeout: PromDuration,
    /// All tries of a request together, pauses and the wait for a free place included.
    pub operation_timeout: PromDuration,
    /// How often a request is tried.
    pub attempts_max: u32,
    /// The pause before the second try is up to this; each further one up to twice as long. The pauses are random, so
    /// that processes do not come back all at once.
    pub backoff: PromDuration,
    /// No pause is longer.
    pub backoff_max: PromDuration,
    /// Requests in flight; more wait. Each holds a connection and the bytes it moves.
    pub concurrency_max: NonZeroUsize,
    /// Objects of this size or more are put in parts: they go faster, and a failure costs one part. At least 5 MB.
    pub multipart_bytes_min: ByteSize,
    /// Size of a part, at least 5 MB. Larger than this where an object would have more than 10,000 parts.
    pub multipart_part_bytes: ByteSize,
    /// After so many failures in a row (no answer, 5xx) the store answers at once that it is unavailable; 0 never.
    pub breaker_failures: u32,
    /// For so long; then one request tries whether the server is back.
    pub breaker_pause: PromDuration,
    /// Checksums beside the signature: `when_required`, or `when_supported` for all requests (AWS takes them; many
    /// other servers do not).
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
    /// Every setting that cannot work, in words.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut wrong = |is_wrong: bool, text: &str| {
            if is_wrong {
                problems.push(text.to_owned());
            }
        };
        wrong(self.bucket.is_empty(), "bucket is not set");
        wrong(self.bucket.contains('/'), "bucket is a name, without a path; see prefix");
        wrong(
            !self.prefix.is_empty() && ObjectKey::new(&self.prefix).is_err(),
            "prefix must be words joined by `/`, without one at either end",
        );
        wrong(
            self.access_key_id.is_empty() != self.secret_access_key.is_empty(),
            "access_key_id and secret_access_key belong together: set both or none",
        );
        wrong(
            self.secret_access_key.reveal() == HIDDEN,
            "secret_access_key is what settings show in place of a secret, not the secret",
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

/// Which encryption is asked for with each object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encryption {
    /// None is asked for: the bucket's own setting holds.
    #[default]
    #[serde(rename = "")]
    BucketDefault,
    /// With keys that S3 manages.
    #[serde(rename = "AES256")]
    Aes256,
    /// With a key of the key management service.
    #[serde(rename = "aws:kms")]
    AwsKms,
}

/// When requests carry checksums beside their signature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Checksums {
    /// Where the protocol demands them. What every server understands.
    #[default]
    WhenRequired,
    /// Wherever AWS takes them.
    WhenSupported,
}

/// A text that is never shown: neither by `Debug` nor when settings are written.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// This text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
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
