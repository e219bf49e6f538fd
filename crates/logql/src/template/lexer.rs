//! The lexer: turns a template into tokens.

use model::Quoted;

/// One token.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// Text outside of delimiters, already trimmed.
    Text(String),
    /// `{{`
    Open,
    /// `}}`
    Close,
    /// `.name`, without the dot.
    Field(String),
    /// `.`
    Dot,
    /// `$` or `$name`
    Variable(String),
    /// A name that is not a keyword.
    Identifier(String),
    /// One of [`KEYWORDS`].
    Keyword(&'static str),
    Bool(bool),
    /// A string without quotes and escapes.
    String(String),
    /// A character's code.
    Char(i64),
    /// A number as written.
    Number(String),
    Pipe,
    Declare,
    Assign,
    OpenParenthesis,
    CloseParenthesis,
    Comma,
    End,
    /// A syntax error, with its message.
    Invalid(String),
}

#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) line: usize,
    /// True if there are blanks before the token.
    pub(super) spaced: bool,
    /// The token as written, for messages.
    pub(super) text: String,
}

const KEYWORDS: [&str; 11] =
    ["block", "break", "continue", "define", "else", "end", "if", "nil", "range", "template", "with"];

const BLANKS: [char; 4] = [' ', '\t', '\r', '\n'];

