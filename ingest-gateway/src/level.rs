//! `detected_level`: which level an entry has, from its stream's labels, its metadata, or its line.
//!
//! Labels are looked at once for a stream. Only when neither they nor the metadata tell is a line read, forward and
//! once, without allocating.

use limits::Limits;
use memchr::{memchr, memchr2};

/// The name of the pair that is added.
pub(crate) const DETECTED_LEVEL: &str = "detected_level";

/// Said when nothing tells.
const UNKNOWN: &str = "unknown";

/// Where to look for the level of a tenant's entries.
#[derive(Debug)]
pub(crate) struct LevelRules {
    fields: Vec<String>,
    json_depth_max: u32,
}

impl LevelRules {
    /// `None` when levels are not to be discovered.
    pub(crate) fn new(limits: &Limits) -> Option<Self> {
        let is_on = limits.discover_log_levels && limits.allow_structured_metadata;
        let json_depth_max = match limits.log_level_from_json_max_depth {
            0 => u32::MAX,
            depth => depth,
        };
        is_on.then(|| Self { fields: limits.log_level_fields.clone(), json_depth_max })
    }

    /// What named values say, in the order of the field list. `get` gives the value of a name.
    pub(crate) fn of_fields<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> Option<&'a str> {
        let value = self.fields.iter().find_map(|field| get(field).filter(|value| !value.is_empty()))?;
        Some(normalised_or_self(value))
    }

    /// What the metadata of an entry says.
    pub(crate) fn of_metadata<'a>(&self, pairs: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> Option<&'a str> {
        let get = |name: &str| pairs.clone().find(|(n, _)| *n == name).map(|(_, value)| value);
        // A pair's name was sanitised: `log.level` came in as `log_level`.
        let of_fields = self.of_fields(|name| match name.contains('.') {
            true => get(&name.replace('.', "_")),
            false => get(name),
        });
        of_fields.or_else(|| get("severity_number").map(of_severity_number))
    }

    /// What a line says.
    pub(crate) fn of_line(&self, line: &[u8]) -> &'static str {
        let start = line.iter().position(|b| !b.is_ascii_whitespace()).unwrap_or(line.len());
        let value = if line.get(start) == Some(&b'{') {
            self.in_json(&line[start..])
        } else if memchr(b'=', line).is_some() {
            self.in_logfmt(line)
        } else {
            None
        };
        value.and_then(normalised).or_else(|| keyword(line)).unwrap_or(UNKNOWN)
    }

    /// The first string member with one of the names, at a depth that counts.
    fn in_json<'a>(&self, line: &'a [u8]) -> Option<&'a [u8]> {
        let (mut at, mut depth, mut arrays) = (0, 0u32, 0u32);
        // The name just read, while its value is awaited.
        let mut name: Option<&[u8]> = None;
        while at < line.len() {
            match line[at] {
                b'"' => {
                    let text = string(&line[at..])?;
                    at += text.len() + 2;
                    if name.take().is_some_and(|n| self.fields.iter().any(|f| f.as_bytes() == n)) {
                        return Some(text);
                    }
                    let rest = &line[at..];
                    let blanks = rest.iter().take_while(|b| b.is_ascii_whitespace()).count();
                    if rest.get(blanks) == Some(&b':') {
                        at += blanks + 1;
                        name = (arrays == 0 && depth <= self.json_depth_max).then_some(text);
                    }
                    continue;
                }
                b'{' => (depth, name) = (depth + 1, None),
                b'}' => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        return None;
                    }
                }
                b'[' => (arrays, name) = (arrays + 1, None),
                b']' => arrays = arrays.saturating_sub(1),
                b',' => name = None,
                _ => {}
            }
            at += 1;
        }
        None
    }

    /// The value of the first name in the list that is a key of the line, in any case.
    fn in_logfmt<'a>(&self, line: &'a [u8]) -> Option<&'a [u8]> {
        let mut best: Option<(usize, &[u8])> = None;
        let mut at = 0;
        while at < line.len() {
            let rest = &line[at..];
            let key_len = rest.iter().take_while(|b| **b > b' ' && **b != b'=' && **b != b'"').count();
            let key = &rest[..key_len];
            if rest.get(key_len) != Some(&b'=') {
                at += key_len + 1;
                continue;
            }
            at += key_len + 1;
            let value = match line.get(at) {
                Some(b'"') => {
                    let value = string(&line[at..]).unwrap_or(&line[at + 1..]);
                    at += value.len() + 2;
                    value
                }
                _ => {
                    let value = &line[at..];
                    let value = &value[..value.iter().take_while(|b| **b > b' ').count()];
                    at += value.len();
                    value
                }
            };
            let limit = best.map_or(self.fields.len(), |(priority, _)| priority);
            let is_key = |field: &String| field.as_bytes().eq_ignore_ascii_case(key);
            if let Some(priority) = self.fields[..limit].iter().position(is_key) {
                best = Some((priority, value));
                if priority == 0 {
                    break;
                }
            }
        }
        best.map(|(_, value)| value)
    }
}

