//! Objects in a bucket of S3, or of another server that speaks S3 and has conditional writes.
//!
//! ```text
//! S3Store ── store.rs: the trait; multipart.rs: large puts ──▶ calls.rs: tries of one request ──▶ aws-sdk-s3
//!                                                              permit, breaker, time-outs, backoff, metrics
//! ```
//!
//! - **Versions** are the server's ETags, unchanged.
//! - **Conditions** are `If-None-Match: *` and `If-Match`. This module retries requests itself and not through the SDK,
//!   since the SDK does not know what an answer means here. A try without a clear answer (time-out, broken connection,
//!   5xx) may still have taken effect. Then a later try is refused because of our own write. Such a refusal becomes
//!   [`StoreError::Unavailable`](crate::StoreError::Unavailable), never
//!   [`StoreError::Precondition`](crate::StoreError::Precondition), which promises that nothing was changed. A 409
//!   (`ConditionalRequestConflict`) means that nothing happened, so the request is retried.
//! - **A missing bucket** is not a missing object: it is reported as `Unavailable`, with a text that says so.
//! - **Everything is bounded**: requests in flight, tries, pauses, and the time of a try and of an operation. After many
//!   failures in a row the [breaker](S3Config::breaker_failures) fails requests at once, without sending them.
//! - A call whose future is dropped may still take effect. A dropped multipart upload leaves parts behind, which are
//!   invisible but cost money. Give the bucket the life-cycle rule `AbortIncompleteMultipartUpload` with one day.
//!
//! # Permissions
//!
//! The credentials need `s3:ListBucket` on the bucket `arn:aws:s3:::BUCKET`; with it, S3 also answers 404 instead of 403
//! for objects that do not exist. On the objects `arn:aws:s3:::BUCKET/PREFIX/*` they need `s3:GetObject`,
//! `s3:PutObject`, `s3:DeleteObject` and `s3:AbortMultipartUpload`. With [`Encryption::AwsKms`] they also need
//! `kms:GenerateDataKey` and `kms:Decrypt` on the key. A bucket policy that requires conditional writes is fine for
//! blocks and heads.
//!
//! Credentials come from the settings, or else from the places where all AWS tools look: environment, profile, web
//! identity (IRSA, EKS pod identity), ECS, instance role. The file named by `SSL_CERT_FILE` can hold the roots of private
//! certificate authorities.

mod breaker;
mod calls;
mod config;
mod content_range;
mod failure;
mod metrics;
mod multipart;
mod store;

pub use config::{Checksums, Encryption, S3Config, Secret};
pub use store::{S3Error, S3Store, client_config};
