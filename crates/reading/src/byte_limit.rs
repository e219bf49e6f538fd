//! How many bytes a query may read.

use thiserror::Error;

/// How many bytes of lines a query may read.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByteLimit {
    /// `max_query_bytes_read`; 0 means no limit.
    pub query: u64,
    /// `max_querier_bytes_read`; 0 means no limit.
    pub querier: u64,
}

/// A query would read more than a [`ByteLimit`]. The texts are Loki's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TooManyBytes {
    /// More than [`ByteLimit::query`].
    #[error(
        "the query would read too many bytes (query: {}, limit: {}); consider adding more specific stream selectors or \
         reduce the time range of the query",
        human_bytes(*bytes), human_bytes(*limit)
    )]
    Query {
        /// What the query would read.
        bytes: u64,
        /// What it may read.
        limit: u64,
    },
    /// More than [`ByteLimit::querier`].
    #[error(
        "query too large to execute on a single querier: (query: {}, limit: {}); consider adding more specific stream \
         selectors, reduce the time range of the query, or adjust parallelization settings",
        human_bytes(*bytes), human_bytes(*limit)
    )]
    Querier {
        /// What the query would read.
        bytes: u64,
        /// What it may read.
        limit: u64,
    },
}

impl ByteLimit {
    /// True if a query must not read this many bytes.
    pub(crate) fn is_exceeded_by(&self, bytes: u64) -> bool {
        self.check(bytes).is_err()
    }

    /// Refuses to read too many bytes.
    pub(crate) fn check(&self, bytes: u64) -> Result<(), TooManyBytes> {
        let exceeds = |limit: u64| limit > 0 && bytes > limit;
        if exceeds(self.query) {
            return Err(TooManyBytes::Query { bytes, limit: self.query });
        }
        if exceeds(self.querier) {
            return Err(TooManyBytes::Querier { bytes, limit: self.querier });
        }
        Ok(())
    }
}

/// A size for people: `1.5GB`, in powers of 1024.
fn human_bytes(bytes: u64) -> String {
    let units = ["B", "KB", "MB", "GB", "TB", "PB", "EB"];
    let power = (bytes.max(1).ilog2() / 10) as usize;
    let value = bytes as f64 / 1024f64.powi(power as i32);
    let text = format!("{value:.1}");
    format!("{}{}", text.strip_suffix(".0").unwrap_or(&text), units[power])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_for_people() {
        let check = |bytes: u64, expected: &str| assert_eq!(human_bytes(bytes), expected);
        check(0, "0B");
        check(1023, "1023B");
        check(1536, "1.5KB");
        check(150 << 30, "150GB");
        check(u64::MAX, "16EB");
    }

    #[test]
    fn byte_limits() {
        let check = |query: u64, querier: u64, bytes: u64, expected: Option<&str>| {
            let limit = ByteLimit { query, querier };
            let found = limit.check(bytes).err().map(|e| e.to_string());
            assert_eq!(found.as_deref().map(|t| t.split(':').next().unwrap_or("")), expected);
            assert_eq!(limit.is_exceeded_by(bytes), expected.is_some());
        };
        check(0, 0, u64::MAX, None);
        check(10, 0, 10, None);
        check(10, 0, 11, Some("the query would read too many bytes (query"));
        check(0, 10, 11, Some("query too large to execute on a single querier"));
    }
}
