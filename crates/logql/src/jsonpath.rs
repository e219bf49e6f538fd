//! Paths into a JSON value, as in the `json` stage: `a.b`, `list[0]`, `["any key"].x`.

use std::fmt;

/// One step down into a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PathStep {
    /// The member of an object.
    Field(String),
    /// The element of an array, from 0.
    Index(usize),
}

/// A parsed path; it has at least one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JsonPath {
    steps: Vec<PathStep>,
}

impl JsonPath {
    /// Parses a path. Names outside brackets consist of ASCII letters, digits and `_`, and do not start with a digit.
    pub(crate) fn parse(text: &str) -> Result<Self, JsonPathError> {
        let mut reader = Reader { text, at: 0 };
        let mut steps = Vec::new();
        if reader.peek() != Some('[') {
            steps.push(PathStep::Field(reader.name()?));
        }
        loop {
            match reader.peek() {
                None => break,
                Some('.') if !steps.is_empty() => {
                    reader.at += 1;
                    steps.push(PathStep::Field(reader.name()?));
                }
                Some('[') => steps.push(reader.bracket()?),
                Some(_) => return Err(reader.unexpected("'.' or '['")),
            }
        }
        Ok(Self { steps })
    }

    /// Returns the steps from the outside in.
    pub(crate) fn steps(&self) -> &[PathStep] {
        &self.steps
    }
}

/// Why a text is not a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JsonPathError {
    path: String,
    reason: String,
}

impl fmt::Display for JsonPathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot parse expression [{}]: {}", self.path, self.reason)
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn error(&self, reason: String) -> JsonPathError {
        JsonPathError { path: self.text.to_owned(), reason }
    }

    fn unexpected(&self, expected: &str) -> JsonPathError {
        let found = self.peek().map_or("$end".to_owned(), |c| format!("{c:?}"));
        self.error(format!("syntax error: unexpected {found} at position {}, expecting {expected}", self.at))
    }

    fn name(&mut self) -> Result<String, JsonPathError> {
        let rest = self.rest();
        let end = rest.bytes().position(|b| b != b'_' && !b.is_ascii_alphanumeric()).unwrap_or(rest.len());
        if end == 0 || rest.as_bytes()[0].is_ascii_digit() {
            return Err(self.unexpected("a field name"));
        }
        let name = rest[..end].to_owned();
        self.at += end;
        Ok(name)
    }

    /// `["key"]`, `['key']` or `[12]`.
    fn bracket(&mut self) -> Result<PathStep, JsonPathError> {
        self.at += 1;
        let step = match self.peek() {
            Some(quote @ ('"' | '\'')) => {
                self.at += 1;
                PathStep::Field(self.quoted(quote)?)
            }
            Some('0'..='9') => {
                let rest = self.rest();
                let digits = rest.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(rest.len());
                let index = rest[..digits].parse();
                let index = index.map_err(|_| self.error(format!("index {} is out of range", &rest[..digits])))?;
                self.at += digits;
                PathStep::Index(index)
            }
            _ => return Err(self.unexpected("a quoted key or an index")),
        };
        if self.peek() != Some(']') {
            return Err(self.unexpected("']'"));
        }
        self.at += 1;
        Ok(step)
    }

    fn quoted(&mut self, quote: char) -> Result<String, JsonPathError> {
        let mut key = String::new();
        loop {
            let c = self.peek().ok_or_else(|| self.unexpected("the end of the key"))?;
            self.at += c.len_utf8();
            if c == quote {
                return Ok(key);
            }
            if c != '\\' {
                key.push(c);
                continue;
            }
            let escaped = self.peek().ok_or_else(|| self.unexpected("the end of the key"))?;
            self.at += escaped.len_utf8();
            match escaped {
                'n' => key.push('\n'),
                't' => key.push('\t'),
                'r' => key.push('\r'),
                '"' | '\'' | '\\' | '/' => key.push(escaped),
                other => return Err(self.error(format!("invalid escape \\{other} in a key"))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let check = |text: &str, expected: &str| {
            let found = JsonPath::parse(text).map(|p| {
                let step = |s: &PathStep| match s {
                    PathStep::Field(f) => format!("/{f}"),
                    PathStep::Index(i) => format!("#{i}"),
                };
                p.steps().iter().map(step).collect::<String>()
            });
            assert_eq!(found.unwrap_or_else(|e| e.to_string()), expected, "{text}");
        };
        check("a", "/a");
        check("a.b_1.c", "/a/b_1/c");
        check("list[0]", "/list#0");
        check(r#"a["x y"].b[3][4]"#, "/a/x y/b#3#4");
        check(r#"["k-1"]"#, "/k-1");
        check("['k-1']", "/k-1");
        check(r#"["a\"b"]"#, "/a\"b");
        check("[0].a", "#0/a");
        let failed = |text: &str| {
            let found = JsonPath::parse(text).err().map(|e| e.to_string());
            let prefix = format!("cannot parse expression [{text}]: ");
            assert!(found.as_ref().is_some_and(|e| e.starts_with(&prefix)), "{text}: {found:?}");
        };
        for text in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "a[",
            "a[]",
            "a[*]",
            "a[1:2]",
            "a[-1]",
            "a[\"x]",
            "1a",
            "été",
            "a b",
            "a]",
            "[99999999999999999999]",
        ] {
            failed(text);
        }
    }
}
