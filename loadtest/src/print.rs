//! Figures as text.

use crate::ingest::Latencies;

/// Megabytes (10^6 bytes) with one decimal.
pub(crate) fn mb(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1e6)
}

/// Prints how long acknowledged lines took to become visible.
pub(crate) fn print_visibility(waits: &Latencies) {
    println!(
        "acknowledged to visible      p50 {:.1} ms, p99 {:.1} ms (with the query's own time)",
        waits.at(0.5),
        waits.at(0.99)
    );
}
