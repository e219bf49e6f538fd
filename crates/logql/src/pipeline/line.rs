//! Line filters, on one line or on all lines of a batch at once.
//!
//! The lines of a batch are stored end to end. A text is therefore searched in all of them in one pass, and each hit is
//! mapped to its row; a hit that spans two rows does not count. A regex without look-around works the same way: a match
//! inside one row is a match of that row. If a match spans rows, only the first of these rows must be tested again.

use memchr::memmem;
use model::{ByteColumn, RegexMode, compile_regex_bytes, go_to_rust_regex};

use super::rows::Rows;
use crate::{
    ast::{LineFilter, LineOp, LineOperand},
    error::QueryError,
    ip::IpPattern,
    linepattern::LinePattern,
};

/// A compiled line filter.
#[derive(Debug)]
pub(crate) struct LineTest {
    negated: bool,
    /// At least one of these must match.
    any: Vec<Search>,
}

#[derive(Debug)]
enum Search {
    Text(Box<memmem::Finder<'static>>),
    Regex {
        regex: regex::bytes::Regex,
        /// Whether a match depends only on the bytes inside it and is never empty.
        is_local: bool,
    },
    Pattern(LinePattern),
    Ip(IpPattern),
}

impl LineTest {
    pub(crate) fn new(filter: &LineFilter) -> Result<Self, QueryError> {
        let negated = matches!(filter.op, LineOp::NotContains | LineOp::NotRegex | LineOp::NotPattern);
        let bad = |e: &dyn std::fmt::Display| QueryError::Evaluation(e.to_string());
        let mut any = Vec::new();
        let mut texts = Vec::new();
        for operand in &filter.operands {
            match (filter.op, operand) {
                (_, LineOperand::Ip(pattern)) => any.push(Search::Ip(IpPattern::parse(pattern).map_err(|e| bad(&e))?)),
                (LineOp::Contains | LineOp::NotContains, LineOperand::Text(text)) => texts.push(text.as_str()),
                (LineOp::Regex | LineOp::NotRegex, LineOperand::Text(text)) => any.push(regex(text)?),
                (LineOp::Pattern | LineOp::NotPattern, LineOperand::Text(text)) => {
                    any.push(Search::Pattern(LinePattern::parse(text).map_err(|e| bad(&e))?));
                }
            }
        }
        match texts.as_slice() {
            [] => {}
            [text] => any.push(Search::Text(Box::new(memmem::Finder::new(text.as_bytes()).into_owned()))),
            _ if texts.contains(&"") => any.push(Search::Text(Box::new(memmem::Finder::new(b"").into_owned()))),
            // The regex engine searches for several texts in one pass.
            _ => {
                let escaped: Vec<String> = texts.iter().map(|t| regex::escape(t)).collect();
                any.push(regex(&escaped.join("|"))?);
            }
        }
        Ok(Self { negated, any })
    }

    /// Whether a line passes.
    pub(crate) fn passes(&self, line: &[u8]) -> bool {
        self.any.iter().any(|s| s.matches(line)) != self.negated
    }

