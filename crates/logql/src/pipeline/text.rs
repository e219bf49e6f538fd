//! Conditions that a line filter implies for the lines that pass. Readers use them to skip other lines.
//!
//! The conditions are necessary but not sufficient: a line that passes the filter meets all of them, while a line that
//! meets them may still fail the filter.

use model::{ByteClass, Literal, TextNeed, go_to_rust_regex};
use regex_syntax::hir::{Class, Hir, HirKind};

use crate::{
    ast::{LineFilter, LineOp, LineOperand},
    linepattern::LinePattern,
};

/// Searching for more alternatives than this is not worth it.
const ALTERNATIVES_MAX: usize = 16;
/// Shorter runs exclude almost no lines.
const RUN_MIN: usize = 3;
/// A regex nested deeper than this yields no conditions.
const DEPTH_MAX: usize = 32;

/// Returns conditions that every line that passes this filter meets.
pub(super) fn text_needs(filter: &LineFilter) -> Vec<TextNeed> {
    let of_operand = |operand: &LineOperand| match (filter.op, operand) {
        (LineOp::Contains, LineOperand::Text(text)) => any_of(vec![Text::plain(text.as_bytes())]),
        (LineOp::Regex, LineOperand::Text(regex)) => of_regex(regex),
        (LineOp::Pattern, LineOperand::Text(pattern)) => LinePattern::parse(pattern).map_or_else(
            |_| Vec::new(),
            |pattern| pattern.literals().flat_map(|literal| any_of(vec![Text::plain(literal)])).collect(),
        ),
        // IP filters and negated filters yield no conditions.
        _ => Vec::new(),
    };
    either(filter.operands.iter().map(of_operand))
}

/// A text that part of a regex may match.
#[derive(Clone, Default)]
struct Text {
    bytes: Vec<u8>,
    ignores_case: bool,
}

impl Text {
    fn plain(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), ignores_case: false }
    }

    fn followed_by(&self, other: &Self) -> Self {
        let bytes = [self.bytes.as_slice(), &other.bytes].concat();
        Self { bytes, ignores_case: self.ignores_case || other.ignores_case }
    }
}

/// Returns the condition that the line contains one of these texts, or nothing if one of them is empty, since every
/// line contains the empty text.
fn any_of(texts: Vec<Text>) -> Vec<TextNeed> {
    if texts.is_empty() || texts.iter().any(|text| text.bytes.is_empty()) {
        return Vec::new();
    }
    let literal = |text: Text| Literal { bytes: text.bytes, ignores_case: text.ignores_case };
    vec![TextNeed::AnyOf(texts.into_iter().map(literal).collect())]
}

/// Returns a condition that holds if any one of these conjunctions does. It uses the most selective condition of each.
fn either(mut branches: impl Iterator<Item = Vec<TextNeed>>) -> Vec<TextNeed> {
    let (Some(first), second) = (branches.next(), branches.next()) else { return Vec::new() };
    let Some(second) = second else { return first };
    let shortest = |need: &TextNeed| match need {
        TextNeed::AnyOf(literals) => literals.iter().map(|literal| literal.bytes.len()).min().unwrap_or(0),
        TextNeed::Run { .. } => 0,
    };
    let mut all = Vec::new();
    for branch in [first, second].into_iter().chain(branches) {
        match branch.into_iter().max_by_key(shortest) {
            Some(TextNeed::AnyOf(literals)) => all.extend(literals),
            _ => return Vec::new(),
        }
    }
    if all.len() > ALTERNATIVES_MAX { Vec::new() } else { vec![TextNeed::AnyOf(all)] }
}

fn of_regex(pattern: &str) -> Vec<TextNeed> {
    let parsed = regex_syntax::ParserBuilder::new().utf8(false).build().parse(&go_to_rust_regex(pattern));
    parsed.map_or_else(|_| Vec::new(), |hir| of_hir(&hir, 0))
}

