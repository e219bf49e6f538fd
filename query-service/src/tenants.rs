//! The tenants that a request names.

use http::HeaderMap;
use model::{TenantError, TenantId};

use crate::error::Error;

/// The header that names the tenant.
const TENANT: &str = "x-scope-orgid";

/// The tenants of a request: at least one, in ascending order, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tenants(Vec<TenantId>);

impl Tenants {
    /// Reads the tenant header. `enabled`: requests must have one; otherwise their tenant is `fallback`. `several`: it may
    /// name more than one tenant.
    pub(crate) fn read(headers: &HeaderMap, enabled: bool, fallback: &TenantId, several: bool) -> Result<Self, Error> {
        if !enabled {
            return Ok(Self(vec![fallback.clone()]));
        }
        let text = headers.get(TENANT).map(|v| v.to_str()).transpose();
        // No tenant's name has bytes outside ASCII.
        let text = text.map_err(|_| Error::bad("tenant ID contains unsupported characters"))?.unwrap_or("");
        if text.is_empty() {
            return Err(TenantError::Missing.into());
        }
        let mut tenants = text.split('|').map(TenantId::new).collect::<Result<Vec<_>, _>>()?;
        tenants.sort();
        tenants.dedup();
        if tenants.len() > 1 && !several {
            return Err(Error::ManyTenants);
        }
        Ok(Self(tenants))
    }

    /// The only tenant.
    ///
    /// # Errors
    /// When there are several.
    pub(crate) fn single(&self) -> Result<&TenantId, Error> {
        match self.0.as_slice() {
            [tenant] => Ok(tenant),
            _ => Err(Error::ManyTenants),
        }
    }

    /// All of them.
    pub(crate) fn all(&self) -> &[TenantId] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants() {
        let fallback = TenantId::new("fake").expect("a valid name");
        let check = |header: Option<&str>, enabled: bool, several: bool, expected: Result<&[&str], &str>| {
            let mut headers = HeaderMap::new();
            if let Some(text) = header {
                headers.insert(TENANT, text.parse().expect("a valid header"));
            }
            let found = Tenants::read(&headers, enabled, &fallback, several).map_err(|e| e.to_string());
            let found = found.map(|t| t.all().iter().map(|t| t.as_str().to_owned()).collect::<Vec<_>>());
            let expected = expected.map(|t| t.iter().map(|t| (*t).to_owned()).collect()).map_err(str::to_owned);
            assert_eq!(found, expected, "{header:?}");
        };
        check(None, false, false, Ok(&["fake"]));
        check(Some("a"), false, false, Ok(&["fake"]));
        check(Some("a"), true, false, Ok(&["a"]));
        check(Some("a:k=v"), true, false, Ok(&["a"]));
        check(Some("a|a"), true, false, Ok(&["a"]));
        check(Some("b|a|b"), true, true, Ok(&["a", "b"]));
        check(Some("b|a"), true, false, Err("multiple org IDs present"));
        check(None, true, false, Err("no org id"));
        check(Some(""), true, false, Err("no org id"));
        check(Some("a/b"), true, false, Err("tenant ID 'a/b' contains unsupported character '/'"));
    }
}