    /// Returns the rows that pass.
    pub(crate) fn select(&self, lines: &ByteColumn, rows: Rows) -> Rows {
        let Rows::Span(span) = &rows else {
            return rows.filter(|row| self.passes(lines.get(row)));
        };
        let [search] = self.any.as_slice() else {
            return rows.filter(|row| self.passes(lines.get(row)));
        };
        let hits = match search {
            Search::Text(finder) if !finder.needle().is_empty() => text_hits(lines, span.clone(), finder),
            Search::Regex { regex, is_local: true } => regex_hits(lines, span.clone(), regex),
            Search::Pattern(pattern) => {
                let longest = pattern.literals().max_by_key(|l| l.len());
                let Some(longest) = longest else { return rows.filter(|row| self.passes(lines.get(row))) };
                let mut hits = text_hits(lines, span.clone(), &memmem::Finder::new(longest));
                hits.retain(|row| pattern.matches(lines.get(*row as usize)));
                hits
            }
            _ => return rows.filter(|row| self.passes(lines.get(row))),
        };
        if self.negated { Rows::without(span.clone(), &hits) } else { Rows::List(hits) }
    }
}

impl Search {
    fn matches(&self, line: &[u8]) -> bool {
        match self {
            Self::Text(finder) => finder.find(line).is_some(),
            Self::Regex { regex, .. } => regex.is_match(line),
            Self::Pattern(pattern) => pattern.matches(line),
            Self::Ip(pattern) => pattern.found_in(line),
        }
    }
}

fn regex(pattern: &str) -> Result<Search, QueryError> {
    let regex = compile_regex_bytes(pattern, RegexMode::Search).map_err(|e| QueryError::Evaluation(e.to_string()))?;
    let parsed = regex_syntax::ParserBuilder::new().utf8(false).build().parse(&go_to_rust_regex(pattern));
    let is_local = parsed.is_ok_and(|hir| {
        let properties = hir.properties();
        properties.look_set().is_empty() && properties.minimum_len().is_some_and(|length| length > 0)
    });
    Ok(Search::Regex { regex, is_local })
}

/// Returns the row that holds byte `at`. The search starts at `row`; all rows before it end before `at`.
fn row_of(offsets: &[u32], mut row: usize, at: usize) -> usize {
    // Most hits are near, so use an exponential search.
    let mut step = 1;
    while row + step < offsets.len() - 1 && offsets[row + step] as usize <= at {
        row += step;
        step *= 2;
    }
    let end = (row + step).min(offsets.len() - 1);
    row + offsets[row + 1..end].partition_point(|o| *o as usize <= at)
}

/// Returns the rows of `span` that contain the text, in order.
fn text_hits(lines: &ByteColumn, span: std::ops::Range<usize>, finder: &memmem::Finder<'_>) -> Vec<u32> {
    let mut hits = Vec::new();
    if span.is_empty() {
        return hits;
    }
    let offsets = &lines.offsets()[..=span.end];
    let data = &lines.data()[..offsets[span.end] as usize];
    let length = finder.needle().len();
    let mut row = span.start;
    let mut from = offsets[row] as usize;
    while let Some(found) = data.get(from..).and_then(|rest| finder.find(rest)) {
        let at = from + found;
        row = row_of(offsets, row, at);
        if at + length <= offsets[row + 1] as usize {
            hits.push(row as u32);
            row += 1;
            if row == span.end {
                break;
            }
            from = offsets[row] as usize;
        } else {
            from = at + 1;
        }
    }
    hits
}

/// Returns the rows of `span` that match a regex without look-around, in order.
fn regex_hits(lines: &ByteColumn, span: std::ops::Range<usize>, regex: &regex::bytes::Regex) -> Vec<u32> {
    let mut hits = Vec::new();
    if span.is_empty() {
        return hits;
    }
    let offsets = &lines.offsets()[..=span.end];
    let data = &lines.data()[..offsets[span.end] as usize];
    let mut row = span.start;
    let mut from = offsets[row] as usize;
    while let Some(found) = regex.find_at(data, from) {
        row = row_of(offsets, row, found.start());
        if found.end() <= offsets[row + 1] as usize || regex.is_match(lines.get(row)) {
            hits.push(row as u32);
        }
        row += 1;
        if row == span.end {
            break;
        }
        from = offsets[row] as usize;
    }
    hits
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ast::{Expr, Stage};

    fn test(filter: &str) -> LineTest {
        let Ok(Expr::Log(log)) = crate::parse(&format!("{{a=\"b\"}} {filter}")) else { panic!("{filter}") };
        let Some(Stage::LineFilter(filter)) = log.stages.first() else { panic!("{filter}") };
        LineTest::new(filter).expect("compiles")
    }

    fn column(lines: &[Vec<u8>]) -> ByteColumn {
        let mut offsets = vec![0];
        let mut data = Vec::new();
        for line in lines {
            data.extend_from_slice(line);
            offsets.push(data.len() as u32);
        }
        ByteColumn::new(offsets, data.into())
    }

    #[test]
    fn single_lines() {
        let check = |filter: &str, line: &str, expected: bool| {
            assert_eq!(test(filter).passes(line.as_bytes()), expected, "{filter} on {line:?}");
        };
        check(r#"|= "b""#, "abc", true);
        check(r#"|= "B""#, "abc", false);
        check(r#"!= "b""#, "abc", false);
        check(r#"|= """#, "", true);
        check(r#"!= """#, "x", false);
        check(r#"|~ """#, "x", true);
        check(r#"!~ """#, "x", false);
        check(r#"|~ "a.c""#, "a\nc", false);
        check(r#"|~ "(?i)A.C""#, "xabcx", true);
        check(r#"|= "a" or "b""#, "xb", true);
        check(r#"!= "a" or "b""#, "xb", false);
        check(r#"!= "a" or "b""#, "xc", true);
        check(r#"|= "a" or "" "#, "x", true);
        check(r#"|> "a<_>b""#, "aXb", true);
        check(r#"!> "a<_>b""#, "aXb", false);
        check(r#"|= ip("10.0.0.0/8") or "b""#, "from 10.1.2.3", true);
        check(r#"|= ip("10.0.0.0/8") or "b""#, "b", true);
        check(r#"!= ip("10.0.0.0/8")"#, "from 11.1.2.3", true);
    }

    proptest! {
        #[test]
        fn a_batch_is_many_lines(
            lines in proptest::collection::vec("[ab]{0,6}", 0..30),
            filter in proptest::sample::select(vec![
                r#"|= "a""#, r#"|= "ab""#, r#"!= "ab""#, r#"|= "aab" or "bba""#, r#"|~ "a+b""#, r#"!~ "a.b""#, r#"|~ "^a""#,
                r#"|~ "ab*""#, r#"|~ "b*""#, r#"|~ "a|aab""#, r#"|> "a<_>b""#, r#"!> "<_>ab<_>""#, r#"|> "<_>""#, r#"|= """#,
            ]),
            skip in 0usize..5,
        ) {
            let lines: Vec<Vec<u8>> = lines.into_iter().map(String::into_bytes).collect();
            let test = test(filter);
            let span = skip.min(lines.len())..lines.len();
            let expected: Vec<usize> = span.clone().filter(|i| test.passes(&lines[*i])).collect();
            let found: Vec<usize> = test.select(&column(&lines), Rows::Span(span)).iter().collect();
            prop_assert_eq!(found, expected);
        }
    }
}
