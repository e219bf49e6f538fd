//! The store over a bucket.

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use aws_sdk_s3::{
    Client,
    config::{
        Builder, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
        StalledStreamProtectionConfig, retry::RetryConfig, timeout::TimeoutConfig,
    },
    operation::get_object::GetObjectOutput,
    primitives::ByteStream,
    types::{ChecksumAlgorithm, ServerSideEncryption},
};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt, stream};
use thiserror::Error;

use super::{
    calls::{Calls, Failed},
    config::{Checksums, Encryption, S3Config},
    failure::{Failure, Kind},
    metrics::{Metrics, Request},
    ranges,
};
use crate::{Object, ObjectKey, ObjectMeta, ObjectStore, PutCondition, StoreError, Version, check_range};

/// Ranges of one call that are fetched at once. The store's own bound holds over all calls.
const RANGES_AT_ONCE: usize = 16;
/// No buffer is made larger than this before the bytes are there.
const RESERVED_BYTES_MAX: u64 = 64 << 20;

/// Why a store cannot be made.
#[derive(Debug, Error)]
pub enum S3Error {
    /// Settings that cannot work.
    #[error("settings of the S3 store: {}", .0.join("; "))]
    Config(Vec<String>),
    /// Nobody knows the bucket's region.
    #[error("settings of the S3 store: region is not set, and neither environment, profile nor instance knows one")]
    Region,
    /// The metrics are registered already.
    #[error("metrics of the S3 store: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Keeps objects in a bucket. Clones share connections, bounds and breaker. See the documentation of this module's
/// source for what it promises beyond the trait.
#[derive(Clone, Debug)]
pub struct S3Store(Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) client: Client,
    pub(super) bucket: String,
    /// Empty, or with a `/` at its end.
    prefix: String,
    pub(super) headers: PutHeaders,
    multipart_bytes_min: u64,
    pub(super) part_bytes: u64,
    pub(super) attempts_max: u32,
    pub(super) calls: Calls,
}

/// What every new object is asked for with.
#[derive(Clone, Debug)]
pub(super) struct PutHeaders {
    pub(super) encryption: Option<ServerSideEncryption>,
    pub(super) kms_key_id: Option<String>,
    pub(super) checksum: Option<ChecksumAlgorithm>,
}

/// The SDK's settings as they follow from ours: for callers that add something of their own before they call
/// [`S3Store::over`]. Asks the environment, and on an instance its metadata service, what is not set.
///
/// # Errors
/// [`S3Error::Config`] and [`S3Error::Region`].
pub async fn client_config(config: &S3Config) -> Result<Builder, S3Error> {
    let problems = config.problems();
    if !problems.is_empty() {
        return Err(S3Error::Config(problems));
    }
    let mut loader = aws_config::from_env();
    if !config.region.is_empty() {
        loader = loader.region(Region::new(config.region.clone()));
    }
    if !config.access_key_id.is_empty() {
        let secret = config.secret_access_key.reveal();
        loader = loader.credentials_provider(Credentials::new(&config.access_key_id, secret, None, None, "settings"));
    }
    if !config.endpoint.is_empty() {
        loader = loader.endpoint_url(&config.endpoint);
    }
    let shared = loader.load().await;
    let (calculation, validation) = match config.checksums {
        Checksums::WhenRequired => (RequestChecksumCalculation::WhenRequired, ResponseChecksumValidation::WhenRequired),
        Checksums::WhenSupported => {
            (RequestChecksumCalculation::WhenSupported, ResponseChecksumValidation::WhenSupported)
        }
    };
    let mut builder = aws_sdk_s3::config::Builder::from(&shared)
        .force_path_style(config.path_style)
        // Tries, their time and stalled answers are our own matter: see `calls`.
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .timeout_config(TimeoutConfig::builder().connect_timeout(config.connect_timeout.into()).build())
        .request_checksum_calculation(calculation)
        .response_checksum_validation(validation);
    if shared.region().is_none() {
        if shared.endpoint_url().is_none() {
            return Err(S3Error::Region);
        }
        builder = builder.region(Region::new("us-east-1"));
    }
    Ok(builder)
}

