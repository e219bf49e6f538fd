//! Nothing but dependencies, so that test builds of single crates reuse what a test build of the workspace compiled.
//!
//! Cargo compiles a dependency once for each set of features that the selected packages want. Every crate of the
//! workspace has this one as a *dev-dependency*, and this one wants all features that the workspace wants anywhere. So
//! every test build wants the same sets. Product builds do not see it (docs/adr/0016-shared-features.md).

#![forbid(unsafe_code)]
