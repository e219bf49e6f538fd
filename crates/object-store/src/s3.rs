//! Objects in a bucket of S3, or of a server that speaks S3 and has conditional writes.
//!
//! ```text
//! S3Store ── store.rs: the trait; multipart.rs: large puts ──▶ calls.rs: tries of one request ──▶ aws-sdk-s3
//!                                                              permit, breaker, time-outs, backoff, metrics
//! ```
//!
//! - **Versions** are ETags, exactly as the server names them.
//! - **Conditions** are `If-None-Match: *` and `If-Match`. The tries are made here, not by the SDK, since only here it is
//!   known what an answer means. When a try got no answer (time-out, broken connection, 5xx) it may have come to effect
//!   all the same, and a later try is then refused by our own effect: such a refusal is answered as
//!   [`StoreError::Unavailable`](crate::StoreError::Unavailable), never as
//!   [`StoreError::Precondition`](crate::StoreError::Precondition), which promises that nothing was changed. A 409
//!   (`ConditionalRequestConflict`) says that nothing happened: it is tried again.
//! - **A missing bucket** is not a missing object: it is `Unavailable` with a text that names it.
//! - **Everything is bounded**: requests in flight, tries, their pauses, the time of a try and of an operation. After
//!   many failures in a row the [breaker](S3Config::breaker_failures) answers at once, without asking the server.
//! - A call whose future is dropped may still come to effect. A multipart upload that was dropped leaves parts behind,
//!   which are invisible but cost money: give the bucket a life-cycle rule `AbortIncompleteMultipartUpload` of a day.
//!
//! # What the credentials must be allowed
//!
//! On the bucket `arn:aws:s3:::BUCKET`: `s3:ListBucket` (also lets S3 answer 404 and not 403 for objects that do not
//! exist). On its objects `arn:aws:s3:::BUCKET/PREFIX/*`: `s3:GetObject`, `s3:PutObject`, `s3:DeleteObject`,
//! `s3:AbortMultipartUpload`. With [`Encryption::AwsKms`], on the key: `kms:GenerateDataKey` and `kms:Decrypt`.
//! A bucket policy that demands conditional writes does no harm to blocks and heads.
//!
//! Credentials come from the settings, or else from where every AWS tool looks: environment, profile, web identity
//! (IRSA, EKS pod identity), ECS, instance role. Roots of private certificate authorities are read from the file that
//! `SSL_CERT_FILE` names.

mod breaker;
mod calls;
mod config;
mod failure;
mod metrics;
mod multipart;
mod ranges;
mod store;

pub use config::{Checksums, Encryption, S3Config, Secret};
pub use store::{S3Error, S3Store, client_config};
