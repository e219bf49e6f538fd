//! The template parser: turns tokens into nodes.

use super::{
    Branch, Command, FUNCTIONS, Node, Operand, Pipeline, Template, TemplateError,
    lexer::{Kind, Token, tokens},
};
use model::Quoted;

use crate::number::parse_float;

/// Maximum nesting depth of control structures and parentheses.
const NESTING_MAX: usize = 100;

type Result<T, E = TemplateError> = std::result::Result<T, E>;

impl Template {
    /// Parses a template. `name` appears in the errors: `line` for `line_format`, `label` for `label_format`.
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self> {
        let mut parser = Parser {
            name,
            tokens: tokens(text),
            at: 0,
            variables: vec!["$".to_owned()],
            defines: Vec::new(),
            ranges: 0,
            nesting: 0,
        };
        let root = parser.root()?;
        Ok(Self { root, defines: parser.defines })
    }
}

/// What ended a list of nodes.
#[derive(Clone, Copy, PartialEq)]
enum Ending {
    Text,
    End,
    Else,
}

struct Parser<'a> {
    name: &'a str,
    tokens: Vec<Token>,
    at: usize,
    /// The variables in scope.
    variables: Vec<String>,
    defines: Vec<(String, Vec<Node>)>,
    /// Number of enclosing `range` structures.
    ranges: usize,
    nesting: usize,
}

