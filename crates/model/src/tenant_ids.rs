//! The tenants of a request.

use crate::{TenantError, TenantId};

/// The header that names the tenants of a request. In lower case, as HTTP libraries require.
pub const TENANT_HEADER: &str = "x-scope-orgid";

/// One or more tenants, in ascending order without duplicates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantIds(Vec<TenantId>);

impl TenantIds {
    /// Parses the value of [`TENANT_HEADER`]: names separated by `|`.
    ///
    /// # Errors
    /// If the header is absent or empty, or one of the names is invalid.
    pub fn from_header(value: Option<&str>) -> Result<Self, TenantError> {
        let mut tenants = value.unwrap_or_default().split('|').map(TenantId::new).collect::<Result<Vec<_>, _>>()?;
        tenants.sort();
        tenants.dedup();
        Ok(Self(tenants))
    }

    /// Returns the tenant if there is exactly one.
    pub fn single(&self) -> Option<&TenantId> {
        match self.0.as_slice() {
            [tenant] => Some(tenant),
            _ => None,
        }
    }

    /// Returns all tenants.
    pub fn all(&self) -> &[TenantId] {
        &self.0
    }
}

impl From<TenantId> for TenantIds {
    fn from(tenant: TenantId) -> Self {
        Self(vec![tenant])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        let check = |value: Option<&str>, expected: Result<&[&str], &str>| {
            let read = TenantIds::from_header(value).map_err(|error| error.to_string());
            let names = read.as_ref().map(|read| read.all().iter().map(TenantId::as_str).collect::<Vec<_>>());
            let expected = expected.map(<[&str]>::to_vec);
            assert_eq!(names.map_err(String::as_str), expected, "{value:?}");
        };
        check(Some("a"), Ok(&["a"]));
        check(Some("a|a"), Ok(&["a"]));
        check(Some("b|a|b"), Ok(&["a", "b"]));
        check(Some("a:k=v"), Ok(&["a"]));
        check(None, Err("no org id"));
        check(Some(""), Err("no org id"));
        check(Some("a|"), Err("no org id"));
        check(Some("a|b/c"), Err("tenant ID 'b/c' contains unsupported character '/'"));
        check(Some(".."), Err("tenant ID is '.' or '..'"));
        assert!(TenantIds::from_header(Some("a|b")).is_ok_and(|both| both.single().is_none()));
    }
}