impl S3Store {
    /// Opens a store over the bucket that the settings name. Nothing is asked yet: [`self_test`](crate::self_test) does.
    ///
    /// # Errors
    /// When settings cannot work, or the metrics are registered already.
    pub async fn connect(config: &S3Config, metrics: Option<&prometheus::Registry>) -> Result<Self, S3Error> {
        let client = Client::from_conf(client_config(config).await?.build());
        Self::over(client, config, metrics)
    }

    /// As [`S3Store::connect`], with the caller's client.
    ///
    /// # Errors
    /// As [`S3Store::connect`].
    pub fn over(client: Client, config: &S3Config, metrics: Option<&prometheus::Registry>) -> Result<Self, S3Error> {
        let problems = config.problems();
        if !problems.is_empty() {
            return Err(S3Error::Config(problems));
        }
        let metrics = Metrics::new(metrics)?;
        let prefix = if config.prefix.is_empty() { String::new() } else { format!("{}/", config.prefix) };
        let encryption = match config.server_side_encryption {
            Encryption::BucketDefault => None,
            Encryption::Aes256 => Some(ServerSideEncryption::Aes256),
            Encryption::AwsKms => Some(ServerSideEncryption::AwsKms),
        };
        let kms_key_id = Some(config.kms_key_id.clone()).filter(|id| !id.is_empty());
        let checksum = (config.checksums == Checksums::WhenSupported).then_some(ChecksumAlgorithm::Crc32);
        Ok(Self(Arc::new(Inner {
            client,
            bucket: config.bucket.clone(),
            prefix,
            headers: PutHeaders { encryption, kms_key_id, checksum },
            multipart_bytes_min: config.multipart_bytes_min.bytes(),
            part_bytes: config.multipart_part_bytes.bytes(),
            attempts_max: config.attempts_max,
            calls: Calls::new(config, metrics),
        })))
    }

    /// The bucket.
    pub fn bucket(&self) -> &str {
        &self.0.bucket
    }
}

/// Bytes of an object, and what the answer says of all of it.
struct Fetched {
    bytes: Bytes,
    version: Version,
    /// The object's length.
    total: u64,
}

#[async_trait]
impl ObjectStore for S3Store {
    async fn get(&self, key: &ObjectKey) -> Result<Object, StoreError> {
        let Fetched { bytes, version, .. } = self.0.fetch(key, None).await?;
        Ok(Object { bytes, version })
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        let mut found = self.0.fetch_all(key, &[range]).await?;
        Ok(found.pop().expect("one range gives one answer"))
    }

