//! Ports for servers that are killed and started again on the same one.

use std::net::TcpListener;

use anyhow::{Result, ensure};

/// Below the range that systems take the ports of outgoing connections from (Linux: from 32768, others: from 49152): while a
/// server is down, nobody's connection gets its port.
const RANGE: std::ops::Range<u16> = 12_000..32_000;

/// Different ports of 127.0.0.1 that are free now.
///
/// # Errors
/// When there are not so many.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    // Held until all are chosen, so that they differ. Begins anywhere, so that tests that run at once seldom meet.
    let first = fastrand::u16(RANGE);
    let candidates = (first..RANGE.end).chain(RANGE.start..first);
    let free = candidates.filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok().map(|held| (port, held)));
    let held: Vec<_> = free.take(count).collect();
    ensure!(held.len() == count, "there are no {count} free ports");
    Ok(held.into_iter().map(|(port, _)| port).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_are_not_those_of_connections() {
        let mut ports = free_ports(50).unwrap();
        assert!(ports.iter().all(|port| RANGE.contains(port)));
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 50);
    }
}
