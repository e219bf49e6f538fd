//! The build RPC, as generated from `schemas/proto/build.proto`.
#![allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]

tonic::include_proto!("millrace.build.v1");
