//! The folder behind the server, with atomic operations.
//!
//! `s3s_fs` checks a condition, replaces the file, and writes its ETag in separate steps: two conditional puts can both
//! succeed, and a reader can see one content with the ETag of another. This module takes a lock for each change. It
//! receives a body completely before it takes the lock, so that a slow client delays nobody.

use std::{path::PathBuf, sync::Arc};

use futures_util::TryStreamExt;
use s3s::{Body, S3, S3Request, S3Response, S3Result, dto::*, s3_error};
use s3s_fs::FileSystem;
use tokio::sync::RwLock;
use uuid::Uuid;

use super::faults::S3Faults;

pub(super) struct Backend {
    pub(super) files: FileSystem,
    pub(super) root: PathBuf,
    /// Reads hold it shared; changes of objects hold it exclusively.
    pub(super) lock: Arc<RwLock<()>>,
    pub(super) faults: Arc<S3Faults>,
}

type Answer<T> = S3Result<S3Response<T>>;

impl Backend {
    /// Tells a missing bucket from a missing object, as S3 does. `s3s_fs` does so only in some cases.
    fn check_bucket(&self, bucket: &str) -> S3Result<()> {
        if self.root.join(bucket).is_dir() { Ok(()) } else { Err(s3_error!(NoSuchBucket)) }
    }

    /// Answers 404 for an upload that was completed or aborted, as S3 does. `s3s_fs` answers 403.
    fn check_upload(&self, id: &str) -> S3Result<()> {
        let is_known = Uuid::parse_str(id).is_ok_and(|id| self.root.join(format!(".upload-{id}.json")).is_file());
        if is_known { Ok(()) } else { Err(s3_error!(NoSuchUpload)) }
    }
}

async fn receive_whole(body: &mut Option<StreamingBlob>) -> S3Result<()> {
    if let Some(stream) = body.take() {
        let chunks: Vec<bytes::Bytes> =
            stream.try_collect().await.map_err(|error| s3_error!(IncompleteBody, "{error}"))?;
        let whole = bytes::Bytes::from(chunks.concat());
        *body = Some(StreamingBlob::from(Body::from(whole)));
    }
    Ok(())
}

#[async_trait::async_trait]
impl S3 for Backend {
    async fn get_object(&self, req: S3Request<GetObjectInput>) -> Answer<GetObjectOutput> {
        self.check_bucket(&req.input.bucket)?;
        // The file stays open after the lock is released. A later change replaces the file and does not touch this one.
        let _shared = self.lock.read().await;
        self.files.get_object(req).await
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> Answer<HeadObjectOutput> {
        let _shared = self.lock.read().await;
        self.files.head_object(req).await
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> Answer<HeadBucketOutput> {
        self.files.head_bucket(req).await
    }

    async fn list_buckets(&self, req: S3Request<ListBucketsInput>) -> Answer<ListBucketsOutput> {
        self.files.list_buckets(req).await
    }

    async fn list_objects(&self, req: S3Request<ListObjectsInput>) -> Answer<ListObjectsOutput> {
        let _shared = self.lock.read().await;
        self.files.list_objects(req).await
    }

    async fn list_objects_v2(&self, req: S3Request<ListObjectsV2Input>) -> Answer<ListObjectsV2Output> {
        let _shared = self.lock.read().await;
        self.files.list_objects_v2(req).await
    }

    async fn put_object(&self, mut req: S3Request<PutObjectInput>) -> Answer<PutObjectOutput> {
        receive_whole(&mut req.input.body).await?;
        self.check_bucket(&req.input.bucket)?;
        if self.faults.ignores_conditions() {
            (req.input.if_match, req.input.if_none_match) = (None, None);
        }
        let _alone = self.lock.write().await;
        self.files.put_object(req).await
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> Answer<DeleteObjectOutput> {
        let _alone = self.lock.write().await;
        self.files.delete_object(req).await
    }

    async fn delete_objects(&self, req: S3Request<DeleteObjectsInput>) -> Answer<DeleteObjectsOutput> {
        let _alone = self.lock.write().await;
        self.files.delete_objects(req).await
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> Answer<CreateMultipartUploadOutput> {
        self.check_bucket(&req.input.bucket)?;
        self.files.create_multipart_upload(req).await
    }

    async fn upload_part(&self, mut req: S3Request<UploadPartInput>) -> Answer<UploadPartOutput> {
        receive_whole(&mut req.input.body).await?;
        let _shared = self.lock.read().await;
        self.check_upload(&req.input.upload_id)?;
        self.files.upload_part(req).await
    }

    async fn list_parts(&self, req: S3Request<ListPartsInput>) -> Answer<ListPartsOutput> {
        self.files.list_parts(req).await
    }

    async fn complete_multipart_upload(
        &self,
        mut req: S3Request<CompleteMultipartUploadInput>,
    ) -> Answer<CompleteMultipartUploadOutput> {
        if self.faults.ignores_conditions() {
            (req.input.if_match, req.input.if_none_match) = (None, None);
        }
        let _alone = self.lock.write().await;
        self.check_upload(&req.input.upload_id)?;
        self.files.complete_multipart_upload(req).await
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> Answer<AbortMultipartUploadOutput> {
        let _alone = self.lock.write().await;
        self.check_upload(&req.input.upload_id)?;
        self.files.abort_multipart_upload(req).await
    }
}
