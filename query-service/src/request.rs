//! What a request says besides its path: tenant, parameters, headers.

use std::{future::Future, sync::Arc};

use axum::{
    body::to_bytes,
    extract::{FromRequest, Request as HttpRequest},
};
use http::{HeaderMap, Method, header};
use model::{TenantError, TenantId};

use crate::{encode::EncodingFlags, error::Error, goal::Goal, params::Params, service::QueryService};

/// The header that names the tenant.
const TENANT: &str = "x-scope-orgid";
/// The header that asks for more to be told.
const FLAGS: &str = "x-loki-response-encoding-flags";
/// The header that says where a query comes from.
const TAGS: &str = "x-query-tags";

/// One request, read and decoded.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Whose data; more than one only where that is switched on.
    pub(crate) tenants: Tenants,
    /// URL and form.
    pub(crate) params: Params,
    /// How labels are to be shown.
    pub(crate) flags: EncodingFlags,
    /// `Source` of the query tags.
    pub(crate) source: String,
    /// What the answer must hold.
    pub(crate) goal: Arc<Goal>,
}

/// The tenants of a request: at least one, ascending, distinct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tenants(Vec<TenantId>);

impl Tenants {
    /// Reads the tenant header. `enabled` says whether requests must have one.
    fn read(headers: &HeaderMap, enabled: bool, fallback: &TenantId, several: bool) -> Result<Self, Error> {
        if !enabled {
            return Ok(Self(vec![fallback.clone()]));
        }
        let text = headers.get(TENANT).map(|v| v.to_str()).transpose();
        // Bytes outside ASCII are in no tenant's name; which of them it was does not matter to anybody.
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

impl Request {
    /// The tenant, where there may be only one.
    pub(crate) fn tenant(&self) -> Result<&TenantId, Error> {
        self.tenants.single()
    }

    /// Whether the request comes from Logs Drilldown, which may see internal streams and partial results.
    pub(crate) fn is_drilldown(&self) -> bool {
        self.source.eq_ignore_ascii_case("grafana-lokiexplore-app")
    }
}

impl FromRequest<Arc<QueryService>> for Request {
    type Rejection = Error;

    fn from_request(
        request: HttpRequest,
        service: &Arc<QueryService>,
    ) -> impl Future<Output = Result<Self, Error>> + Send {
        let service = service.clone();
        async move {
            let (parts, body) = request.into_parts();
            let config = service.config();
            let several = config.multi_tenant_queries_enabled;
            let tenants = Tenants::read(&parts.headers, config.auth_enabled, service.no_auth_tenant(), several)?;
            let text = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("");
            let is_form =
                text(header::CONTENT_TYPE.as_str()).trim_start().starts_with("application/x-www-form-urlencoded");
            let form = if parts.method == Method::POST && is_form {
                let too_large = |_| Error::BodyTooLarge(config.body_bytes_max);
                to_bytes(body, config.body_bytes_max).await.map_err(too_large)?
            } else {
                bytes::Bytes::new()
            };
            let params = Params::decode(&form, parts.uri.query().unwrap_or(""))?;
            let source = source(text(TAGS));
            let goal = Arc::new(service.goal(&parts.headers, &params)?);
            Ok(Self { tenants, params, flags: EncodingFlags::parse(text(FLAGS)), source, goal })
        }
    }
}

/// The value of `Source` among query tags.
fn source(tags: &str) -> String {
    let pairs = tags.split(',').filter_map(|tag| tag.split_once('='));
    let found = pairs.into_iter().find(|(name, _)| name.trim().eq_ignore_ascii_case("source"));
    found.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
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

    #[test]
    fn sources() {
        let check = |tags: &str, expected: &str| assert_eq!(source(tags), expected);
        check("", "");
        check("Source=logvolhist,Feature=beta", "logvolhist");
        check("Feature=beta, source=a b", "a b");
        check("Source", "");
    }
}