/// Cuts a template into tokens; the last is [`Kind::End`] or [`Kind::Invalid`].
pub(super) fn tokens(text: &str) -> Vec<Token> {
    let mut lexer = Lexer { text, at: 0, line: 1, counted: 0, tokens: Vec::new(), spaced: false };
    if let Err(message) = lexer.run() {
        lexer.push(Kind::Invalid(message), lexer.at);
    }
    lexer.tokens
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: usize,
    /// `line` counts the newlines before this position.
    counted: usize,
    tokens: Vec<Token>,
    spaced: bool,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn push(&mut self, kind: Kind, start: usize) {
        self.line += self.text[self.counted..start].matches('\n').count();
        self.counted = start;
        let text = self.text[start..self.at.max(start)].to_owned();
        self.tokens.push(Token { kind, line: self.line, spaced: self.spaced, text });
        self.spaced = false;
    }

    fn run(&mut self) -> Result<(), String> {
        let mut trim_start = false;
        loop {
            let start = self.at;
            let rest = self.rest();
            let open = rest.find("{{");
            let mut literal = &rest[..open.unwrap_or(rest.len())];
            let trims = open.is_some_and(|at| begins_trimmed(&rest[at + 2..]));
            if trim_start {
                literal = literal.trim_start_matches(BLANKS);
            }
            if trims {
                literal = literal.trim_end_matches(BLANKS);
            }
            self.at += open.unwrap_or(rest.len());
            if !literal.is_empty() {
                self.push(Kind::Text(literal.to_owned()), start);
            }
            if open.is_none() {
                self.push(Kind::End, self.at);
                return Ok(());
            }
            let opening = self.at;
            self.at += if trims { 4 } else { 2 };
            if self.rest().starts_with("/*") {
                trim_start = self.comment()?;
                continue;
            }
            self.push(Kind::Open, opening);
            trim_start = self.action()?;
        }
    }

    /// Skips a comment. Returns whether the text after it is trimmed.
    fn comment(&mut self) -> Result<bool, String> {
        let rest = self.rest();
        let end = rest.find("*/").ok_or("unclosed comment")? + 2;
        let after = &rest[end..];
        let trims = after.starts_with(BLANKS) && after[1..].starts_with("-}}");
        let skip = if trims { 4 } else { 2 };
        if !trims && !after.starts_with("}}") {
            return Err("comment ends before closing delimiter".to_owned());
        }
        self.at += end + skip;
        Ok(trims)
    }

    /// Reads up to `}}`. Returns whether the text after it is trimmed.
    fn action(&mut self) -> Result<bool, String> {
        let mut depth = 0usize;
        loop {
            let rest = self.rest();
            let trims = rest.starts_with(BLANKS) && rest[1..].starts_with("-}}");
            if trims || rest.starts_with("}}") {
                if depth > 0 {
                    return Err("unclosed left paren".to_owned());
                }
                let start = self.at;
                self.at += if trims { 4 } else { 2 };
                self.spaced |= trims;
                self.push(Kind::Close, start);
                return Ok(trims);
            }
            let blanks = rest.len() - rest.trim_start_matches(BLANKS).len();
            if blanks > 0 {
                // The last blank may belong to ` -}}`.
                let trims_later = rest[blanks..].starts_with("-}}");
                self.spaced = true;
                self.at += if trims_later { blanks - 1 } else { blanks };
                if !trims_later || blanks > 1 {
                    continue;
                }
            }
            let start = self.at;
            let kind = self.inside(&mut depth)?;
            self.push(kind, start);
        }
    }

    fn inside(&mut self, depth: &mut usize) -> Result<Kind, String> {
        let rest = self.rest();
        let mut chars = rest.chars();
        let Some(first) = chars.next() else { return Err("unclosed action".to_owned()) };
        let second = chars.next();
        let simple = |this: &mut Self, bytes: usize, kind: Kind| {
            this.at += bytes;
            Ok(kind)
        };
        match first {
            ':' if second == Some('=') => simple(self, 2, Kind::Declare),
            ':' => Err("expected :=".to_owned()),
            '=' => simple(self, 1, Kind::Assign),
            '|' => simple(self, 1, Kind::Pipe),
            ',' => simple(self, 1, Kind::Comma),
            '(' => {
                *depth += 1;
                simple(self, 1, Kind::OpenParenthesis)
            }
            ')' => {
                *depth = depth.checked_sub(1).ok_or("unexpected right paren")?;
                simple(self, 1, Kind::CloseParenthesis)
            }
            '"' => self.string(),
            '`' => {
                let end = rest[1..].find('`').ok_or("unterminated raw quoted string")?;
                simple(self, end + 2, Kind::String(rest[1..=end].replace('\r', "")))
            }
            '\'' => self.char(),
            '$' => {
                let name = word(&rest[1..]);
                self.at += name.len() + 1;
                self.terminated()?;
                Ok(Kind::Variable(rest[..=name.len()].to_owned()))
            }
            '.' if !second.is_some_and(|c| c.is_ascii_digit()) => {
                let name = word(&rest[1..]);
                self.at += name.len() + 1;
                self.terminated()?;
                Ok(if name.is_empty() { Kind::Dot } else { Kind::Field(name.to_owned()) })
            }
            '.' | '0'..='9' => self.number(),
            '+' | '-' => self.number(),
            c if c == '_' || c.is_alphanumeric() => {
                let name = word(rest);
                self.at += name.len();
                self.terminated()?;
                Ok(match (name, KEYWORDS.iter().find(|k| **k == name)) {
                    (_, Some(keyword)) => Kind::Keyword(keyword),
                    ("true", None) => Kind::Bool(true),
                    ("false", None) => Kind::Bool(false),
                    _ => Kind::Identifier(name.to_owned()),
                })
            }
            c => Err(format!("unrecognized character in action: {}", code_point(c))),
        }
    }

    /// Checks that the character after a name ends it.
    fn terminated(&self) -> Result<(), String> {
        let rest = self.rest();
        match rest.chars().next() {
            None => Ok(()),
            Some(c) if BLANKS.contains(&c) || ".,|:()".contains(c) => Ok(()),
            Some('=') => Ok(()),
            Some(_) if rest.starts_with("}}") => Ok(()),
            Some(c) => Err(format!("bad character {}", code_point(c))),
        }
    }

    fn number(&mut self) -> Result<Kind, String> {
        let rest = self.rest();
        let sign = usize::from(rest.starts_with(['+', '-']));
        let mut end = sign;
        let mut previous = ' ';
        for c in rest[sign..].chars() {
            let exponent_sign = matches!(c, '+' | '-') && matches!(previous, 'e' | 'E' | 'p' | 'P');
            if !(c == '.' || c == '_' || c.is_alphanumeric() || exponent_sign) {
                break;
            }
            previous = c;
            end += c.len_utf8();
        }
        let text = &rest[..end];
        if !text[sign..].starts_with(|c: char| c == '.' || c.is_ascii_digit()) {
            return Err(format!("bad number syntax: {}", Quoted(text)));
        }
        self.at += end;
        Ok(Kind::Number(text.to_owned()))
    }

    fn string(&mut self) -> Result<Kind, String> {
        let unterminated = "unterminated quoted string";
        let mut out = String::new();
        self.at += 1;
        loop {
            let rest = self.rest();
            let c = rest.chars().next().filter(|c| *c != '\n').ok_or(unterminated)?;
            self.at += c.len_utf8();
            match c {
                '"' => return Ok(Kind::String(out)),
                '\\' => out.push(self.escape('"')?),
                c => out.push(c),
            }
        }
    }

    fn char(&mut self) -> Result<Kind, String> {
        let unterminated = || "unterminated character constant".to_owned();
        let start = self.at;
        self.at += 1;
        let c = self.rest().chars().next().filter(|c| !matches!(c, '\n' | '\'')).ok_or_else(unterminated)?;
        self.at += c.len_utf8();
        let value = if c == '\\' { self.escape('\'')? } else { c };
        if !self.rest().starts_with('\'') {
            return Err(format!("malformed character constant: {}", &self.text[start..self.at]));
        }
        self.at += 1;
        Ok(Kind::Char(i64::from(u32::from(value))))
    }

    /// Reads the escape after a backslash.
    fn escape(&mut self, quote: char) -> Result<char, String> {
        let invalid = || "invalid syntax".to_owned();
        let rest = self.rest();
        let c = rest.chars().next().filter(|c| *c != '\n').ok_or("unterminated quoted string")?;
        let (skip, digits, radix) = match c {
            'x' => (1, 2, 16),
            'u' => (1, 4, 16),
            'U' => (1, 8, 16),
            '0'..='7' => (0, 3, 8),
            _ => {
                self.at += c.len_utf8();
                return Ok(match c {
                    'a' => '\u{7}',
                    'b' => '\u{8}',
                    'f' => '\u{c}',
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'v' => '\u{b}',
                    '\\' => '\\',
                    c if c == quote => c,
                    _ => return Err(invalid()),
                });
            }
        };
        let code =
            rest.get(skip..skip + digits).filter(|d| d.chars().all(|c| c.is_digit(radix))).ok_or_else(invalid)?;
        let code = u32::from_str_radix(code, radix).map_err(|_| invalid())?;
        self.at += skip + digits;
        // A byte escape outside ASCII would not be UTF-8 text.
        let is_byte = matches!(c, 'x' | '0'..='7');
        char::from_u32(code).filter(|_| !is_byte || code < 0x80).ok_or_else(invalid)
    }
}

/// Returns the letters, digits and `_` at the beginning.
fn word(text: &str) -> &str {
    let end = text.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(text.len());
    &text[..end]
}

/// Whether the text after `{{` starts with `- `.
fn begins_trimmed(text: &str) -> bool {
    text.strip_prefix('-').is_some_and(|t| t.starts_with(BLANKS))
}

/// Formats a character like Go's `%#U`.
fn code_point(c: char) -> String {
    if c.is_control() { format!("U+{:04X}", u32::from(c)) } else { format!("U+{:04X} '{c}'", u32::from(c)) }
}
