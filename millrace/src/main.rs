//! The `millrace` binary: every role, all-in-one, and the command-line tool.

fn main() {}
