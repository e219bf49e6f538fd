//! A small HTTP client for one server on this machine.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

/// Keeps connections to one server.
#[derive(Clone)]
pub(crate) struct Client {
    agent: ureq::Agent,
    base: String,
}

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
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
        let mut request = self.agent.get(format!("{}{path}", self.base)).header("X-Scope-OrgID", tenant);
        request = request.header("Cache-Control", "no-cache");
        for (name, value) in parameters {
            request = request.query(name, value);
        }
        let mut response = request.call()?;
        let body = response.body_mut().with_config().limit(u64::MAX).read_to_vec()?;
        Ok(Answer { status: response.status().as_u16(), body })
    }

    pub(crate) fn post(
        &self,
        path: &str,
        tenant: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> anyhow::Result<Answer> {
        let mut request = self.agent.post(format!("{}{path}", self.base)).header("X-Scope-OrgID", tenant);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = request.send(body)?;
        let body = response.body_mut().read_to_vec()?;
        Ok(Answer { status: response.status().as_u16(), body })
    }
}
