//! The object store over a bucket.

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
use model::{Random, SystemRandom};
use thiserror::Error;

use super::{
    calls::{Calls, RequestFailure},
    config::{Checksums, Encryption, S3Config},
    content_range::ContentRange,
    failure::{AttemptFailure, FailureKind},
    metrics::{Metrics, RequestKind},
};
use crate::{Object, ObjectKey, ObjectMeta, ObjectStore, PutCondition, StoreError, Version, check_range, ranges};

/// The most ranges of one call in flight. The store's bound applies to all calls together.
const RANGES_AT_ONCE: usize = 16;
/// Ranges of one call that are at most this far apart are fetched at once: a connection transfers the bytes between them
/// (at about 80 MB/s) faster than another request returns its first byte (20 to 50 ms).
const GAP_BYTES_MAX: u64 = 256 << 10;
/// The largest buffer to reserve before the bytes have arrived.
const RESERVED_BYTES_MAX: u64 = 64 << 20;

/// Why a store cannot be created.
#[derive(Debug, Error)]
pub enum S3Error {
    /// The settings are invalid.
    #[error("settings of the S3 store: {}", .0.join("; "))]
    Config(Vec<String>),
    /// The bucket's region is unknown.
    #[error("settings of the S3 store: set region; it is not in the environment, the profile or the instance either")]
    Region,
    /// The metrics are registered already.
    #[error("metrics of the S3 store: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Keeps objects in a bucket. Clones share connections, bounds and breaker. The documentation of the module
/// [`s3`](crate::s3) lists its promises beyond the trait.
#[derive(Clone, Debug)]
pub struct S3Store(Arc<Bucket>);

/// The bucket with everything that requests to it need.
#[derive(Debug)]
pub(super) struct Bucket {
    pub(super) client: Client,
    pub(super) bucket: String,
    /// Empty, or ending with `/`.
    prefix: String,
    pub(super) headers: PutHeaders,
    multipart_bytes_min: u64,
    pub(super) part_bytes: u64,
    pub(super) attempts_max: u32,
    pub(super) calls: Calls,
}

/// The headers that all puts have in common.
#[derive(Clone, Debug)]
pub(super) struct PutHeaders {
    pub(super) encryption: Option<ServerSideEncryption>,
    pub(super) kms_key_id: Option<String>,
    pub(super) checksum: Option<ChecksumAlgorithm>,
}

/// Derives the SDK's settings from ours, for callers that adjust them before they call [`S3Store::over`]. Reads missing
/// settings from the environment, and on an instance from its metadata service.
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
        // `calls` handles retries, time-outs and stalled answers itself.
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
    /// Opens a store over the configured bucket. Sends no request yet; [`self_test`](crate::self_test) does.
    ///
    /// # Errors
    /// If the settings are invalid, or the metrics are registered already.
    pub async fn connect(config: &S3Config, metrics: Option<&prometheus::Registry>) -> Result<Self, S3Error> {
        let client = Client::from_conf(client_config(config).await?.build());
        Self::over(client, config, metrics)
    }

    /// Like [`S3Store::connect`], with the caller's client.
    ///
    /// # Errors
    /// As [`S3Store::connect`].
    pub fn over(client: Client, config: &S3Config, metrics: Option<&prometheus::Registry>) -> Result<Self, S3Error> {
        Self::over_with(client, config, metrics, Arc::new(SystemRandom))
    }

    /// Like [`S3Store::over`], with the caller's randomness, which decides the pauses between tries.
    ///
    /// # Errors
    /// As [`S3Store::connect`].
    pub fn over_with(
        client: Client,
        config: &S3Config,
        metrics: Option<&prometheus::Registry>,
        random: Arc<dyn Random>,
    ) -> Result<Self, S3Error> {
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
        Ok(Self(Arc::new(Bucket {
            client,
            bucket: config.bucket.clone(),
            prefix,
            headers: PutHeaders { encryption, kms_key_id, checksum },
            multipart_bytes_min: config.multipart_bytes_min.bytes(),
            part_bytes: config.multipart_part_bytes.bytes(),
            attempts_max: config.attempts_max,
            calls: Calls::new(config, metrics, random),
        })))
    }

    /// The bucket.
    pub fn bucket(&self) -> &str {
        &self.0.bucket
    }
}

/// A fetched part of an object, with the version and length of the whole object.
struct FetchedPart {
    bytes: Bytes,
    version: Version,
    /// The object's length.
    total: u64,
}

