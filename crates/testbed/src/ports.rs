//! Ports for servers that are killed and restarted on the same port.

use std::net::TcpListener;

use anyhow::{Result, ensure};

/// Ports below the range of outgoing connections (Linux: from 32768, others: from 49152), so that no connection takes the
/// port of a server that is down.
const RANGE: std::ops::Range<u16> = 12_000..32_000;

/// Returns `N` different free ports of 127.0.0.1.
///
/// # Errors
/// If there are not enough free ports.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    // All sockets stay open until the last port is picked, so that ports differ. The search starts at a random port, so that
    // parallel tests rarely collide.
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
