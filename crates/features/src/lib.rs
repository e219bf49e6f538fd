//! Nothing but dependencies: cargo builds a dependency once for each set of features that the chosen members want of it.
//! Members without other members below them depend on this crate, which wants all of them at once; so there is one
//! set, and `cargo test -p` of one crate finds built what `--workspace` built. It holds tokio's `test-util`, which tests
//! want: that costs one look at a flag for each look at the clock.

#![forbid(unsafe_code)]
