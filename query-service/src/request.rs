//! What a request says besides its path: tenants, parameters, and headers.

use std::{future::Future, sync::Arc};

use axum::{
    body::to_bytes,
    extract::{FromRequest, Request as HttpRequest},
};
use http::{HeaderMap, Method, header};
use model::{ReadToken, TenantId};
use reading::{Consistency, Goal};

use crate::{encode::EncodingFlags, error::Error, params::Params, service::QueryService, tenants::Tenants};

/// The header that chooses the consistency.
const CONSISTENCY: &str = "x-millrace-consistency";
/// The parameter that does the same. The header wins.
const CONSISTENCY_PARAM: &str = "consistency";
/// The header with read tokens, separated by commas.
const READ_TOKEN: &str = "x-millrace-read-token";
/// The header that asks for additions to the answer.
const FLAGS: &str = "x-loki-response-encoding-flags";
/// The header that names the source of a query.
const TAGS: &str = "x-query-tags";

/// One decoded request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Whose rows are read. Several only if this is enabled.
    pub(crate) tenants: Tenants,
    /// The parameters of URL and form.
    pub(crate) params: Params,
    /// How the answer shows labels.
    pub(crate) flags: EncodingFlags,
    /// The value of `Source` among the query tags.
    pub(crate) source: String,
    /// What the answer must contain.
    pub(crate) goal: Arc<Goal>,
}

impl Request {
    /// The only tenant.
    ///
    /// # Errors
    /// When there are several.
    pub(crate) fn tenant(&self) -> Result<&TenantId, Error> {
        self.tenants.single()
    }

    /// True if the request comes from Logs Drilldown, which may see internal streams and partial results.
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
            let goal = goal(&parts.headers, &params, service.consistency_default(), service.log_id())?;
            let goal = Arc::new(goal);
            Ok(Self { tenants, params, flags: EncodingFlags::parse(text(FLAGS)), source, goal })
        }
    }
}

/// The goal that headers and parameters ask for. `fallback` is the consistency of requests that name none.
fn goal(headers: &HeaderMap, params: &Params, fallback: Consistency, log_id: &str) -> Result<Goal, Error> {
    let consistency = match headers.get(CONSISTENCY) {
        // Bytes outside ASCII are in neither word, so they are refused below.
        Some(value) => String::from_utf8_lossy(value.as_bytes()).trim().to_owned(),
        None => params.get(CONSISTENCY_PARAM).to_owned(),
    };
    let chosen = match consistency.as_str() {
        "" => None,
        word => Some(word.parse::<Consistency>().map_err(|error| Error::bad(error.to_string()))?),
    };
    let mut tokens = Vec::new();
    for value in headers.get_all(READ_TOKEN) {
        let text = String::from_utf8_lossy(value.as_bytes());
        for token in text.split(',').map(str::trim).filter(|token| !token.is_empty()) {
            tokens.push(token.parse::<ReadToken>().map_err(|error| Error::bad(error.to_string()))?);
        }
    }
    Ok(Goal::new(chosen, fallback, tokens, log_id)?)
}

/// The value of `Source` among query tags.
fn source(tags: &str) -> String {
    let pairs = tags.split(',').filter_map(|tag| tag.split_once('='));
    let found = pairs.into_iter().find(|(name, _)| name.trim().eq_ignore_ascii_case("source"));
    found.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use model::{Offset, PartitionId};

    use super::*;

    const LOG: &str = "log-a";

    fn goal_of(headers: &[(&str, &str)], query: &str) -> Result<Goal, String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let value = HeaderValue::from_bytes(value.as_bytes()).expect("a header's value");
            map.append(HeaderName::from_bytes(name.as_bytes()).expect("a header's name"), value);
        }
        let params = Params::decode(b"", query).expect("good parameters");
        goal(&map, &params, Consistency::Eventual, LOG).map_err(|e| e.to_string())
    }

    fn token(log: &str, parts: &[(u32, i64)]) -> String {
        let mut token = ReadToken::new(log);
        parts.iter().for_each(|(p, end)| token.add(PartitionId::new(*p), Offset::new(*end)));
        token.to_string()
    }

    #[test]
    fn consistency_of_requests() {
        let check = |headers: &[(&str, &str)], query: &str, expected: Result<Consistency, &str>| {
            let found = goal_of(headers, query).map(|goal| goal.consistency());
            match expected {
                Ok(expected) => assert_eq!(found, Ok(expected), "{headers:?} {query}"),
                Err(text) => assert!(found.as_ref().is_err_and(|e| e.contains(text)), "{found:?}"),
            }
        };
        check(&[], "", Ok(Consistency::Eventual));
        check(&[], "consistency=strong", Ok(Consistency::Strong));
        check(&[("X-Millrace-Consistency", "strong")], "", Ok(Consistency::Strong));
        check(&[("X-Millrace-Consistency", " eventual ")], "consistency=strong", Ok(Consistency::Eventual));
        check(&[("X-Millrace-Consistency", "STRONG")], "", Err("must be 'strong' or 'eventual', not \"STRONG\""));
        check(&[("X-Millrace-Consistency", "\u{e9}")], "", Err("must be 'strong' or 'eventual'"));
        check(&[], "consistency=weak", Err("not \"weak\""));
    }

    #[test]
    fn histories_are_strong_unless_told() {
        let check = |query: &str, expected: Consistency| {
            assert_eq!(goal_of(&[], query).expect("a goal").strong_by_default().consistency(), expected);
        };
        check("", Consistency::Strong);
        check("consistency=eventual", Consistency::Eventual);
    }

    #[test]
    fn tokens_of_requests() {
        let check = |values: &[&str], expected: Result<Option<&[(u32, i64)]>, &str>| {
            let headers: Vec<_> = values.iter().map(|value| ("X-Millrace-Read-Token", *value)).collect();
            let found = goal_of(&headers, "").map(|goal| goal.token().map(ToString::to_string));
            match expected {
                Ok(expected) => assert_eq!(found, Ok(expected.map(|parts| token(LOG, parts))), "{values:?}"),
                Err(text) => assert!(found.as_ref().is_err_and(|e| e.contains(text)), "{found:?}"),
            }
        };
        let (a, b) = (token(LOG, &[(0, 5), (1, 9)]), token(LOG, &[(1, 3), (2, 4)]));
        check(&[], Ok(None));
        check(&[""], Ok(None));
        check(&[&a], Ok(Some(&[(0, 5), (1, 9)])));
        check(&[&format!("{a}, {b},")], Ok(Some(&[(0, 5), (1, 9), (2, 4)])));
        check(&[&a, &b], Ok(Some(&[(0, 5), (1, 9), (2, 4)])));
        check(&["1.zz"], Err("no read token"));
        check(&[&token("log-b", &[(0, 1)])], Err("of another log"));
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
