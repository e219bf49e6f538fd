//! Load, chaos and benchmark commands.

fn main() {}
