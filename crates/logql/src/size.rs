//! Byte sizes written in a query: `10KB`, `1.5MiB`.

/// Units, largest first. Decimal ones are powers of 1000, those with an `i` powers of 1024.
const UNITS: [(&str, u64); 10] = [
    ("PiB", 1 << 50),
    ("PB", 1_000_000_000_000_000),
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1000),
];

/// Parses a number and its unit, without blanks. The unit's case does not matter and its `B` may be missing. Fractions
/// of a byte are discarded.
pub(crate) fn parse(text: &str) -> Option<u64> {
    let digits = text.bytes().position(|b| !b.is_ascii_digit() && b != b'.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().ok()?;
    let scale = if unit.is_empty() || unit.eq_ignore_ascii_case("b") {
        1
    } else {
        let named = |name: &str| name.eq_ignore_ascii_case(unit) || name[..name.len() - 1].eq_ignore_ascii_case(unit);
        UNITS.iter().find(|(name, _)| named(name))?.1
    };
    let bytes = number * scale as f64;
    // 2^64 as a float: the first value that does not fit.
    (bytes < u64::MAX as f64).then_some(bytes as u64)
}

/// Formats a size in the largest unit that divides it, so that the lexer reads it back.
pub(crate) fn format(bytes: u64) -> String {
    if bytes == 0 {
        // `0B` would begin a binary number.
        return "0KB".to_owned();
    }
    match UNITS.iter().find(|(_, size)| bytes.is_multiple_of(*size)) {
        Some((unit, size)) => format!("{}{unit}", bytes / size),
        None => format!("{bytes}B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let check = |text: &str, expected: Option<u64>| assert_eq!(parse(text), expected, "{text}");
        check("5B", Some(5));
        check("10KB", Some(10_000));
        check("10kB", Some(10_000));
        check("1K", Some(1000));
        check("1Ki", Some(1024));
        check("1.5MiB", Some(1_572_864));
        check("1.9B", Some(1));
        check("2PiB", Some(2 << 50));
        check("99999PB", None);
        check("1Bi", None);
        check("1..5KB", None);
        assert_eq!(format(0), "0KB");
        assert_eq!(format(10_000), "10KB");
        assert_eq!(format(1_572_864), "1536KiB");
        assert_eq!(format(3 << 20), "3MiB");
    }
}
