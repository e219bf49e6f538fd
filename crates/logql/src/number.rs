//! Parses numbers like Go's `strconv.ParseFloat`, with the same error texts.

use model::Quoted;

/// Parses a number: decimal or hex float, `_` between digits, `inf` and `nan` in any case.
///
/// # Errors
/// Go's text, such as `strconv.ParseFloat: parsing "x": invalid syntax`.
pub(crate) fn parse_float(text: &str) -> Result<f64, String> {
    let invalid = |why: &str| format!("strconv.ParseFloat: parsing {}: {why}", Quoted(text));
    let value = read(text).ok_or_else(|| invalid("invalid syntax"))?;
    let named = text.trim_start_matches(['+', '-']).starts_with(['i', 'I']);
    if value.is_infinite() && !named { Err(invalid("value out of range")) } else { Ok(value) }
}

fn read(text: &str) -> Option<f64> {
    let bytes = text.as_bytes();
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let plain = if bytes.contains(&b'_') {
        if !underscores_separate_digits(unsigned) {
            return None;
        }
        text.replace('_', "")
    } else {
        text.to_owned()
    };
    if unsigned.get(..2).is_some_and(|p| p.eq_ignore_ascii_case("0x")) {
        return read_hex(&plain);
    }
    if unsigned.len() != text.len() && unsigned.eq_ignore_ascii_case("nan") {
        return None;
    }
    plain.parse().ok()
}

/// Whether each `_` is between digits, or between a base prefix and a digit.
fn underscores_separate_digits(unsigned: &str) -> bool {
    let hex = unsigned.get(..2).is_some_and(|p| p.eq_ignore_ascii_case("0x"));
    let bytes = if hex { &unsigned.as_bytes()[2..] } else { unsigned.as_bytes() };
    let is_digit = |b: &u8| if hex { b.is_ascii_hexdigit() } else { b.is_ascii_digit() };
    let allowed = |i: usize| {
        let before = if i == 0 { hex } else { is_digit(&bytes[i - 1]) };
        before && bytes.get(i + 1).is_some_and(is_digit)
    };
    (0..bytes.len()).all(|i| bytes[i] != b'_' || allowed(i))
}

/// `0x1.8p3`; the exponent is required.
fn read_hex(text: &str) -> Option<f64> {
    let negative = text.starts_with('-');
    let text = text.trim_start_matches(['+', '-']).get(2..)?.to_ascii_lowercase();
    let (mantissa, exponent) = text.split_once('p')?;
    let signed = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    if signed.is_empty() || !signed.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let clamp = if exponent.starts_with('-') { -100_000 } else { 100_000 };
    let mut exponent: i64 = exponent.parse().unwrap_or(clamp).clamp(-100_000, 100_000);
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    // Sixteen significant digits exceed the mantissa of a double. Further digits only shift the value.
    let mut value: u64 = 0;
    let mut rest = false;
    for (i, c) in whole.chars().chain(fraction.chars()).enumerate() {
        let digit = u64::from(c.to_digit(16)?);
        let scale = if i >= whole.len() { -4 } else { 0 };
        if value >> 59 == 0 {
            value = value << 4 | digit;
            exponent += scale;
        } else {
            rest |= digit != 0;
            exponent += scale + 4;
        }
    }
    let value = (value | u64::from(rest)) as f64;
    let half = (exponent / 2).clamp(-2000, 2000) as i32;
    let other = (exponent - exponent / 2).clamp(-2000, 2000) as i32;
    let value = if value == 0.0 { 0.0 } else { value * 2f64.powi(half) * 2f64.powi(other) };
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats() {
        let check = |text: &str, expected: f64| assert_eq!(parse_float(text), Ok(expected), "{text}");
        check("1", 1.0);
        check("-.5", -0.5);
        check("1.", 1.0);
        check("1e3", 1000.0);
        check("5_0", 50.0);
        check("0x1p4", 16.0);
        check("0x1.8p1", 3.0);
        check("-0X.8p-1", -0.25);
        check("0x_1p0", 1.0);
        check("inf", f64::INFINITY);
        check("-Infinity", f64::NEG_INFINITY);
        check("1e-400", 0.0);
        check("0x1p-2000", 0.0);
        assert!(parse_float("NaN").is_ok_and(f64::is_nan));
        for text in
            ["", "x", "1e", "0x10", "0b1", "0o17", "_1", "1_", "1__0", "1_.0", "+nan", "1 ", "0x", "0xp1", "0x1p"]
        {
            assert_eq!(parse_float(text), Err(format!("strconv.ParseFloat: parsing \"{text}\": invalid syntax")));
        }
        for text in ["1e309", "-1e400", "0x1p2000"] {
            assert_eq!(parse_float(text), Err(format!("strconv.ParseFloat: parsing \"{text}\": value out of range")));
        }
    }
}