    async fn get_ranges(&self, key: &ObjectKey, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, StoreError> {
        self.0.fetch_all(key, ranges).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
        let bytes = self.0.length(key).await?;
        Ok(ObjectMeta { key: key.clone(), bytes })
    }

    async fn put(&self, key: &ObjectKey, bytes: Bytes, condition: PutCondition) -> Result<Version, StoreError> {
        self.0.put(key, &bytes, &condition).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.0.delete(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        self.0.list(prefix).await
    }
}

impl Inner {
    /// The key in the bucket.
    fn full_key(&self, key: &ObjectKey) -> Result<String, StoreError> {
        let full = format!("{}{key}", self.prefix);
        if full.len() > ObjectKey::BYTES_MAX { Err(StoreError::Key(full)) } else { Ok(full) }
    }

    fn unavailable(&self, doing: &str, key: &str, reason: String) -> StoreError {
        StoreError::Unavailable { doing: format!("{doing} {key:?} in bucket {:?}", self.bucket), reason }
    }

    /// What a failure means that has no meaning of its own for the operation.
    fn failed(&self, doing: &str, key: &str, failed: &Failed) -> StoreError {
        let mut reason = failed.reason();
        match failed.last.kind {
            Kind::NoBucket => reason = format!("the bucket does not exist: {reason}"),
            Kind::Denied => {
                reason.push_str("; S3 answers so for objects that do not exist, too, unless s3:ListBucket is allowed");
            }
            Kind::Skewed => reason.push_str("; the clock of this machine is wrong"),
            _ => {}
        }
        self.unavailable(doing, key, reason)
    }

    /// As [`Inner::failed`], for reads of an object.
    fn not_read(&self, key: &ObjectKey, failed: &Failed) -> StoreError {
        match failed.last.kind {
            Kind::NoKey => StoreError::NotFound(key.to_string()),
            _ => self.failed("reading", key.as_str(), failed),
        }
    }

    /// All of an object, or a range of it that is not empty. The answer may be shorter where the object ends earlier.
    async fn fetch(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Fetched, StoreError> {
        self.try_fetch(&self.full_key(key)?, range).await.map_err(|failed| self.not_read(key, &failed))
    }

    async fn try_fetch(&self, key: &str, range: Option<Range<u64>>) -> Result<Fetched, Failed> {
        let header = range.as_ref().map(|range| format!("bytes={}-{}", range.start, range.end - 1));
        let get = self.client.get_object().bucket(&self.bucket).key(key).set_range(header);
        self.calls
            .make(Request::Get, || async {
                let answer = self.calls.answer(0, get.clone().send()).await?;
                self.receive(answer, range.as_ref()).await
            })
            .await
    }

    /// Reads an answer to its end and checks that all of it came.
    async fn receive(&self, mut answer: GetObjectOutput, range: Option<&Range<u64>>) -> Result<Fetched, Failure> {
        let version = answer.e_tag.take().map(Version).ok_or_else(|| Failure::broken("the answer names no ETag"))?;
        let length = answer.content_length.and_then(|length| u64::try_from(length).ok());
        let length = length.ok_or_else(|| Failure::broken("the answer has no length"))?;
        let part = answer.content_range.take().map(|text| {
            ranges::content_range(&text).ok_or_else(|| Failure::broken(format!("no range of S3: {text:?}")))
        });
        let bytes = self.collect(answer.body, length).await?;
        let Some(part) = part else {
            // All of it, also when a part was asked for: servers may do so.
            let wanted = range.map_or(0..length, |range| range.start.min(length)..range.end.min(length));
            let wanted =
                usize::try_from(wanted.start).and_then(|start| usize::try_from(wanted.end).map(|end| start..end));
            let wanted = wanted.map_err(|_| Failure::broken("an object larger than memory"))?;
            return Ok(Fetched { bytes: bytes.slice(wanted), version, total: length });
        };
        let ranges::ContentRange { part, total } = part?;
        let wanted = range.map_or(0..total, |range| range.start..range.end.min(total));
        if part != wanted || bytes.len() as u64 != part.end - part.start {
            let text = format!("the answer holds {} bytes, {part:?} of {total}, not {wanted:?}", bytes.len());
            return Err(Failure::broken(text));
        }
        Ok(Fetched { bytes, version, total })
    }

    async fn collect(&self, mut body: ByteStream, length: u64) -> Result<Bytes, Failure> {
        let mut first = Bytes::new();
        let mut all = BytesMut::new();
        while let Some(chunk) = self.calls.next(body.next()).await? {
            let chunk = chunk.map_err(|error| Failure::broken(super::failure::chain(&error)))?;
            self.calls.metrics.received_bytes.inc_by(chunk.len() as u64);
            if first.is_empty() && all.is_empty() {
                first = chunk;
                continue;
            }
            if all.is_empty() {
                all.reserve(usize::try_from(length.min(RESERVED_BYTES_MAX)).unwrap_or(0));
                all.extend_from_slice(&first);
                first = Bytes::new();
            }
            all.extend_from_slice(&chunk);
        }
        let bytes = if all.is_empty() { first } else { all.freeze() };
        if bytes.len() as u64 != length {
            return Err(Failure::broken(format!("the answer broke off: {} bytes of {length}", bytes.len())));
        }
        Ok(bytes)
    }

    /// Ranges of one content of an object, in the order asked.
    async fn fetch_all(&self, key: &ObjectKey, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, StoreError> {
        let mut tries = 0;
        loop {
            tries += 1;
            if let Some(found) = self.fetch_all_once(key, ranges).await? {
                return Ok(found);
            }
            if tries >= self.attempts_max {
                let reason = format!("the object was replaced while it was read, {tries} times");
                return Err(self.unavailable("reading", key.as_str(), reason));
            }
        }
    }

    /// `None` when the object was replaced in between.
    async fn fetch_all_once(&self, key: &ObjectKey, ranges: &[Range<u64>]) -> Result<Option<Vec<Bytes>>, StoreError> {
        if ranges.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let plan = ranges::join(ranges);
        if plan.is_empty() || !ranges.iter().all(ranges::is_plausible) {
            // Nothing to ask for, or something that lies in no object: the length decides.
            check_all(key, self.length(key).await?, ranges)?;
        }
        let full_key = self.full_key(key)?;
        let fetches: Vec<_> = plan.iter().map(|part| self.try_fetch(&full_key, Some(part.clone()))).collect();
        let fetched: Result<Vec<Fetched>, Failed> = stream::iter(fetches).buffered(RANGES_AT_ONCE).try_collect().await;
        let fetched = match fetched {
            Ok(fetched) => fetched,
            Err(failed) if failed.last.kind == Kind::Range => {
                check_all(key, self.length(key).await?, ranges)?;
                // It has grown since.
                return Ok(None);
            }
            Err(failed) => return Err(self.not_read(key, &failed)),
        };
        if let Some(first) = fetched.first() {
            if fetched.iter().any(|part| part.version != first.version) {
                return Ok(None);
            }
            check_all(key, first.total, ranges)?;
        }
        let cut_out = |range| ranges::cut_out(range, &plan, |i| &fetched[i].bytes);
        Ok(Some(ranges.iter().map(cut_out).collect()))
    }

    /// The object's length.
    async fn length(&self, key: &ObjectKey) -> Result<u64, StoreError> {
        let full_key = self.full_key(key)?;
        let head = self.client.head_object().bucket(&self.bucket).key(&full_key);
        let outcome = self
            .calls
            .make(Request::Head, || async {
                let answer = self.calls.answer(0, head.clone().send()).await?;
                let length = answer.content_length.and_then(|length| u64::try_from(length).ok());
                length.ok_or_else(|| Failure::broken("the answer has no length"))
            })
            .await;
        match outcome {
            // An answer to HEAD has no body that would tell a missing bucket from a missing object.
            Err(failed) if failed.last.kind == Kind::NoKey => match self.try_fetch(&full_key, Some(0..1)).await {
                Ok(fetched) => Ok(fetched.total),
                Err(failed) if failed.last.kind == Kind::Range => Ok(0),
                Err(failed) => Err(self.not_read(key, &failed)),
            },
            outcome => outcome.map_err(|failed| self.failed("looking at", key.as_str(), &failed)),
        }
    }

    async fn put(&self, key: &ObjectKey, bytes: &Bytes, condition: &PutCondition) -> Result<Version, StoreError> {
        let full_key = self.full_key(key)?;
        let outcome = if bytes.len() as u64 >= self.multipart_bytes_min {
            self.put_in_parts(&full_key, bytes, condition).await
        } else {
            self.put_at_once(&full_key, bytes, condition).await
        };
        outcome.map_err(|failed| self.not_put(key, condition, &failed))
    }

    async fn put_at_once(&self, key: &str, bytes: &Bytes, condition: &PutCondition) -> Result<Version, Failed> {
        self.calls
            .make(Request::Put, || async {
                let (if_match, if_none_match) = condition_headers(condition);
                let PutHeaders { encryption, kms_key_id, checksum } = self.headers.clone();
                let put = self
                    .client
                    .put_object()
                    .bucket(&self.bucket)
                    .key(key)
                    .set_if_match(if_match)
                    .set_if_none_match(if_none_match)
                    .set_server_side_encryption(encryption)
                    .set_ssekms_key_id(kms_key_id)
                    .set_checksum_algorithm(checksum)
                    .body(ByteStream::from(bytes.clone()));
                let answer = self.calls.answer(bytes.len() as u64, put.send()).await?;
                answer.e_tag.map(Version).ok_or_else(|| Failure::broken("the answer names no ETag"))
            })
            .await
    }

    /// What became of a put, as exactly as it can be known.
    fn not_put(&self, key: &ObjectKey, condition: &PutCondition, failed: &Failed) -> StoreError {
        let is_refusal = match (condition, failed.last.kind) {
            (PutCondition::Always, _) => false,
            (_, Kind::Precondition) => true,
            // S3 answers 404 when an object of some version is expected and there is none.
            (PutCondition::IfVersion(_), Kind::NoKey) => true,
            _ => false,
        };
        match &failed.unclear {
            None if is_refusal => StoreError::Precondition(key.to_string()),
            Some(earlier) if is_refusal || failed.last.kind == Kind::NoUpload => {
                let reason = format!(
                    "an earlier try may have come to effect ({earlier}), and the last was refused: {}",
                    failed.reason()
                );
                self.unavailable("putting", key.as_str(), reason)
            }
            _ => self.failed("putting", key.as_str(), failed),
        }
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let delete = self.client.delete_object().bucket(&self.bucket).key(self.full_key(key)?);
        let outcome = self
            .calls
            .make(Request::Delete, || async { self.calls.answer(0, delete.clone().send()).await.map(drop) })
            .await;
        match outcome {
            Err(failed) if failed.last.kind != Kind::NoKey => Err(self.failed("deleting", key.as_str(), &failed)),
            _ => Ok(()),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        let full_prefix = format!("{}{prefix}", self.prefix);
        let list = self.client.list_objects_v2().bucket(&self.bucket).prefix(full_prefix);
        let mut found = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let page = list.clone().set_continuation_token(token.clone());
            let page = self
                .calls
                .make(Request::List, || async { self.calls.answer(0, page.clone().send()).await })
                .await
                .map_err(|failed| self.failed("listing", prefix, &failed))?;
            for object in page.contents.unwrap_or_default() {
                found.extend(self.listed(object.key.as_deref(), object.size));
            }
            let next = page.next_continuation_token.filter(|_| page.is_truncated == Some(true));
            match next {
                None => break,
                next if next == token => {
                    let reason = "the server answers the same page of the listing again and again".to_owned();
                    return Err(self.unavailable("listing", prefix, reason));
                }
                next => token = next,
            }
        }
        // S3 lists in key order; not every server does.
        if !found.is_sorted_by(|a: &ObjectMeta, b| a.key < b.key) {
            found.sort_by(|a, b| a.key.cmp(&b.key));
            found.dedup_by(|a, b| a.key == b.key);
        }
        Ok(found)
    }

    /// An object of a listing. Others may have put names into the bucket that are no keys: they are not ours.
    fn listed(&self, key: Option<&str>, size: Option<i64>) -> Option<ObjectMeta> {
        let key = ObjectKey::new(key?.strip_prefix(&self.prefix)?).ok()?;
        Some(ObjectMeta { key, bytes: u64::try_from(size?).ok()? })
    }
}

/// Refuses ranges that do not lie in an object of `total` bytes.
fn check_all(key: &ObjectKey, total: u64, ranges: &[Range<u64>]) -> Result<(), StoreError> {
    ranges.iter().try_for_each(|range| check_range(key, total, range.clone()).map(drop))
}

/// The headers `If-Match` and `If-None-Match`.
pub(super) fn condition_headers(condition: &PutCondition) -> (Option<String>, Option<String>) {
    match condition {
        PutCondition::Always => (None, None),
        PutCondition::IfAbsent => (None, Some("*".to_owned())),
        PutCondition::IfVersion(Version(etag)) if etag.starts_with('"') || etag.starts_with("W/") => {
            (Some(etag.clone()), None)
        }
        // Not a version of this store; it will match nothing, and that is what the server must get to say.
        PutCondition::IfVersion(Version(other)) => (Some(format!("\"{other}\"")), None),
    }
}