/// The text of a JSON or logfmt string that begins at its opening quote; escapes stay as they are.
fn string(bytes: &[u8]) -> Option<&[u8]> {
    let mut at = 1;
    loop {
        at += memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[at] == b'"' {
            return Some(&bytes[1..at]);
        }
        at += 2;
    }
}

/// The level that a word in any case means.
fn normalised(word: &[u8]) -> Option<&'static str> {
    const WORDS: [(&str, &str); 14] = [
        ("info", "info"),
        ("error", "error"),
        ("warn", "warn"),
        ("debug", "debug"),
        ("trace", "trace"),
        ("fatal", "fatal"),
        ("critical", "critical"),
        ("err", "error"),
        ("warning", "warn"),
        ("inf", "info"),
        ("information", "info"),
        ("dbg", "debug"),
        ("wrn", "warn"),
        ("trc", "trace"),
    ];
    WORDS.iter().find(|(name, _)| name.as_bytes().eq_ignore_ascii_case(word)).map(|(_, level)| *level)
}

/// As [`normalised`]; words that mean no level stay as they are.
pub(crate) fn normalised_or_self(word: &str) -> &str {
    normalised(word.as_bytes()).unwrap_or(word)
}

fn of_severity_number(number: &str) -> &'static str {
    match number.parse::<u32>() {
        Ok(1..=4) => "trace",
        Ok(5..=8) => "debug",
        Ok(9..=12) => "info",
        Ok(13..=16) => "warn",
        Ok(17..=20) => "error",
        Ok(21..=24) => "fatal",
        Ok(_) | Err(_) => UNKNOWN,
    }
}

const LEFT: u8 = 1;
const RIGHT: u8 = 2;
const FIRST: u8 = 4;

/// For each byte: may it stand left of a keyword, right of one, begin one?
static CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let sets: [(&[u8], u8); 3] =
        [(b" \t\n[({\"'=|", LEFT), (b" \t\n[](){}:,!\"'=|", RIGHT), (b"tdfcewiTDFCEWI", FIRST)];
    let mut i = 0;
    while i < sets.len() {
        let mut j = 0;
        while j < sets[i].0.len() {
            table[sets[i].0[j] as usize] |= sets[i].1;
            j += 1;
        }
        i += 1;
    }
    table
}

/// The earliest word of a line that names a level.
fn keyword(line: &[u8]) -> Option<&'static str> {
    let mut before = LEFT;
    for (at, byte) in line.iter().enumerate() {
        let class = CLASSES[usize::from(*byte)];
        if class & FIRST != 0 && before & LEFT != 0 {
            let found = keyword_at(&line[at..]);
            if found.is_some() {
                return found;
            }
        }
        before = class;
    }
    None
}

