//! Durations in the two notations of LogQL: Prometheus' (`1h30m`, `7d`) and Go's (`1.5h`, `250ms`).

use model::Quoted;

/// Units of Prometheus' notation, largest first, in nanoseconds.
const UNITS: [(&str, u64); 7] = [
    ("y", 365 * 86_400_000_000_000),
    ("w", 7 * 86_400_000_000_000),
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
];

/// Parses Prometheus' notation: whole numbers, units in descending order, each once. Returns nanoseconds.
pub(crate) fn parse_prometheus(text: &str) -> Result<i64, String> {
    let invalid = || format!("not a valid duration string: {}", Quoted(text));
    let out_of_range = || "duration out of range".to_owned();
    match text {
        "0" => return Ok(0),
        "" => return Err("empty duration string".to_owned()),
        _ => {}
    }
    let mut total: i64 = 0;
    let mut rest = text;
    let mut next_unit = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().position(|b| !b.is_ascii_digit()).ok_or_else(invalid)?;
        if digits == 0 {
            return Err(invalid());
        }
        let count: u64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let end = rest.bytes().position(|b| b.is_ascii_digit()).unwrap_or(rest.len());
        let unit = &rest[..end];
        rest = &rest[end..];
        let Some(index) = UNITS.iter().position(|(name, _)| *name == unit) else {
            return Err(format!("unknown unit {} in duration {}", Quoted(unit), Quoted(text)));
        };
        if index < next_unit {
            return Err(invalid());
        }
        next_unit = index + 1;
        let nanos = count.checked_mul(UNITS[index].1).and_then(|n| i64::try_from(n).ok()).ok_or_else(out_of_range)?;
        total = total.checked_add(nanos).ok_or_else(out_of_range)?;
    }
    Ok(total)
}

/// Parses Go's notation, with the error texts of Go's `time.ParseDuration`. Returns nanoseconds.
pub(crate) fn parse_go(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {}", Quoted(text));
    let negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits_at = |text: &str| text.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
        let whole_end = digits_at(rest);
        let (whole, after) = rest.split_at(whole_end);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(f) => f.split_at(digits_at(f)),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let end = after.bytes().position(|b| b == b'.' || b.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let scale: u64 = match unit {
            "" => return Err(format!("time: missing unit in duration {}", Quoted(text))),
            "ns" => 1,
            // Micro sign and Greek mu.
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(format!("time: unknown unit {} in duration {}", Quoted(unit), Quoted(text))),
        };
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
        let whole = whole.checked_mul(scale).ok_or_else(invalid)?;
        // Digits after the eighteenth are less than a nanosecond in every unit.
        let fraction = &fraction[..fraction.len().min(18)];
        let part = if fraction.is_empty() {
            0
        } else {
            let numerator: u64 = fraction.parse().map_err(|_| invalid())?;
            let denominator = 10u64.pow(u32::try_from(fraction.len()).unwrap_or(18));
            u64::try_from(u128::from(numerator) * u128::from(scale) / u128::from(denominator)).map_err(|_| invalid())?
        };
        total = total.checked_add(whole).and_then(|t| t.checked_add(part)).ok_or_else(invalid)?;
        if total > 1 << 63 {
            return Err(invalid());
        }
        rest = after;
    }
    let signed = if negative { -i128::from(total) } else { i128::from(total) };
    i64::try_from(signed).map_err(|_| invalid())
}

/// Formats a duration so that the lexer reads it back: Prometheus' notation, or nanoseconds if that is too coarse.
pub(crate) fn format(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let mut rest = nanos.unsigned_abs();
    if rest == 0 {
        return "0s".to_owned();
    }
    if !rest.is_multiple_of(1_000_000) {
        return format!("{nanos}ns");
    }
    let mut out = sign.to_owned();
    for (unit, size) in UNITS {
        // `90d` reads better than `12w6d`.
        let only_whole = matches!(unit, "y" | "w");
        if rest >= size && (!only_whole || rest.is_multiple_of(size)) {
            out.push_str(&format!("{}{unit}", rest / size));
            rest %= size;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;

    #[test]
    fn prometheus() {
        let check = |text: &str, expected: Result<i64, &str>| {
            assert_eq!(parse_prometheus(text), expected.map_err(str::to_owned), "{text}");
        };
        check("0", Ok(0));
        check("5m", Ok(300 * S));
        check("1h30m", Ok(5400 * S));
        check("1y1w1d1h1m1s1ms", Ok((31536000 + 604800 + 86400 + 3600 + 61) * S + 1_000_000));
        check("", Err("empty duration string"));
        check("5minutes", Err(r#"unknown unit "minutes" in duration "5minutes""#));
        check("1.5h", Err(r#"unknown unit "." in duration "1.5h""#));
        check("5", Err(r#"not a valid duration string: "5""#));
        check("m", Err(r#"not a valid duration string: "m""#));
        check(" 5m", Err(r#"not a valid duration string: " 5m""#));
        check("30m1h", Err(r#"not a valid duration string: "30m1h""#));
        check("1m1m", Err(r#"not a valid duration string: "1m1m""#));
        check("300y", Err("duration out of range"));
        check("1y1w1w", Err(r#"not a valid duration string: "1y1w1w""#));
        check("290y1000w", Err("duration out of range"));
    }

    #[test]
    fn go() {
        let check = |text: &str, expected: Result<i64, &str>| {
            assert_eq!(parse_go(text), expected.map_err(str::to_owned), "{text}");
        };
        check("1.5h", Ok(5400 * S));
        check("-1m30s", Ok(-90 * S));
        check("30s1m", Ok(90 * S));
        check("250.5ms", Ok(250_500_000));
        check("3\u{b5}s", Ok(3000));
        check("1.0000000000000000001s", Ok(S));
        check("-9223372036854775808ns", Ok(i64::MIN));
        check("oops", Err(r#"time: invalid duration "oops""#));
        check("5", Err(r#"time: missing unit in duration "5""#));
        check("1d", Err(r#"time: unknown unit "d" in duration "1d""#));
        check("", Err(r#"time: invalid duration """#));
        check(".s", Err(r#"time: invalid duration ".s""#));
        check("9999999999h", Err(r#"time: invalid duration "9999999999h""#));
    }

    #[test]
    fn prints() {
        let check = |nanos: i64, expected: &str| assert_eq!(format(nanos), expected);
        check(0, "0s");
        check(5400 * S, "1h30m");
        check(90 * 86400 * S, "90d");
        check(14 * 86400 * S, "2w");
        check(-300 * S, "-5m");
        check(1500, "1500ns");
        check(S + 5_000_000, "1s5ms");
    }
}
