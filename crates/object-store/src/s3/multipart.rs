//! Uploads of large objects in parts.
//!
//! The parts are invisible until the upload is completed. The server checks the condition at that moment, atomically.

use aws_sdk_s3::{
    primitives::ByteStream,
    types::{CompletedMultipartUpload, CompletedPart},
};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    calls::RequestFailure,
    failure::{AttemptFailure, FailureKind},
    metrics::RequestKind,
    store::{Bucket, PutHeaders},
};
use crate::{PutCondition, Version};

/// The most parts that S3 takes for one object.
const PARTS_MAX: u64 = 10_000;
/// The most parts of one put in flight. The store's bound applies to all puts together.
const PARTS_AT_ONCE: usize = 4;

impl Bucket {
    /// Uploads an object in parts. The error is the failure of the last request.
    pub(super) async fn put_in_parts(
        &self,
        key: &str,
        bytes: &Bytes,
        condition: &PutCondition,
    ) -> Result<Version, RequestFailure> {
        let mut uploads = 0;
        loop {
            uploads += 1;
            match self.put_in_parts_once(key, bytes, condition).await {
                // Nothing happened. The protocol requires a new upload.
                Err(failed) if failed.last.kind == FailureKind::Conflict && uploads < self.attempts_max => {
                    tracing::debug!(key, uploads, "an upload in parts conflicted with another request; starting again");
                }
                outcome => return outcome,
            }
        }
    }

    async fn put_in_parts_once(
        &self,
        key: &str,
        bytes: &Bytes,
        condition: &PutCondition,
    ) -> Result<Version, RequestFailure> {
        let upload = self.create_upload(key).await?;
        let outcome = async {
            let parts = self.put_parts(key, &upload, bytes).await?;
            self.complete_upload(key, &upload, parts, bytes.len() as u64, condition).await
        };
        let outcome = outcome.await;
        if outcome.is_err() {
            // Abort even if the completion may have taken effect. If it has not yet, the abort prevents it.
            self.abort_upload(key, &upload).await;
        }
        outcome
    }

    async fn create_upload(&self, key: &str) -> Result<String, RequestFailure> {
        let PutHeaders { encryption, kms_key_id, checksum } = self.headers.clone();
        let create = self
            .client
            .create_multipart_upload()
            .bucket(&self.bucket)
            .key(key)
            .set_server_side_encryption(encryption)
            .set_ssekms_key_id(kms_key_id)
            .set_checksum_algorithm(checksum);
        self.calls
            .make(RequestKind::CreateUpload, || async {
                let answer = self.calls.answer(0, create.clone().send()).await?;
                answer.upload_id.ok_or_else(|| AttemptFailure::broken("the answer has no upload id"))
            })
            .await
    }

    async fn put_parts(&self, key: &str, upload: &str, bytes: &Bytes) -> Result<Vec<CompletedPart>, RequestFailure> {
        let length = part_bytes(bytes.len() as u64, self.part_bytes);
        let parts = (0..).zip(parts(bytes, length)).map(|(i, part)| self.put_part(key, upload, i + 1, part));
        let parts: Vec<_> = parts.collect();
        stream::iter(parts).buffered(PARTS_AT_ONCE).try_collect().await
    }

    async fn put_part(
        &self,
        key: &str,
        upload: &str,
        number: i32,
        part: Bytes,
    ) -> Result<CompletedPart, RequestFailure> {
        self.calls
            .make(RequestKind::UploadPart, || async {
                let put = self
                    .client
                    .upload_part()
                    .bucket(&self.bucket)
                    .key(key)
                    .upload_id(upload)
                    .part_number(number)
                    .set_checksum_algorithm(self.headers.checksum.clone())
                    .body(ByteStream::from(part.clone()));
                let answer = self.calls.answer(part.len() as u64, put.send()).await?;
                let etag = answer.e_tag.ok_or_else(|| AttemptFailure::broken("the answer has no ETag"))?;
                let done = CompletedPart::builder().part_number(number).e_tag(etag);
                Ok(done.set_checksum_crc32(answer.checksum_crc32).build())
            })
            .await
    }

    async fn complete_upload(
        &self,
        key: &str,
        upload: &str,
        parts: Vec<CompletedPart>,
        bytes: u64,
        condition: &PutCondition,
    ) -> Result<Version, RequestFailure> {
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let (if_match, if_none_match) = super::store::condition_headers(condition);
        let complete = self
            .client
            .complete_multipart_upload()
            .bucket(&self.bucket)
            .key(key)
            .upload_id(upload)
            .multipart_upload(parts)
            .set_if_match(if_match)
            .set_if_none_match(if_none_match);
        self.calls
            .make(RequestKind::CompleteUpload, || async {
                let answer = self.calls.answer_for(bytes, complete.clone().send()).await?;
                answer.e_tag.map(Version).ok_or_else(|| AttemptFailure::broken("the answer has no ETag"))
            })
            .await
    }

    async fn abort_upload(&self, key: &str, upload: &str) {
        let abort = self.client.abort_multipart_upload().bucket(&self.bucket).key(key).upload_id(upload);
        let outcome = self
            .calls
            .make(RequestKind::AbortUpload, || async { self.calls.answer(0, abort.clone().send()).await.map(drop) })
            .await;
        match outcome {
            Err(failed) if failed.last.kind != FailureKind::NoUpload => {
                let reason = failed.reason();
                tracing::warn!(key, upload, reason, "cannot abort an upload; its parts stay in the bucket");
            }
            _ => {}
        }
    }
}

/// The length of parts: the setting, or more if there would be too many parts.
fn part_bytes(object: u64, set: u64) -> usize {
    let length = set.max(object.div_ceil(PARTS_MAX));
    usize::try_from(length).unwrap_or(usize::MAX)
}

fn parts(bytes: &Bytes, length: usize) -> impl Iterator<Item = Bytes> {
    (0..bytes.len()).step_by(length).map(move |at| bytes.slice(at..bytes.len().min(at.saturating_add(length))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_parts() {
        let check = |bytes: usize, length: usize, expected: &[usize]| {
            let bytes = Bytes::from(vec![7; bytes]);
            let found: Vec<_> = parts(&bytes, length).map(|part| part.len()).collect();
            assert_eq!(found, expected);
        };
        check(10, 5, &[5, 5]);
        check(11, 5, &[5, 5, 1]);
        check(3, 5, &[3]);
        assert_eq!(part_bytes(100 << 20, 16 << 20), 16 << 20);
        let large = 1 << 40;
        assert!(large / part_bytes(large, 16 << 20) as u64 <= PARTS_MAX);
    }
}
