//! What can be wrong with a limits file, said so that an operator can mend it.

use thiserror::Error;

/// Why limits could not be loaded.
#[derive(Debug, Error)]
pub enum LimitsError {
    /// The file cannot be read.
    #[error("cannot read {file}: {source}")]
    Read {
        /// The file.
        file: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file does not hold what it should.
    #[error("{file}: {reason}")]
    Content {
        /// The file.
        file: String,
        /// What is wrong and, for an unknown key, which one is near.
        reason: String,
    },
}

/// The known word nearest to `unknown`, if one is near enough to be meant.
pub fn nearest<'a>(unknown: &str, known: &[&'a str]) -> Option<&'a str> {
    let distance = |word: &&&str| strsim::damerau_levenshtein(unknown, word);
    let best = known.iter().min_by_key(distance)?;
    let near = distance(&best) <= unknown.chars().count().max(best.chars().count()) / 3;
    near.then_some(*best)
}

/// Adds "did you mean …" to serde's complaint about an unknown field, whose long list of fields it shortens.
pub fn explain_unknown(complaint: &str) -> String {
    let Some((head, tail)) = complaint.split_once("unknown field `") else { return complaint.to_owned() };
    let Some((unknown, rest)) = tail.split_once('`') else { return complaint.to_owned() };
    let (list, place) = match rest.split_once(" at line ") {
        Some((list, place)) => (list, format!(" at line {place}")),
        None => (rest, String::new()),
    };
    let known: Vec<&str> = list.split('`').skip(1).step_by(2).collect();
    let hint = match nearest(unknown, &known) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => "no keys are known here".to_owned(),
        None => format!("known here: {}", known.join(", ")),
    };
    format!("{head}unknown key `{unknown}`{place}; {hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_is_near() {
        let known = ["ingestion_rate_mb", "ingestion_burst_size_mb", "max_line_size"];
        assert_eq!(nearest("ingestion_rate_mbs", &known), Some("ingestion_rate_mb"));
        assert_eq!(nearest("max_lines_ize", &known), Some("max_line_size"));
        assert_eq!(nearest("retention", &known), None);
    }

    #[test]
    fn explains() {
        let check = |complaint: &str, expected: &str| assert_eq!(explain_unknown(complaint), expected);
        check(
            "a: unknown field `foo_bra`, expected one of `foo_bar`, `baz` at line 2 column 3",
            "a: unknown key `foo_bra` at line 2 column 3; did you mean `foo_bar`?",
        );
        check("unknown field `x`, expected `yellow`", "unknown key `x`; known here: yellow");
        check("unknown field `x`, there are no fields", "unknown key `x`; no keys are known here");
        check("something else", "something else");
    }
}
