//! `ip("…")`: parses addresses, networks and ranges, and finds addresses in a line.

use std::{fmt, net::IpAddr, net::Ipv4Addr, net::Ipv6Addr};

/// The addresses that `ip()` searches for. IPv4 addresses mapped into IPv6 count only as IPv6.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum IpPattern {
    /// An inclusive range. A single address is a range of one. A network is a range from its lowest address.
    V4(Ipv4Addr, Ipv4Addr),
    /// As `V4`.
    V6(Ipv6Addr, Ipv6Addr),
    /// An address with a zone: valid, but no address in a line ever has one.
    Never,
}

/// A text that is not an address, network or range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IpPatternError(String);

impl fmt::Display for IpPatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ip: invalid pattern: {}", model::Quoted(&self.0))
    }
}

impl IpPattern {
    /// Parses `192.168.0.1`, `2001:db8::/32` or `10.0.0.1-10.0.0.9`.
    pub(crate) fn parse(text: &str) -> Result<Self, IpPatternError> {
        Self::read(text).ok_or_else(|| IpPatternError(text.to_owned()))
    }

    fn read(text: &str) -> Option<Self> {
        if let Some((first, last)) = text.split_once('-') {
            return match (first.parse().ok()?, last.parse().ok()?) {
                (IpAddr::V4(a), IpAddr::V4(b)) if a <= b => Some(Self::V4(a, b)),
                (IpAddr::V6(a), IpAddr::V6(b)) if a <= b => Some(Self::V6(a, b)),
                _ => None,
            };
        }
        if let Some((address, bits)) = text.split_once('/') {
            let plain = !bits.is_empty() && bits.len() <= 3 && bits.bytes().all(|b| b.is_ascii_digit());
            let bits: u32 =
                if plain && (bits.len() == 1 || !bits.starts_with('0')) { bits.parse().ok()? } else { return None };
            return match address.parse().ok()? {
                IpAddr::V4(a) if bits <= 32 => {
                    let host = u32::MAX.checked_shr(bits).unwrap_or(0);
                    Some(Self::V4(Ipv4Addr::from_bits(a.to_bits() & !host), Ipv4Addr::from_bits(a.to_bits() | host)))
                }
                IpAddr::V6(a) if bits <= 128 => {
                    let host = u128::MAX.checked_shr(bits).unwrap_or(0);
                    Some(Self::V6(Ipv6Addr::from_bits(a.to_bits() & !host), Ipv6Addr::from_bits(a.to_bits() | host)))
                }
                _ => None,
            };
        }
        if let Some((address, zone)) = text.split_once('%') {
            return (address.parse::<Ipv6Addr>().is_ok() && !zone.is_empty()).then_some(Self::Never);
        }
        Some(match text.parse().ok()? {
            IpAddr::V4(a) => Self::V4(a, a),
            IpAddr::V6(a) => Self::V6(a, a),
        })
    }

    /// Whether the pattern covers an address.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        match (self, address) {
            (Self::V4(first, last), IpAddr::V4(a)) => (*first..=*last).contains(&a),
            (Self::V6(first, last), IpAddr::V6(a)) => (*first..=*last).contains(&a),
            _ => false,
        }
    }

    /// Whether the pattern covers an address in `line`.
    pub(crate) fn found_in(&self, line: &[u8]) -> bool {
        match self {
            Self::V4(..) => Addresses::new(line).any(|a| a.is_ipv4() && self.contains(a)),
            Self::V6(..) => Addresses::new(line).any(|a| a.is_ipv6() && self.contains(a)),
            Self::Never => false,
        }
    }
}

/// Iterates over the addresses in a line. An IPv4 address is a whole run of digits and dots, so `1.2.3.4.5` is not one.
/// An IPv6 address is a whole run of hex digits, colons and dots.
struct Addresses<'a> {
    line: &'a [u8],
    at: usize,
    /// No IPv6 address starts before this position, because the run up to here is not one.
    v6_from: usize,
}

impl<'a> Addresses<'a> {
    fn new(line: &'a [u8]) -> Self {
        Self { line, at: 0, v6_from: 0 }
    }