impl Parser<'_> {
    fn token(&self) -> &Token {
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn peek(&self) -> &Kind {
        &self.token().kind
    }

    fn next(&mut self) -> Kind {
        let kind = self.peek().clone();
        self.at += 1;
        kind
    }

    fn eat(&mut self, kind: &Kind) -> bool {
        let found = self.peek() == kind;
        self.at += usize::from(found);
        found
    }

    fn error(&self, message: impl std::fmt::Display) -> TemplateError {
        TemplateError(format!("template: {}:{}: {message}", self.name, self.token().line))
    }

    /// Returns the error for an unexpected next token.
    fn unexpected(&self, context: &str) -> TemplateError {
        let token = self.token();
        let shown = match &token.kind {
            Kind::Invalid(message) => return self.error(message),
            Kind::End => "EOF".to_owned(),
            Kind::Keyword(keyword) => format!("<{keyword}>"),
            _ if token.text.chars().count() > 10 => {
                let head: String = token.text.chars().take(10).collect();
                format!("{}...", Quoted(&head))
            }
            _ => Quoted(&token.text).to_string(),
        };
        self.error(format!("unexpected {shown} in {context}"))
    }

    fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.nesting >= NESTING_MAX {
            return Err(self.error(format!("nested too deeply: more than {NESTING_MAX} levels")));
        }
        self.nesting += 1;
        let result = inner(self);
        self.nesting -= 1;
        result
    }

    /// Reads the whole text. `define` is allowed only at this level.
    fn root(&mut self) -> Result<Vec<Node>> {
        let mut nodes = Vec::new();
        loop {
            let defines = self.peek() == &Kind::Open
                && self.tokens.get(self.at + 1).is_some_and(|t| t.kind == Kind::Keyword("define"));
            if defines {
                self.at += 2;
                self.define()?;
                continue;
            }
            match self.node(&mut nodes)? {
                None => {}
                Some(Ending::Text) => return Ok(nodes),
                Some(Ending::End) => return Err(self.error("unexpected {{end}}")),
                Some(Ending::Else) => return Err(self.error("unexpected {{else}}")),
            }
        }
    }

    fn define(&mut self) -> Result<()> {
        let name = self.string("define clause")?;
        self.close("define clause")?;
        let nodes = self.body_of_own()?;
        self.defines.push((name, nodes));
        Ok(())
    }

    /// Reads the nodes up to `{{end}}` of a nested template, which does not see the outer variables.
    fn body_of_own(&mut self) -> Result<Vec<Node>> {
        let outer = std::mem::replace(&mut self.variables, vec!["$".to_owned()]);
        let ranges = std::mem::take(&mut self.ranges);
        let (nodes, ending) = self.nested(Self::list)?;
        if ending != Ending::End {
            return Err(self.error("unexpected {{else}} in define clause"));
        }
        self.variables = outer;
        self.ranges = ranges;
        Ok(nodes)
    }

    fn string(&mut self, context: &str) -> Result<String> {
        match self.peek() {
            Kind::String(text) => {
                let text = text.clone();
                self.at += 1;
                Ok(text)
            }
            _ => Err(self.unexpected(context)),
        }
    }

    fn close(&mut self, context: &str) -> Result<()> {
        if self.eat(&Kind::Close) { Ok(()) } else { Err(self.unexpected(context)) }
    }

    /// Reads nodes up to `{{end}}` or `{{else`.
    fn list(&mut self) -> Result<(Vec<Node>, Ending)> {
        let mut nodes = Vec::new();
        loop {
            match self.node(&mut nodes)? {
                None => {}
                Some(Ending::Text) => return Err(self.error("unexpected EOF")),
                Some(ending) => return Ok((nodes, ending)),
            }
        }
    }

    /// Reads one node into `nodes`, or returns what ends the list.
    fn node(&mut self, nodes: &mut Vec<Node>) -> Result<Option<Ending>> {
        match self.next() {
            Kind::Text(text) => {
                nodes.push(Node::Text(text));
                Ok(None)
            }
            Kind::Open => self.action(nodes),
            Kind::End => {
                self.at -= 1;
                Ok(Some(Ending::Text))
            }
            _ => {
                self.at -= 1;
                Err(self.unexpected("input"))
            }
        }
    }

    /// Reads the action after `{{`.
    fn action(&mut self, nodes: &mut Vec<Node>) -> Result<Option<Ending>> {
        let keyword = match self.peek() {
            Kind::Keyword(keyword) => *keyword,
            _ => "",
        };
        self.at += usize::from(!keyword.is_empty());
        match keyword {
            "end" => {
                self.close("end")?;
                return Ok(Some(Ending::End));
            }
            "else" => {
                // The caller that asked for the list closes `else if` and `else with`.
                if !matches!(self.peek(), Kind::Keyword("if" | "with")) {
                    self.close("else")?;
                }
                return Ok(Some(Ending::Else));
            }
            "if" | "with" | "range" => nodes.push(self.nested(|p| p.control(keyword))?),
            "template" => {
                let name = self.string("template clause")?;
                let argument =
                    if self.eat(&Kind::Close) { None } else { Some(self.pipeline("template clause", &Kind::Close)?) };
                nodes.push(Node::Template { name, argument });
            }
            "block" => {
                let name = self.string("block clause")?;
                let argument = Some(self.pipeline("block clause", &Kind::Close)?);
                let body = self.body_of_own()?;
                self.defines.push((name.clone(), body));
                nodes.push(Node::Template { name, argument });
            }
            "break" | "continue" => {
                self.close(&format!("{{{{{keyword}}}}}"))?;
                if self.ranges == 0 {
                    return Err(self.error(format!("{{{{{keyword}}}}} outside {{{{range}}}}")));
                }
                nodes.push(if keyword == "break" { Node::Break } else { Node::Continue });
            }
            _ => {
                self.at -= usize::from(!keyword.is_empty());
                nodes.push(Node::Action(self.pipeline("command", &Kind::Close)?));
            }
        }
        Ok(None)
    }

    fn control(&mut self, keyword: &'static str) -> Result<Node> {
        let scope = self.variables.len();
        let pipeline = self.pipeline(keyword, &Kind::Close)?;
        self.ranges += usize::from(keyword == "range");
        let listed = self.list();
        self.ranges -= usize::from(keyword == "range");
        let (then, ending) = listed?;
        let mut otherwise = Vec::new();
        if ending == Ending::Else {
            let chained = match self.peek() {
                Kind::Keyword(next @ ("if" | "with")) if *next == keyword => Some(*next),
                Kind::Keyword(_) => return Err(self.unexpected("else")),
                _ => None,
            };
            if let Some(next) = chained {
                // The inner `{{end}}` also ends this structure.
                self.at += 1;
                otherwise.push(self.nested(|p| p.control(next))?);
            } else {
                let (nodes, ending) = self.list()?;
                if ending != Ending::End {
                    return Err(self.error("expected end; found {{else}}"));
                }
                otherwise = nodes;
            }
        }
        self.variables.truncate(scope);
        let branch = Branch { pipeline, then, otherwise };
        Ok(match keyword {
            "if" => Node::If(branch),
            "with" => Node::With(branch),
            _ => Node::Range(branch),
        })
    }

    /// Reads a pipeline and the token that ends it.
    fn pipeline(&mut self, context: &str, end: &Kind) -> Result<Pipeline> {
        let (variables, assigns) = self.declarations(context)?;
        let mut commands: Vec<Command> = Vec::new();
        loop {
            if self.eat(end) {
                break;
            }
            if !self.begins_operand() {
                return Err(self.unexpected(context));
            }
            commands.push(self.command()?);
        }
        if commands.is_empty() {
            return Err(self.error(format!("missing value for {context}")));
        }
        for (i, command) in commands.iter().enumerate().skip(1) {
            let lone_value = matches!(
                command.operands[0],
                Operand::Bool(_) | Operand::Dot | Operand::Nil | Operand::Int(_) | Operand::Float(_) | Operand::Text(_)
            );
            if lone_value {
                return Err(self.error(format!("non executable command in pipeline stage {}", i + 1)));
            }
        }
        Ok(Pipeline { variables, assigns, commands })
    }

    /// `$x :=`, `$x =`, and in a `range` `$i, $x :=`.
    fn declarations(&mut self, context: &str) -> Result<(Vec<String>, bool)> {
        let mut variables = Vec::new();
        loop {
            let Kind::Variable(name) = self.peek().clone() else { return Ok((variables, false)) };
            let after = self.tokens.get(self.at + 1).map(|t| &t.kind);
            match after {
                Some(Kind::Declare | Kind::Assign) => {
                    let assigns = after == Some(&Kind::Assign);
                    self.at += 2;
                    self.variables.push(name.clone());
                    variables.push(name);
                    return Ok((variables, assigns));
                }
                Some(Kind::Comma) => {
                    self.at += 2;
                    self.variables.push(name.clone());
                    variables.push(name);
                    if context != "range" || variables.len() > 1 {
                        return Err(self.error(format!("too many declarations in {context}")));
                    }
                    if !matches!(self.peek(), Kind::Variable(_)) {
                        return Err(self.error("range can only initialize variables"));
                    }
                }
                _ => return Ok((variables, false)),
            }
        }
    }

    fn begins_operand(&self) -> bool {
        matches!(
            self.peek(),
            Kind::Bool(_)
                | Kind::Char(_)
                | Kind::Dot
                | Kind::Field(_)
                | Kind::Identifier(_)
                | Kind::Number(_)
                | Kind::Keyword("nil")
                | Kind::String(_)
                | Kind::Variable(_)
                | Kind::OpenParenthesis
        )
    }

    /// Reads operands up to a pipe, which is taken, or the end of the pipeline, which is not.
    fn command(&mut self) -> Result<Command> {
        let mut operands = Vec::new();
        loop {
            if self.begins_operand() {
                operands.push(self.operand()?);
            }
            if self.eat(&Kind::Pipe) || matches!(self.peek(), Kind::Close | Kind::CloseParenthesis) {
                return Ok(Command { operands });
            }
            if !self.token().spaced || !self.begins_operand() {
                return Err(self.unexpected("operand"));
            }
        }
    }

    fn operand(&mut self) -> Result<Operand> {
        let shown = self.token().text.clone();
        let term = self.term()?;
        let mut fields = Vec::new();
        while !self.token().spaced
            && let Kind::Field(name) = self.peek()
        {
            fields.push(name.clone());
            self.at += 1;
        }
        if fields.is_empty() {
            return Ok(term);
        }
        Ok(match term {
            Operand::Field(mut path) => {
                path.append(&mut fields);
                Operand::Field(path)
            }
            Operand::Variable(name, _) => Operand::Variable(name, fields),
            Operand::Function(_) | Operand::Pipeline(_) => Operand::Chain(Box::new(term), fields),
            _ => return Err(self.error(format!("unexpected . after term {}", Quoted(&shown)))),
        })
    }

    fn term(&mut self) -> Result<Operand> {
        if let Kind::Identifier(name) = self.peek()
            && !FUNCTIONS.contains(&name.as_str())
        {
            return Err(self.error(format!("function {} not defined", Quoted(name))));
        }
        if let Kind::Variable(name) = self.peek()
            && !self.variables.contains(name)
        {
            return Err(self.error(format!("undefined variable {}", Quoted(name))));
        }
        if let Kind::Number(text) = self.peek() {
            let number = number(text).map_err(|message| self.error(message))?;
            self.at += 1;
            return Ok(number);
        }
        Ok(match self.next() {
            Kind::Bool(value) => Operand::Bool(value),
            Kind::Char(code) => Operand::Int(code),
            Kind::Dot => Operand::Dot,
            Kind::Field(name) => Operand::Field(vec![name]),
            Kind::Identifier(name) => Operand::Function(name),
            Kind::Keyword("nil") => Operand::Nil,
            Kind::String(text) => Operand::Text(text),
            Kind::Variable(name) => Operand::Variable(name, Vec::new()),
            Kind::OpenParenthesis => {
                let inner = self.nested(|p| p.pipeline("parenthesized pipeline", &Kind::CloseParenthesis))?;
                Operand::Pipeline(Box::new(inner))
            }
            _ => {
                self.at -= 1;
                return Err(self.unexpected("operand"));
            }
        })
    }
}