fn of_hir(hir: &Hir, depth: usize) -> Vec<TextNeed> {
    if depth > DEPTH_MAX {
        return Vec::new();
    }
    if let Some(texts) = texts_of(hir, depth) {
        return any_of(texts);
    }
    match hir.kind() {
        HirKind::Capture(capture) => of_hir(&capture.sub, depth + 1),
        HirKind::Alternation(branches) => either(branches.iter().map(|branch| of_hir(branch, depth + 1))),
        HirKind::Repetition(repetition) if repetition.min > 0 => {
            let length = repetition.min as usize;
            match repetition.sub.kind() {
                HirKind::Class(class) if length >= RUN_MIN => {
                    let class = bytes_of(class);
                    if class.is_full() { Vec::new() } else { vec![TextNeed::Run { class, length }] }
                }
                _ => of_hir(&repetition.sub, depth + 1),
            }
        }
        HirKind::Concat(parts) => of_concat(parts, depth),
        _ => Vec::new(),
    }
}

/// Joins neighbouring parts whose texts are known, so that the texts to search for are as long as possible.
fn of_concat(parts: &[Hir], depth: usize) -> Vec<TextNeed> {
    let mut needs = Vec::new();
    let mut joined = vec![Text::default()];
    for part in parts {
        match texts_of(part, depth + 1) {
            Some(texts) if joined.len() * texts.len() <= ALTERNATIVES_MAX => joined = product(&joined, &texts),
            Some(texts) => needs.extend(any_of(std::mem::replace(&mut joined, texts))),
            None => {
                needs.extend(any_of(std::mem::replace(&mut joined, vec![Text::default()])));
                needs.extend(of_hir(part, depth + 1));
            }
        }
    }
    needs.extend(any_of(joined));
    needs
}

fn product(starts: &[Text], ends: &[Text]) -> Vec<Text> {
    starts.iter().flat_map(|before| ends.iter().map(|after| before.followed_by(after))).collect()
}

/// Returns all texts that a regex matches, or `None` if there are too many.
fn texts_of(hir: &Hir, depth: usize) -> Option<Vec<Text>> {
    if depth > DEPTH_MAX {
        return None;
    }
    let texts = match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => vec![Text::default()],
        HirKind::Literal(literal) => vec![Text::plain(&literal.0)],
        HirKind::Class(class) => texts_of_class(class)?,
        HirKind::Capture(capture) => texts_of(&capture.sub, depth + 1)?,
        HirKind::Concat(parts) => {
            let mut joined = vec![Text::default()];
            for part in parts {
                let texts = texts_of(part, depth + 1)?;
                if joined.len() * texts.len() > ALTERNATIVES_MAX {
                    return None;
                }
                joined = product(&joined, &texts);
            }
            joined
        }
        HirKind::Alternation(branches) => {
            let mut all = Vec::new();
            for branch in branches {
                all.extend(texts_of(branch, depth + 1)?);
                if all.len() > ALTERNATIVES_MAX {
                    return None;
                }
            }
            all
        }
        HirKind::Repetition(_) => return None,
    };
    (texts.len() <= ALTERNATIVES_MAX).then_some(texts)
}

/// Returns the characters of a small class. Both cases of an ASCII letter become one text that ignores case. With
/// `(?i)`, `k` and `s` also match the Kelvin sign and the long s, which become separate texts.
fn texts_of_class(class: &Class) -> Option<Vec<Text>> {
    let mut chars: Vec<Vec<u8>> = Vec::new();
    match class {
        Class::Unicode(class) => {
            for range in class.ranges() {
                for c in range.start()..=range.end() {
                    chars.push(c.encode_utf8(&mut [0; 4]).as_bytes().to_vec());
                    if chars.len() > 2 * ALTERNATIVES_MAX {
                        return None;
                    }
                }
            }
        }
        Class::Bytes(class) => {
            for range in class.ranges() {
                chars.extend((range.start()..=range.end()).map(|byte| vec![byte]));
            }
        }
    }
    let has = |byte: u8| chars.iter().any(|c| *c == [byte]);
    let text = |c: &Vec<u8>| match c.as_slice() {
        [letter] if letter.is_ascii_uppercase() && has(letter.to_ascii_lowercase()) => None,
        [letter] if letter.is_ascii_lowercase() && has(letter.to_ascii_uppercase()) => {
            Some(Text { bytes: c.clone(), ignores_case: true })
        }
        _ => Some(Text::plain(c)),
    };
    Some(chars.iter().filter_map(text).collect())
}

