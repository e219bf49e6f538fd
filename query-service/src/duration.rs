//! Durations in Prometheus' notation, such as `1h30m`: integers with units, larger units first.

use std::time::Duration;

/// Units from large to small, in milliseconds.
const UNITS: [(&str, u64); 7] = [
    ("y", 31_536_000_000),
    ("w", 604_800_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

/// Reads a Prometheus duration.
///
/// # Errors
/// If the text is not a duration, with Prometheus' error text.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    match text {
        "" => return Err("empty duration string".to_owned()),
        "0" => return Ok(Duration::ZERO),
        _ => {}
    }
    let malformed = || format!("not a valid duration string: {text:?}");
    let mut rest = text;
    let mut units_left = UNITS.as_slice();
    let mut millis: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.len() - tail.trim_start_matches(|c: char| !c.is_ascii_digit()).len();
        let (unit, tail) = tail.split_at(letters);
        if number.is_empty() || unit.is_empty() {
            return Err(malformed());
        }
        let Some((_, unit_millis)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(format!("unknown unit {unit:?} in duration {text:?}"));
        };
        let at = units_left.iter().position(|(name, _)| *name == unit).ok_or_else(malformed)?;
        units_left = &units_left[at + 1..];
        let part = number.parse::<u64>().ok().and_then(|n| n.checked_mul(*unit_millis));
        let sum = part.and_then(|part| millis.checked_add(part));
        // Prometheus has 64-bit nanoseconds, which overflow above this.
        millis = sum.filter(|m| *m <= i64::MAX as u64 / 1_000_000).ok_or("duration out of range")?;
        rest = tail;
    }
    Ok(Duration::from_millis(millis))
}

/// Writes a duration as Prometheus does, rounded down to milliseconds.
pub(crate) fn format(duration: Duration) -> String {
    let mut left = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if left == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, millis) in UNITS {
        // Prometheus writes years and weeks only if nothing is left after them.
        let fits = !matches!(unit, "y" | "w") || left.is_multiple_of(millis);
        if fits && left >= millis {
            text.push_str(&format!("{}{unit}", left / millis));
            left %= millis;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads() {
        let check = |text: &str, expected: Result<u64, &str>| {
            let found = parse(text).map(|d| d.as_millis() as u64);
            assert_eq!(found.as_ref().copied().map_err(String::as_str), expected, "{text:?}");
        };
        check("5m", Ok(300_000));
        check("1h30m", Ok(5_400_000));
        check("250ms", Ok(250));
        check("1y2w3d", Ok(31_536_000_000 + 2 * 604_800_000 + 3 * 86_400_000));
        check("0", Ok(0));
        check("0s", Ok(0));
        check("", Err("empty duration string"));
        check("1.5h", Err("unknown unit \".\" in duration \"1.5h\""));
        check("5", Err("not a valid duration string: \"5\""));
        check("m", Err("not a valid duration string: \"m\""));
        check("5m5h", Err("not a valid duration string: \"5m5h\""));
        check("5minutes", Err("unknown unit \"minutes\" in duration \"5minutes\""));
        check("99999999999y", Err("duration out of range"));
    }

    #[test]
    fn writes() {
        let check = |secs: f64, expected: &str| assert_eq!(format(Duration::from_secs_f64(secs)), expected);
        check(0.0, "0s");
        check(0.25, "250ms");
        check(5400.0, "1h30m");
        check(721.0 * 3600.0, "30d1h");
        check(604_800.0, "1w");
        check(31_536_000.0, "1y");
        check(90_061.0, "1d1h1m1s");
    }
}