/// Parses a number as Go reads constants: an integer unless it has a point or an exponent.
fn number(text: &str) -> Result<Operand, String> {
    let bad = || format!("bad number syntax: {}", Quoted(text));
    let negative = text.starts_with('-');
    let unsigned = text.trim_start_matches(['+', '-']).to_ascii_lowercase();
    let radix = |prefix: &str| unsigned.strip_prefix(prefix).map(|d| d.replace('_', ""));
    let whole = if let Some(digits) = radix("0x").filter(|d| !d.contains(['p', '.'])) {
        Some((digits, 16))
    } else if let Some(digits) = radix("0o") {
        Some((digits, 8))
    } else if let Some(digits) = radix("0b") {
        Some((digits, 2))
    } else if unsigned.contains(['.', 'e', 'p']) {
        None
    } else if unsigned.len() > 1 && unsigned.starts_with('0') {
        Some((unsigned.replace('_', ""), 8))
    } else {
        Some((unsigned.replace('_', ""), 10))
    };
    let Some((digits, radix)) = whole else { return parse_float(text).map(Operand::Float).map_err(|_| bad()) };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(bad());
    }
    let overflow = || format!("integer overflow: {}", Quoted(text));
    let magnitude = i128::from(u64::from_str_radix(&digits, radix).map_err(|_| overflow())?);
    let value = if negative { -magnitude } else { magnitude };
    i64::try_from(value).map(Operand::Int).map_err(|_| overflow())
}

#[cfg(test)]
mod tests;