#[async_trait]
impl ObjectStore for S3Store {
    async fn get(&self, key: &ObjectKey) -> Result<Object, StoreError> {
        let FetchedPart { bytes, version, .. } = self.0.fetch(key, None).await?;
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

impl Bucket {
    /// The key in the bucket.
    fn full_key(&self, key: &ObjectKey) -> Result<String, StoreError> {
        let full = format!("{}{key}", self.prefix);
        if full.len() > ObjectKey::BYTES_MAX { Err(StoreError::Key(full)) } else { Ok(full) }
    }

    fn unavailable(&self, doing: &str, key: &str, reason: String) -> StoreError {
        StoreError::Unavailable { doing: format!("{doing} {key:?} in bucket {:?}", self.bucket), reason }
    }

    /// The error for a failure that has no special meaning for the operation.
    fn failed(&self, doing: &str, key: &str, failed: &RequestFailure) -> StoreError {
        let mut reason = failed.reason();
        match failed.last.kind {
            FailureKind::NoBucket => reason = format!("the bucket does not exist: {reason}"),
            FailureKind::Denied => {
                reason.push_str("; without s3:ListBucket, S3 also gives this answer for objects that do not exist");
            }
            FailureKind::Skewed => reason.push_str("; the clock of this machine is wrong"),
            _ => {}
        }
        self.unavailable(doing, key, reason)
    }

    /// Like [`Bucket::failed`], for reads of an object.
    fn not_read(&self, key: &ObjectKey, failed: &RequestFailure) -> StoreError {
        match failed.last.kind {
            FailureKind::NoKey => StoreError::NotFound(key.to_string()),
            _ => self.failed("reading", key.as_str(), failed),
        }
    }

    /// Fetches an object, or a range of it that is not empty. Returns less if the object ends before the range does.
    async fn fetch(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<FetchedPart, StoreError> {
        self.try_fetch(&self.full_key(key)?, range).await.map_err(|failed| self.not_read(key, &failed))
    }

    async fn try_fetch(&self, key: &str, range: Option<Range<u64>>) -> Result<FetchedPart, RequestFailure> {
        let header = range.as_ref().map(|range| format!("bytes={}-{}", range.start, range.end - 1));
        let get = self.client.get_object().bucket(&self.bucket).key(key).set_range(header);
        self.calls
            .make(RequestKind::Get, || async {
                let answer = self.calls.answer(0, get.clone().send()).await?;
                self.receive(answer, range.as_ref()).await
            })
            .await
    }

    /// Reads an answer to its end and checks that it is complete.
    async fn receive(
        &self,
        mut answer: GetObjectOutput,
        range: Option<&Range<u64>>,
    ) -> Result<FetchedPart, AttemptFailure> {
        let version =
            answer.e_tag.take().map(Version).ok_or_else(|| AttemptFailure::broken("the answer has no ETag"))?;
        let length = answer.content_length.and_then(|length| u64::try_from(length).ok());
        let length = length.ok_or_else(|| AttemptFailure::broken("the answer has no length"))?;
        let part = answer.content_range.take().map(|text| {
            ContentRange::parse(&text)
                .ok_or_else(|| AttemptFailure::broken(format!("the answer's Content-Range is invalid: {text:?}")))
        });
        let bytes = self.collect(answer.body, length).await?;
        let Some(part) = part else {
            // A server may return the whole object although a range was requested.
            let requested = range.map_or(0..length, |range| range.start.min(length)..range.end.min(length));
            let requested =
                usize::try_from(requested.start).and_then(|start| usize::try_from(requested.end).map(|end| start..end));
            let requested = requested.map_err(|_| AttemptFailure::broken("the object does not fit into memory"))?;
            return Ok(FetchedPart { bytes: bytes.slice(requested), version, total: length });
        };
        let ContentRange { part, total } = part?;
        let requested = range.map_or(0..total, |range| range.start..range.end.min(total));
        if part != requested || bytes.len() as u64 != part.end - part.start {
            let text = format!("the answer has {} bytes, {part:?} of {total}, not {requested:?}", bytes.len());
            return Err(AttemptFailure::broken(text));
        }
        Ok(FetchedPart { bytes, version, total })
    }

    async fn collect(&self, mut body: ByteStream, length: u64) -> Result<Bytes, AttemptFailure> {
        let mut first = Bytes::new();
        let mut all = BytesMut::new();
        while let Some(chunk) = self.calls.next(body.next()).await? {
            let chunk = chunk.map_err(|error| AttemptFailure::broken(super::failure::chain(&error)))?;
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
            return Err(AttemptFailure::broken(format!("the answer broke off: {} bytes of {length}", bytes.len())));
        }
        Ok(bytes)
    }

    /// Fetches ranges of one version of an object and returns them in the given order.
    async fn fetch_all(&self, key: &ObjectKey, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, StoreError> {
        let mut tries = 0;
        loop {
            tries += 1;
            if let Some(found) = self.fetch_all_once(key, ranges).await? {
                return Ok(found);
            }
            if tries >= self.attempts_max {
                let reason = format!("the object was replaced {tries} times while it was being read");
                return Err(self.unavailable("reading", key.as_str(), reason));
            }
        }
    }

    /// Like [`Bucket::fetch_all`], but returns `None` if the object was replaced meanwhile.
    async fn fetch_all_once(&self, key: &ObjectKey, ranges: &[Range<u64>]) -> Result<Option<Vec<Bytes>>, StoreError> {
        if ranges.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let joined = ranges::join(ranges, GAP_BYTES_MAX);
        if joined.is_empty() || !ranges.iter().all(ranges::is_plausible) {
            // Without a fetch that shows the object's length, look it up.
            check_all(key, self.length(key).await?, ranges)?;
        }
        let full_key = self.full_key(key)?;
        let fetches: Vec<_> = joined.iter().map(|part| self.try_fetch(&full_key, Some(part.clone()))).collect();
        let fetched: Result<Vec<FetchedPart>, RequestFailure> =
            stream::iter(fetches).buffered(RANGES_AT_ONCE).try_collect().await;
        let fetched = match fetched {
            Ok(fetched) => fetched,
            Err(failed) if failed.last.kind == FailureKind::Range => {
                check_all(key, self.length(key).await?, ranges)?;
                // The object has grown meanwhile.
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
        let cut_out = |range| ranges::cut_out(range, &joined, |i| &fetched[i].bytes);
        Ok(Some(ranges.iter().map(cut_out).collect()))
    }

    /// The object's length.
    async fn length(&self, key: &ObjectKey) -> Result<u64, StoreError> {
        let full_key = self.full_key(key)?;
        let head = self.client.head_object().bucket(&self.bucket).key(&full_key);
        let outcome = self
            .calls
            .make(RequestKind::Head, || async {
                let answer = self.calls.answer(0, head.clone().send()).await?;
                let length = answer.content_length.and_then(|length| u64::try_from(length).ok());
                length.ok_or_else(|| AttemptFailure::broken("the answer has no length"))
            })
            .await;
        match outcome {
            // An answer to HEAD has no body, so it does not distinguish a missing bucket from a missing object.
            Err(failed) if failed.last.kind == FailureKind::NoKey => {
                match self.try_fetch(&full_key, Some(0..1)).await {
                    Ok(fetched) => Ok(fetched.total),
                    Err(failed) if failed.last.kind == FailureKind::Range => Ok(0),
                    Err(failed) => Err(self.not_read(key, &failed)),
                }
            }
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

    async fn put_at_once(&self, key: &str, bytes: &Bytes, condition: &PutCondition) -> Result<Version, RequestFailure> {
        self.calls
            .make(RequestKind::Put, || async {
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
                answer.e_tag.map(Version).ok_or_else(|| AttemptFailure::broken("the answer has no ETag"))
            })
            .await
    }

    /// The error for a failed put, as precise as possible.
    fn not_put(&self, key: &ObjectKey, condition: &PutCondition, failed: &RequestFailure) -> StoreError {
        let is_refusal = match (condition, failed.last.kind) {
            (PutCondition::Always, _) => false,
            (_, FailureKind::Precondition) => true,
            // S3 answers 404 if a version is expected but the object does not exist.
            (PutCondition::IfVersion(_), FailureKind::NoKey) => true,
            _ => false,
        };
        match &failed.unclear {
            None if is_refusal => StoreError::Precondition(key.to_string()),
            Some(earlier) if is_refusal || failed.last.kind == FailureKind::NoUpload => {
                let reason = format!(
                    "an earlier try may have taken effect ({earlier}), and the last was refused: {}",
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
            .make(RequestKind::Delete, || async { self.calls.answer(0, delete.clone().send()).await.map(drop) })
            .await;
        match outcome {
            Err(failed) if failed.last.kind != FailureKind::NoKey => {
                Err(self.failed("deleting", key.as_str(), &failed))
            }
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
                .make(RequestKind::List, || async { self.calls.answer(0, page.clone().send()).await })
                .await
                .map_err(|failed| self.failed("listing", prefix, &failed))?;
            for object in page.contents.unwrap_or_default() {
                found.extend(self.listed(object.key.as_deref(), object.size));
            }
            let next = page.next_continuation_token.filter(|_| page.is_truncated == Some(true));
            match next {
                None => break,
                next if next == token => {
                    let reason = "the server returns the same page of the listing again and again".to_owned();
                    return Err(self.unavailable("listing", prefix, reason));
                }
                next => token = next,
            }
        }
        // S3 lists in key order, but some other servers do not.
        if !found.is_sorted_by(|a: &ObjectMeta, b| a.key < b.key) {
            found.sort_by(|a, b| a.key.cmp(&b.key));
            found.dedup_by(|a, b| a.key == b.key);
        }
        Ok(found)
    }

    /// Converts an entry of a listing. Names that are not valid keys belong to others and are skipped.
    fn listed(&self, key: Option<&str>, size: Option<i64>) -> Option<ObjectMeta> {
        let key = ObjectKey::new(key?.strip_prefix(&self.prefix)?).ok()?;
        Some(ObjectMeta { key, bytes: u64::try_from(size?).ok()? })
    }
}

/// Checks that all ranges are inside an object of `total` bytes.
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
        // Not a version of this store. The server must decide that it does not match.
        PutCondition::IfVersion(Version(other)) => (Some(format!("\"{other}\"")), None),
    }
}
