//! A small HTTP client for one server on this machine.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

/// Names and values of headers.
pub(crate) type Headers = Vec<(&'static str, String)>;

/// A client of one server. Keeps its connections open.
#[derive(Clone)]
pub(crate) struct Client {
    agent: ureq::Agent,
    pub(crate) base: String,
}

/// An HTTP response, read whole.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: ureq::http::HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().to_owned()
    }

    pub(crate) fn json(&self) -> anyhow::Result<Value> {
        anyhow::ensure!(self.is_success(), "the server answered {}: {}", self.status, self.text());
        serde_json::from_slice(&self.body).context("the server answered no JSON")
    }
}

impl Client {
    pub(crate) fn new(base: String, timeout: Duration) -> Self {
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(timeout));
        Self { agent: config.build().into(), base }
    }

    pub(crate) fn get(&self, path: &str, tenant: &str, parameters: &[(&str, String)]) -> anyhow::Result<Answer> {
        self.get_with(path, tenant, parameters, &[])
    }

    /// Like [`Client::get`], with headers.
    pub(crate) fn get_with(
        &self,
        path: &str,
        tenant: &str,
        parameters: &[(&str, String)],
        headers: &[(&str, String)],
    ) -> anyhow::Result<Answer> {
        let mut request = self.agent.get(format!("{}{path}", self.base)).header("X-Scope-OrgID", tenant);
        request = request.header("Cache-Control", "no-cache");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        for (name, value) in parameters {
            request = request.query(name, value);
        }
        received(request.call()?)
    }

    pub(crate) fn post(
        &self,
        path: &str,
        tenant: &str,
        headers: &[(&str, String)],
        body: &[u8],
    ) -> anyhow::Result<Answer> {
        let mut request = self.agent.post(format!("{}{path}", self.base)).header("X-Scope-OrgID", tenant);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        received(request.send(body)?)
    }
}

fn received(mut response: ureq::http::Response<ureq::Body>) -> anyhow::Result<Answer> {
    let body = response.body_mut().with_config().limit(u64::MAX).read_to_vec()?;
    Ok(Answer { status: response.status().as_u16(), headers: response.headers().clone(), body })
}
