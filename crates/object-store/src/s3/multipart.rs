//! Large puts, in parts.
//!
//! The parts are invisible until the upload is completed, and the condition is decided then, at once with the effect.

use aws_sdk_s3::{
    primitives::ByteStream,
    types::{CompletedMultipartUpload, CompletedPart},
};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    calls::Failed,
    failure::{Failure, Kind},
    metrics::Request,
    store::{Inner, PutHeaders},
};
use crate::{PutCondition, Version};

/// S3 takes no more parts of an object.
const PARTS_MAX: u64 = 10_000;
/// Parts of one put in flight. The store's own bound holds over all of them.
const PARTS_AT_ONCE: usize = 4;

impl Inner {
    /// Puts an object in parts. As with a put in one request, [`Failed`] tells the last request's failure.
    pub(super) async fn put_in_parts(
        &self,
        key: &str,
        bytes: &Bytes,
        condition: &PutCondition,
    ) -> Result<Version, Failed> {
        let mut uploads = 0;
        loop {
            uploads += 1;
            match self.put_in_parts_once(key, bytes, condition).await {
                // The protocol says: begin anew. Nothing happened.
                Err(failed) if failed.last.kind == Kind::Conflict && uploads < self.attempts_max => {
                    tracing::debug!(key, uploads, "another request met the end of an upload in parts; beginning anew");
                }
                outcome => return outcome,
            }
        }
    }

    async fn put_in_parts_once(&self, key: &str, bytes: &Bytes, condition: &PutCondition) -> Result<Version, Failed> {
        let upload = self.create_upload(key).await?;
        let outcome = async {
            let parts = self.put_parts(key, &upload, bytes).await?;
            self.complete_upload(key, &upload, parts, bytes.len() as u64, condition).await
        };
        let outcome = outcome.await;
        if outcome.is_err() {
            // Also when nobody knows whether the end came to effect: if it has not, now it cannot any more.
            self.abort_upload(key, &upload).await;
        }
        outcome
    }

    async fn create_upload(&self, key: &str) -> Result<String, Failed> {
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
            .make(Request::CreateUpload, || async {
                let answer = self.calls.answer(0, create.clone().send()).await?;
                answer.upload_id.ok_or_else(|| Failure::broken("the answer names no upload"))
            })
            .await
    }

    async fn put_parts(&self, key: &str, upload: &str, bytes: &Bytes) -> Result<Vec<CompletedPart>, Failed> {
        let length = part_bytes(bytes.len() as u64, self.part_bytes);
        let parts = (0..).zip(parts(bytes, length)).map(|(i, part)| self.put_part(key, upload, i + 1, part));
        let parts: Vec<_> = parts.collect();
        stream::iter(parts).buffered(PARTS_AT_ONCE).try_collect().await
    }

    async fn put_part(&self, key: &str, upload: &str, number: i32, part: Bytes) -> Result<CompletedPart, Failed> {
        self.calls
            .make(Request::UploadPart, || async {
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
                let etag = answer.e_tag.ok_or_else(|| Failure::broken("the answer names no ETag"))?;
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
    ) -> Result<Version, Failed> {
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
            .make(Request::CompleteUpload, || async {
                let answer = self.calls.answer_for(bytes, complete.clone().send()).await?;
                answer.e_tag.map(Version).ok_or_else(|| Failure::broken("the answer names no ETag"))
            })
            .await
    }

    async fn abort_upload(&self, key: &str, upload: &str) {
        let abort = self.client.abort_multipart_upload().bucket(&self.bucket).key(key).upload_id(upload);
        let outcome = self
            .calls
            .make(Request::AbortUpload, || async { self.calls.answer(0, abort.clone().send()).await.map(drop) })
            .await;
        match outcome {
            Err(failed) if failed.last.kind != Kind::NoUpload => {
                let reason = failed.reason();
                tracing::warn!(key, upload, reason, "parts of an upload are left behind in the bucket");
            }
            _ => {}
        }
    }
}

/// The length of parts: as set, or more where they would be too many.
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
