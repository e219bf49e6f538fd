//! Real services for tests and load tests: Apache Kafka brokers as child processes, and an S3 server in this process.
//!
//! Nothing here is part of the product. Every server listens on a free port of 127.0.0.1, keeps its data in a temporary
//! folder, and stops when its value is dropped.

#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "servers for tests: their tasks and threads end with them")]

pub mod kafka;
mod ports;
pub mod s3;

pub use ports::free_ports;
