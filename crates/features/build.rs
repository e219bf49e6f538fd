//! Only there because build dependencies count for packages with a build script.

fn main() {}
