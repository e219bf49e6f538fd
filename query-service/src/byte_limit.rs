//! How many bytes a query may read.

use crate::error::Error;

/// How many bytes of lines a query may read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ByteLimit {
    /// `max_query_bytes_read`, 0 for none.
    pub(crate) query: u64,
    /// `max_querier_bytes_read`, 0 for none.
    pub(crate) querier: u64,
}

impl ByteLimit {
    /// True when so many bytes are too many.
    pub(crate) fn exceeded_by(&self, bytes: u64) -> bool {
        let exceeds = |limit: u64| limit > 0 && bytes > limit;
        exceeds(self.query) || exceeds(self.querier)
    }

    /// Refuses to read so many bytes when they are too many.
    pub(crate) fn check(&self, bytes: u64) -> Result<(), Error> {
        let narrow = "consider adding more specific stream selectors or reduce the time range of the query";
        if self.query > 0 && bytes > self.query {
            let (found, limit) = (human_bytes(bytes), human_bytes(self.query));
            return Err(Error::bad(format!(
                "the query would read too many bytes (query: {found}, limit: {limit}); {narrow}"
            )));
        }
        if self.querier > 0 && bytes > self.querier {
            let (found, limit) = (human_bytes(bytes), human_bytes(self.querier));
            return Err(Error::bad(format!(
                "query too large to execute on a single querier: (query: {found}, limit: {limit}); consider adding more \
                 specific stream selectors, reduce the time range of the query, or adjust parallelization settings"
            )));
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
            assert_eq!(limit.exceeded_by(bytes), expected.is_some());
        };
        check(0, 0, u64::MAX, None);
        check(10, 0, 10, None);
        check(10, 0, 11, Some("the query would read too many bytes (query"));
        check(0, 10, 11, Some("query too large to execute on a single querier"));
    }
}