fn keyword_at(rest: &[u8]) -> Option<&'static str> {
    let words: &[&str] = match rest[0] | 0x20 {
        b't' => &["trace"],
        b'd' => &["debug"],
        b'f' => &["fatal"],
        b'c' => &["critical"],
        b'e' => &["error", "err"],
        b'w' => &["warning", "warn"],
        b'i' => &["info"],
        _ => &[],
    };
    let is_bordered = |len: usize| rest.get(len).is_none_or(|b| CLASSES[usize::from(*b)] & RIGHT != 0);
    let is_here = |word: &&&str| {
        let bytes = word.as_bytes();
        rest.len() >= bytes.len() && rest[..bytes.len()].eq_ignore_ascii_case(bytes) && is_bordered(bytes.len())
    };
    words.iter().find(is_here).and_then(|word| normalised(word.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> LevelRules {
        LevelRules::new(&Limits::default()).unwrap()
    }

    #[test]
    fn lines() {
        let check = |line: &str, expected: &str| assert_eq!(rules().of_line(line.as_bytes()), expected, "{line}");
        check("", "unknown");
        check("plain", "unknown");
        check("2026-01-02 ERROR it broke", "error");
        check("[warning] x", "warn");
        check("error: x, but first", "error");
        check("an information", "unknown");
        check("terror errors error", "error");
        check("info warn", "info");
        check("Err!", "error");
        check("x;error", "unknown");
        check("errored", "unknown");
        check("it is (fatal)", "fatal");
        check("critical", "critical");
        check("it's 'debug'", "debug");
        check(r#"{"level":"warn","msg":"error"}"#, "warn");
        check(r#" {"msg":"x","severity":"ERR"}"#, "error");
        check(r#"{"msg":"level","level":"trc"}"#, "trace");
        check(r#"{"a":{"level":"dbg"}}"#, "debug");
        check(r#"{"a":{"b":{"level":"dbg"}}}"#, "unknown");
        check(r#"{"a":{"b":{"level":"dbg"}},"lvl":"info"}"#, "info");
        check(r#"{"a":[{"level":"dbg"}],"lvl":"info"}"#, "info");
        check(r#"{"level":5,"msg":"x"}"#, "unknown");
        check(r#"{"level":5,"lvl":"wrn"}"#, "warn");
        check(r#"{"level":"strange","msg":"an error here"}"#, "error");
        check(r#"{"level":"strange"}"#, "unknown");
        check(r#"{"msg":"a \" level\":","level":"info"}"#, "info");
        check(r#"{"level":"inf"#, "unknown");
        check(r#"{"log.level":"warning"}"#, "warn");
        check("level=info msg=error", "info");
        check("msg=\"level=error\" LEVEL=debug", "debug");
        check("severity=warn level=info", "info");
        check("Severity=warn x=y", "warn");
        check("level=\"WARNING\"", "warn");
        check("level=odd something failed: error", "error");
        check("a=b nothing", "unknown");
        check("level=", "unknown");
        check("=x level=info", "info");
        check("level=\"inf", "info");
        check("a=\"", "unknown");
    }

    #[test]
    fn metadata() {
        let check = |pairs: &[(&str, &str)], expected: Option<&str>| {
            assert_eq!(rules().of_metadata(pairs.iter().copied()), expected, "{pairs:?}");
        };
        check(&[], None);
        check(&[("x", "error")], None);
        check(&[("severity", "WARNING")], Some("warn"));
        check(&[("severity", "notice")], Some("notice"));
        check(&[("severity_text", "err"), ("level", "Information")], Some("info"));
        check(&[("log_level", "dbg")], Some("debug"));
        check(&[("severity_number", "9")], Some("info"));
        check(&[("severity_number", "24")], Some("fatal"));
        check(&[("severity_number", "25")], Some("unknown"));
        check(&[("severity_number", "x")], Some("unknown"));
        check(&[("severity_number", "9"), ("severity_text", "ERROR")], Some("error"));
    }

    #[test]
    fn switches() {
        assert!(LevelRules::new(&Limits { discover_log_levels: false, ..Limits::default() }).is_none());
        assert!(LevelRules::new(&Limits { allow_structured_metadata: false, ..Limits::default() }).is_none());
        let deep = Limits { log_level_from_json_max_depth: 0, ..Limits::default() };
        let line = br#"{"a":{"b":{"c":{"level":"warn"}}}}"#;
        assert_eq!(LevelRules::new(&deep).unwrap().of_line(line), "warn");
    }
}
