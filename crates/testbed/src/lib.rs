//! Real parts for tests and load tests: Apache Kafka brokers as child processes, and an S3 server in this process.
//!
//! Nothing here is part of the product. Every server listens on 127.0.0.1 on a port that is chosen free at run time,
//! keeps its data in a temporary folder, and ends with the value that stands for it.

#![forbid(unsafe_code)]

pub mod kafka;
mod ports;
pub mod s3;

pub use ports::free_ports;