    /// Returns the run of bytes from `at` that satisfy `belongs`.
    fn run(&self, belongs: impl Fn(u8) -> bool) -> &'a [u8] {
        let rest = &self.line[self.at..];
        let end = rest.iter().position(|&b| !belongs(b)).unwrap_or(rest.len());
        &rest[..end]
    }

    /// Whether an IPv6 address may begin here: one to four hex digits and a colon, or `::` and a hex digit.
    fn may_be_v6(&self) -> bool {
        let rest = &self.line[self.at..];
        let digits = rest.iter().take(5).take_while(|b| b.is_ascii_hexdigit()).count();
        match digits {
            0 => rest.starts_with(b"::") && rest.get(2).is_some_and(u8::is_ascii_hexdigit),
            1..=4 => rest.get(digits) == Some(&b':'),
            _ => false,
        }
    }
}

fn parse<T: std::str::FromStr>(bytes: &[u8]) -> Option<T> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

impl Iterator for Addresses<'_> {
    type Item = IpAddr;

    fn next(&mut self) -> Option<IpAddr> {
        while self.at < self.line.len() {
            let byte = self.line[self.at];
            if !byte.is_ascii_hexdigit() && byte != b':' {
                self.at += 1;
                continue;
            }
            if self.at >= self.v6_from && self.may_be_v6() {
                let run = self.run(|b| b.is_ascii_hexdigit() || b == b':' || b == b'.');
                if let Some(address) = parse::<Ipv6Addr>(run) {
                    self.at += run.len();
                    return Some(IpAddr::V6(address));
                }
                self.v6_from = self.at + run.len();
            }
            if byte.is_ascii_digit() {
                let run = self.run(|b| b.is_ascii_digit() || b == b'.');
                if let Some(address) = parse::<Ipv4Addr>(run) {
                    self.at += run.len();
                    return Some(IpAddr::V4(address));
                }
                // A run without dots may still be the start of an IPv6 address such as `12ab::1`. A run with dots
                // cannot.
                self.at += if run.contains(&b'.') { run.len() } else { 1 };
                continue;
            }
            self.at += 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_addresses() {
        let check = |pattern: &str, line: &str, expected: bool| {
            let found = IpPattern::parse(pattern).map(|p| p.found_in(line.as_bytes()));
            assert_eq!(found, Ok(expected), "{pattern} in {line}");
        };
        check("192.168.0.1", "from 192.168.0.1:80 to x", true);
        check("192.168.0.1", "from 192.168.0.10", false);
        check("192.168.0.1", "192.168.0.1", true);
        check("10.0.0.0/8", "a=10.200.3.4,", true);
        check("10.1.2.3/8", "10.200.3.4", true);
        check("10.0.0.0/8", "11.0.0.1", false);
        check("0.0.0.0/0", "none here 12:30:11 1.2.3", false);
        check("0.0.0.0/0", "1.2.3.4.5", false);
        check("0.0.0.0/0", "10.0.0.01", false);
        check("0.0.0.0/0", "::ffff:10.0.0.1", false);
        check("0.0.0.0/0", "code:10.0.0.1", true);
        check("10.0.0.1-10.0.0.9", "x 10.0.0.9 y", true);
        check("10.0.0.1-10.0.0.9", "x 10.0.0.10 y", false);
        check("::/0", "::ffff:10.0.0.1", true);
        check("::/0", "::", false);
        check("::1", "[::1]:80", true);
        check("::/0", "12:34:56", false);
        check("::/0", "1:2:3:4:5:6:7:8:9", false);
        check("2001:db8::/32", "src=2001:DB8::8:800:200c:417a dst", true);
        check("2001:db8::/32", "src:2001:db9::1", false);
        check("fe80::1%eth0", "fe80::1%eth0", false);
        check("::/0", "abcde::1", true);
    }

    #[test]
    fn refuses() {
        for pattern in [
            "",
            "x",
            "10.0.0",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/08",
            "10.0.0.9-10.0.0.1",
            "10.0.0.1-::1",
            "::/129",
            "%eth0",
            "1.2.3.4-",
            "10.0.0.1 ",
        ] {
            let found = IpPattern::parse(pattern).map_err(|e| e.to_string());
            assert_eq!(found, Err(format!("ip: invalid pattern: \"{pattern}\"")));
        }
    }
}
