//! Heads, their compare-and-swap protocol, and the rules of the exact read.
