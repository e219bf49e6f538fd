//! An S3 server in this process, with faults on demand.