/// Returns the bytes that the class's characters may contain. A non-ASCII character may contain any non-ASCII byte.
fn bytes_of(class: &Class) -> ByteClass {
    let mut bytes = ByteClass::default();
    match class {
        Class::Unicode(class) => {
            for range in class.ranges() {
                let ascii = |c: char| u8::try_from(c).unwrap_or(0xff).min(0x7f);
                if range.start().is_ascii() {
                    bytes.add(ascii(range.start()), ascii(range.end()));
                }
                if !range.end().is_ascii() {
                    bytes.add(0x80, 0xff);
                }
            }
        }
        Class::Bytes(class) => class.ranges().iter().for_each(|range| bytes.add(range.start(), range.end())),
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        ast::{Expr, Stage},
        pipeline::line::LineTest,
    };

    fn filter(text: &str) -> LineFilter {
        let Ok(Expr::Log(log)) = crate::parse(&format!("{{a=\"b\"}} {text}")) else { panic!("{text}") };
        let Some(Stage::LineFilter(filter)) = log.stages.into_iter().next() else { panic!("{text}") };
        filter
    }

    #[test]
    fn conditions() {
        let check = |text: &str, expected: &str| {
            let literal = |literal: &Literal| {
                let case = if literal.ignores_case { "/i" } else { "" };
                format!("{}{case}", String::from_utf8_lossy(&literal.bytes))
            };
            let show = |need: &TextNeed| match need {
                TextNeed::AnyOf(literals) => literals.iter().map(literal).collect::<Vec<_>>().join("|"),
                TextNeed::Run { length, .. } => format!("run of {length}"),
            };
            let found: Vec<String> = text_needs(&filter(text)).iter().map(show).collect();
            assert_eq!(found.join(" & "), expected, "{text}");
        };
        check(r#"|= "error""#, "error");
        check(r#"|= "error" or "warn""#, "error|warn");
        check(r#"|= "error" or "" "#, "");
        check(r#"|= ip("10.0.0.1")"#, "");
        check(r#"!= "error""#, "");
        check(r#"!~ "error""#, "");
        check(r#"|> "<_>foo<_>bar""#, "foo & bar");
        check(r#"|> "<_>foo<_>barn" or "x""#, "barn|x");
        check(r#"|~ "time.*out""#, "time & out");
        check(r#"|~ "(GET|POST) /api""#, "GET /api|POST /api");
        check(r#"|~ "(?i)error""#, "error/i");
        check(r#"|~ "(?i)tk""#, "tk/i|t\u{212a}/i");
        check(r#"|~ "a+b?c""#, "a & c");
        check(r#"|~ "a|b*""#, "");
        check(r#"|~ "foo.*|bar""#, "foo|bar");
        check(r#"|~ "[0-9a-f]{8}-x""#, "run of 8 & -x");
        check(r#"|~ "^$""#, "");
    }

    proptest! {
        #[test]
        fn a_passing_line_fulfils_the_conditions(
            line in "[abkKsS\u{212a}\u{17f}0-9 -]{0,12}",
            text in proptest::sample::select(vec![
                r#"|= "ab""#, r#"|= "a" or "bk""#, r#"|> "a<_>b""#, r#"|> "<_>a<_>" or "k""#, r#"|~ "a.b""#, r#"|~ "(?i)ks""#,
                r#"|~ "(?i)a[ks]b?s""#, r#"|~ "(a|bk)+s""#, r#"|~ "\\d{3,}""#, r#"|~ "[0-9]{3}-?""#, r#"|~ "(ab|k)(s|0)""#,
                r#"|~ "^a|b$""#, r#"|~ "(?i)(ab|k) ?s""#, r#"|~ "a{2}b" or "k""#, r#"!= "a""#, r#"|~ "(?:a|b|k|s){4}""#,
            ]),
        ) {
            let filter = filter(text);
            if LineTest::new(&filter).unwrap().passes(line.as_bytes()) {
                for need in text_needs(&filter) {
                    prop_assert!(need.allows(line.as_bytes()), "{} passes {:?}, which fails {:?}", line, text, need);
                }
            }
        }
    }
}
