//! The query RPC, as generated from `schemas/proto/query.proto`.

#![expect(unreachable_pub, clippy::all, reason = "generated")]

tonic::include_proto!("millrace.query.v1");
