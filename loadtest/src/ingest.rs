//! Pushes a corpus as fast as the server takes it, and measures how soon a line is visible.

use std::{
    fs,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};
use model::{Clock as _, SystemClock};

use crate::{corpus::Corpus, http::Client};

/// Limits that refuse nothing, as settings. The lines of a corpus are old, so old lines must be accepted too.
pub(crate) const NO_LIMITS: [(&str, &str); 11] = [
    ("LIMITS_CONFIG__INGESTION_RATE_MB", "10000"),
    ("LIMITS_CONFIG__INGESTION_BURST_SIZE_MB", "10000"),
    ("LIMITS_CONFIG__PER_STREAM_RATE_LIMIT", "10GB"),
    ("LIMITS_CONFIG__PER_STREAM_RATE_LIMIT_BURST", "10GB"),
    ("LIMITS_CONFIG__MAX_GLOBAL_STREAMS_PER_USER", "0"),
    ("LIMITS_CONFIG__REJECT_OLD_SAMPLES", "false"),
    ("LIMITS_CONFIG__CREATION_GRACE_PERIOD", "24h"),
    ("LIMITS_CONFIG__MAX_QUERY_SERIES", "100000"),
    ("LIMITS_CONFIG__MAX_QUERY_LENGTH", "0"),
    ("LIMITS_CONFIG__MAX_ENTRIES_LIMIT_PER_QUERY", "100000"),
    ("LIMITS_CONFIG__QUERY_TIMEOUT", "10m"),
];

/// Measurements in milliseconds, sorted.
pub(crate) struct Latencies(Vec<f64>);

impl Latencies {
    pub(crate) fn new(mut millis: Vec<f64>) -> Self {
        millis.sort_by(f64::total_cmp);
        Self(millis)
    }

    /// Returns the value that `share` of the measurements do not exceed.
    pub(crate) fn at(&self, share: f64) -> f64 {
        self.0.get((self.0.len().saturating_sub(1) as f64 * share) as usize).copied().unwrap_or(f64::NAN)
    }
}

/// Pushes a corpus over `connections` connections, which use the clients in turn. Returns how long each push took.
pub(crate) fn push_corpus(
    corpus: &Corpus,
    clients: &[Client],
    tenant: &str,
    connections: usize,
) -> anyhow::Result<Latencies> {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let pusher = |i: usize| {
            let (client, next) = (&clients[i % clients.len()], &next);
            scope.spawn(move || push_share(corpus, client, tenant, next))
        };
        let pushers: Vec<_> = (0..connections).map(pusher).collect();
        let mut latencies = Vec::new();
        for pusher in pushers {
            latencies.extend(pusher.join().map_err(|_| anyhow::anyhow!("a pusher panicked"))??);
        }
        Ok(Latencies::new(latencies))
    })
}

fn push_share(corpus: &Corpus, client: &Client, tenant: &str, next: &AtomicUsize) -> anyhow::Result<Vec<f64>> {
    let mut latencies = Vec::new();
    while let Some(file) = corpus.files.get(next.fetch_add(1, Ordering::Relaxed)) {
        let body = fs::read(file)?;
        loop {
            let began = Instant::now();
            let answer = client.post("/loki/api/v1/push", tenant, &corpus.headers(), &body)?;
            latencies.push(began.elapsed().as_secs_f64() * 1e3);
            match answer.status {
                204 => break,
                429 | 503 => thread::sleep(Duration::from_millis(50)),
                other => bail!("a push was answered {other}: {}", answer.text()),
            }
        }
    }
    Ok(latencies)
}

/// Measures how long after its 204 a line appears in the answer of a query, including the query's own time.
pub(crate) fn visibility(push: &Client, query: &Client, tenant: &str) -> anyhow::Result<Latencies> {
    let mut waits = Vec::new();
    for i in 0..300 {
        let now = SystemClock.now().nanos();
        let line = serde_json::json!([now.to_string(), format!("line {i}")]);
        let body = serde_json::json!({"streams": [{"stream": {"app": "visibility"}, "values": [line]}]});
        let headers = [("Content-Type", "application/json".to_owned())];
        let answer = push.post("/loki/api/v1/push", tenant, &headers, &serde_json::to_vec(&body)?)?;
        ensure!(answer.status == 204, "a push was answered {}: {}", answer.status, answer.text());
        let acknowledged = Instant::now();
        let span =
            [("query", r#"{app="visibility"}"#.to_owned()), ("start", now.to_string()), ("end", (now + 1).to_string())];
        loop {
            let found = query.get("/loki/api/v1/query_range", tenant, &span)?.json()?;
            if found["data"]["result"].as_array().is_some_and(|r| !r.is_empty()) {
                break;
            }
            ensure!(
                acknowledged.elapsed() < Duration::from_secs(10),
                "an acknowledged line is not in the answers after 10 s"
            );
        }
        waits.push(acknowledged.elapsed().as_secs_f64() * 1e3);
    }
    Ok(Latencies::new(waits))
}
