//! Cargo unifies features of build dependencies only for packages with a build script.

fn main() {}
