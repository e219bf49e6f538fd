//! The keys that the server accepts.

pub(super) const ACCESS_KEY: &str = "testbed";
pub(super) const SECRET_KEY: &str = "testbed-secret";
