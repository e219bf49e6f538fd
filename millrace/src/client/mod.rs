//! The client commands. They use a server's public HTTP API, like any agent or dashboard.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "commands print their answers")]

pub(crate) mod push;
pub(crate) mod query;
pub(crate) mod tail;

use std::time::Duration;

use anyhow::{Context as _, bail};
use model::Labels;
use serde_json::Value;

use crate::cli::ClientArgs;

/// A server's address, and the tenant of all requests.
pub(crate) struct Client {
    agent: ureq::Agent,
    base: String,
    tenant: Option<String>,
}

impl Client {
    pub(crate) fn new(args: &ClientArgs) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_global(Some(Duration::from_secs(300)))
            .user_agent(concat!("millrace/", env!("CARGO_PKG_VERSION")));
        let base = args.addr.trim_end_matches('/').to_owned();
        Self { agent: config.build().into(), base, tenant: args.tenant.clone() }
    }

    /// Gets `path` with these parameters. Returns the JSON of a 2xx response; other responses become errors with the
    /// server's text.
    pub(crate) fn get(&self, path: &str, parameters: &[(&str, String)]) -> anyhow::Result<Value> {
        let mut request = self.agent.get(format!("{}{path}", self.base));
        for (name, value) in parameters {
            request = request.query(name, value);
        }
        if let Some(tenant) = &self.tenant {
            request = request.header("X-Scope-OrgID", tenant);
        }
        let mut response = request.call().with_context(|| self.unreachable())?;
        let body = response
            .body_mut()
            .with_config()
            .limit(u64::MAX)
            .read_to_vec()
            .context("the connection broke before the end of the answer")?;
        if !response.status().is_success() {
            bail!("the server answered {}: {}", response.status(), String::from_utf8_lossy(&body).trim());
        }
        serde_json::from_slice(&body).context("the answer is not JSON: is this a Millrace (or Loki) server?")
    }

    fn unreachable(&self) -> String {
        format!("cannot reach {} (start a server with `millrace`, or name one with --addr)", self.base)
    }
}

/// The label set of a JSON map.
fn labels_of(map: &Value) -> Labels {
    let pairs = map.as_object().into_iter().flatten();
    Labels::with_empty_values(pairs.map(|(name, value)| (name.as_str(), value.as_str().unwrap_or_default())))
}

/// `labels` and `labels NAME`: a name or value per line.
pub(crate) fn labels(args: &crate::cli::LabelsArgs) -> anyhow::Result<()> {
    let path = match &args.name {
        Some(name) => format!("/loki/api/v1/label/{}/values", percent_encode(name)),
        None => "/loki/api/v1/labels".to_owned(),
    };
    let answer = Client::new(&args.client).get(&path, &[("since", args.since.clone())])?;
    for name in answer["data"].as_array().into_iter().flatten() {
        println!("{}", name.as_str().unwrap_or_default());
    }
    Ok(())
}

/// `series`: a label set per line.
pub(crate) fn series(args: &crate::cli::SeriesArgs) -> anyhow::Result<()> {
    let mut parameters = vec![("since", args.since.clone())];
    parameters.extend(args.matchers.iter().map(|m| ("match[]", m.clone())));
    let answer = Client::new(&args.client).get("/loki/api/v1/series", &parameters)?;
    let mut lines: Vec<String> =
        answer["data"].as_array().into_iter().flatten().map(|set| labels_of(set).to_string()).collect();
    lines.sort();
    for line in lines {
        println!("{line}");
    }
    Ok(())
}

/// Percent-encodes one segment of a path or query.
pub(crate) fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_what_a_path_cannot_hold() {
        assert_eq!(percent_encode("a b/é~_-."), "a%20b%2F%C3%A9~_-.");
    }
}
