//! Labels, their values, and series.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::{
    extract::{Path, State},
    response::Response,
};
use model::{Labels, Matcher, TimeRange};
use serde_json::{Value, json};

use crate::{check, encode, error::Error, request::Request, respond, service::QueryService};

/// Labels that are always in the list of detected labels, whatever their values are.
const ALWAYS_DETECTED: [&str; 4] = ["cluster", "namespace", "instance", "pod"];

/// `/loki/api/v1/labels`
pub(crate) async fn names(State(service): State<Arc<QueryService>>, request: Request) -> Result<Response, Error> {
    let StreamLabels { streams, warnings } =
        streams(&service, &request, &optional_selector(&request)?, "labels").await?;
    let names: BTreeSet<&str> = streams.iter().flat_map(|labels| labels.iter().map(|(name, _)| name)).collect();
    Ok(respond::json(encode::text_list(&names.into_iter().collect::<Vec<_>>(), &warnings)))
}

/// `/loki/api/v1/label/{name}/values`
pub(crate) async fn values(
    State(service): State<Arc<QueryService>>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Error> {
    let mut matchers = optional_selector(&request)?;
    matchers.push(check::present(&name)?);
    let StreamLabels { streams, warnings } = streams(&service, &request, &matchers, "labels").await?;
    let values: BTreeSet<&str> = streams.iter().filter_map(|labels| labels.get(&name)).collect();
    Ok(respond::json(encode::text_list(&values.into_iter().collect::<Vec<_>>(), &warnings)))
}

/// `/loki/api/v1/series`
pub(crate) async fn series(State(service): State<Arc<QueryService>>, request: Request) -> Result<Response, Error> {
    let (mut found, mut warnings) = (BTreeSet::new(), Vec::new());
    for matchers in selectors(&request)? {
        let of_selector = streams(&service, &request, &matchers, "series").await?;
        found.extend(of_selector.streams);
        warnings.extend(of_selector.warnings);
    }
    warnings.sort();
    warnings.dedup();
    Ok(respond::json(encode::labels_list(&found.into_iter().collect::<Vec<_>>(), &warnings)))
}

/// `/loki/api/v1/detected_labels`
pub(crate) async fn detected(State(service): State<Arc<QueryService>>, request: Request) -> Result<Response, Error> {
    let StreamLabels { streams, warnings } =
        streams(&service, &request, &optional_selector(&request)?, "labels").await?;
    let mut values: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (name, value) in streams.iter().flat_map(Labels::iter) {
        values.entry(name).or_default().insert(value);
    }
    let detected: Vec<Value> = values
        .iter()
        .filter(|(name, values)| ALWAYS_DETECTED.contains(name) || is_informative(values))
        .map(|(name, values)| json!({"label": name, "cardinality": values.len()}))
        .collect();
    let mut answer = json!({});
    if !detected.is_empty() {
        answer["detectedLabels"] = detected.into();
    }
    respond::json_with_warnings(answer, warnings)
}

/// True if these values mean something to a person. Ids and numbers do not, except the values 0 and 1 of a switch.
fn is_informative(values: &BTreeSet<&str>) -> bool {
    let is_switch = values.len() <= 2 && values.iter().all(|v| matches!(*v, "0" | "1"));
    is_switch || !values.iter().all(|v| is_uuid(v) || v.parse::<f64>().is_ok())
}

fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = groups.iter().map(|g| g.len()).collect();
    lengths == [8, 4, 4, 4, 12] && groups.iter().all(|g| g.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The streams that have rows.
struct StreamLabels {
    /// Their distinct label sets.
    streams: BTreeSet<Labels>,
    /// Texts for a person.
    warnings: Vec<String>,
}

/// The streams with rows in the time of the request.
async fn streams(
    service: &QueryService,
    request: &Request,
    matchers: &[Matcher],
    kind: &'static str,
) -> Result<StreamLabels, Error> {
    let now = service.clock.now();
    let bounds = request.params.bounds(now)?.check_order_of_labels()?;
    let bounds = check::check_bounds_of_labels(bounds, now, &service.limits_all(&request.tenants))?;
    let time = TimeRange::closed(bounds.start, bounds.end);
    let found = service.streams_all(&request.tenants, matchers, time, &request.goal, kind).await?;
    let streams = found.parts.into_iter().map(|part| part.labels).collect();
    Ok(StreamLabels { streams, warnings: found.warnings.into_iter().collect() })
}

/// The matchers in the parameter `query`. Without it the list is empty, and every stream matches.
fn optional_selector(request: &Request) -> Result<Vec<Matcher>, Error> {
    let text = request.params.get("query").trim();
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let matchers = logql::parse_matchers(text)?;
    logql::reject_empty_compatible(&matchers)?;
    Ok(matchers)
}

/// The selectors in the parameters `match[]` and `match`: at least one. If there is only one it may be empty.
fn selectors(request: &Request) -> Result<Vec<Vec<Matcher>>, Error> {
    let params = &request.params;
    let texts: Vec<&str> = params.all("match[]").chain(params.all("match")).map(str::trim).collect();
    if texts.is_empty() {
        return Ok(vec![Vec::new()]);
    }
    let mut selectors = Vec::new();
    for text in &texts {
        let matchers = logql::parse_matchers(text)?;
        if matchers.is_empty() && texts.len() > 1 {
            return Err(Error::bad(format!("0 matchers in group: {text}")));
        }
        if !matchers.is_empty() {
            logql::reject_empty_compatible(&matchers)?;
        }
        selectors.push(matchers);
    }
    Ok(selectors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn informative_values() {
        let check = |values: &[&str], expected: bool| {
            assert_eq!(is_informative(&values.iter().copied().collect()), expected, "{values:?}");
        };
        check(&["web", "1"], true);
        check(&["1", "22.5"], false);
        check(&["0", "1"], true);
        check(&["b40ee7e4-6ad2-4bd5-a9b7-1e0b9d2f3c4d"], false);
        check(&["b40ee7e4-6ad2-4bd5-a9b7-1e0b9d2f3c4"], true);
    }
}
