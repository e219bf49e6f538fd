//! Tests of the log tail.
