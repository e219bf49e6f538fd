//! The escapes of Go string literals, which label sets and queries use.

/// Why the text after a backslash is not an escape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EscapeError {
    /// The text ends after the backslash.
    End,
    /// No escape starts with this character.
    Unknown,
    /// The escape has too few digits, or a character that is not a digit.
    Digits,
    /// The digits are not the code of a character or byte.
    Value,
}

/// Reads the escape at the start of `rest`, which is the text after a backslash, and appends its meaning to `out`. For
/// `\xHH` and `\ooo` that is one byte, which need not be UTF-8. Returns the number of bytes of `rest` that were read.
/// `\'` is not an escape here: Go allows it only between single quotes.
///
/// # Errors
/// If `rest` does not start with an escape. Nothing is appended then.
pub fn read_go_escape(rest: &str, out: &mut Vec<u8>) -> Result<usize, EscapeError> {
    let c = rest.chars().next().ok_or(EscapeError::End)?;
    let simple = match c {
        'a' => Some(7),
        'b' => Some(8),
        'f' => Some(12),
        'n' => Some(b'\n'),
        'r' => Some(b'\r'),
        't' => Some(b'\t'),
        'v' => Some(11),
        '\\' => Some(b'\\'),
        '"' => Some(b'"'),
        _ => None,
    };
    if let Some(byte) = simple {
        out.push(byte);
        return Ok(1);
    }
    let (skip, digits, radix) = match c {
        'x' => (1, 2, 16),
        'u' => (1, 4, 16),
        'U' => (1, 8, 16),
        '0'..='7' => (0, 3, 8),
        _ => return Err(EscapeError::Unknown),
    };
    let code = rest.get(skip..skip + digits).filter(|d| d.chars().all(|c| c.is_digit(radix)));
    let code = code.and_then(|d| u32::from_str_radix(d, radix).ok()).ok_or(EscapeError::Digits)?;
    if matches!(c, 'u' | 'U') {
        let c = char::from_u32(code).ok_or(EscapeError::Value)?;
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    } else {
        out.push(u8::try_from(code).map_err(|_| EscapeError::Value)?);
    }
    Ok(skip + digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes() {
        let check = |rest: &str, expected: Result<(usize, &[u8]), EscapeError>| {
            let mut out = Vec::new();
            let found = read_go_escape(rest, &mut out);
            assert_eq!(found.map(|taken| (taken, out.as_slice())), expected, "{rest:?}");
        };
        check("n rest", Ok((1, b"\n")));
        check("\\", Ok((1, b"\\")));
        check("xff.", Ok((3, b"\xff")));
        check("101", Ok((3, b"A")));
        check("u00e9x", Ok((5, "\u{e9}".as_bytes())));
        check("U0001F600", Ok((9, "\u{1f600}".as_bytes())));
        check("", Err(EscapeError::End));
        check("'", Err(EscapeError::Unknown));
        check("xf", Err(EscapeError::Digits));
        check("x+f", Err(EscapeError::Digits));
        check("128", Err(EscapeError::Digits));
        check("ud800", Err(EscapeError::Value));
        check("777", Err(EscapeError::Value));
    }
}
