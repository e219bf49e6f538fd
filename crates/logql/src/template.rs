//! Templates of `line_format` and `label_format`: the syntax of Go's `text/template`.

mod lexer;
mod parse;

use std::fmt;

/// The functions that templates may call: Go's own and LogQL's.
pub(crate) const FUNCTIONS: &[&str] = &[
    // Go's.
    "and",
    "call",
    "eq",
    "ge",
    "gt",
    "html",
    "index",
    "js",
    "le",
    "len",
    "lt",
    "ne",
    "not",
    "or",
    "print",
    "printf",
    "println",
    "slice",
    "urlquery",
    // LogQL's.
    "ToLower",
    "ToUpper",
    "Replace",
    "Trim",
    "TrimLeft",
    "TrimRight",
    "TrimPrefix",
    "TrimSuffix",
    "TrimSpace",
    "__line__",
    "__timestamp__",
    "add",
    "addf",
    "alignLeft",
    "alignRight",
    "b64dec",
    "b64enc",
    "bytes",
    "ceil",
    "contains",
    "count",
    "date",
    "default",
    "div",
    "divf",
    "duration",
    "duration_seconds",
    "float64",
    "floor",
    "fromJson",
    "hasPrefix",
    "hasSuffix",
    "indent",
    "int",
    "lower",
    "max",
    "maxf",
    "min",
    "minf",
    "mod",
    "mul",
    "mulf",
    "nindent",
    "now",
    "regexReplaceAll",
    "regexReplaceAllLiteral",
    "repeat",
    "replace",
    "round",
    "sub",
    "subf",
    "substr",
    "title",
    "toDate",
    "toDateInZone",
    "trim",
    "trimAll",
    "trimPrefix",
    "trimSuffix",
    "trunc",
    "unixEpoch",
    "unixEpochMillis",
    "unixEpochNanos",
    "unixToTime",
    "upper",
    "urldecode",
    "urlencode",
];

/// A parsed template.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Template {
    /// The nodes to render.
    pub(crate) root: Vec<Node>,
    /// Templates defined inside it by `define` or `block`. If a name is defined twice, the last definition counts.
    pub(crate) defines: Vec<(String, Vec<Node>)>,
}

/// A piece of a template.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Node {
    /// Text, already trimmed.
    Text(String),
    /// `{{ pipeline }}`; prints its value unless it declares or assigns.
    Action(Pipeline),
    /// `{{if}}`: renders `then` if the value is true (in Go: not empty).
    If(Branch),
    /// `{{with}}`: like `if`, with dot set to the value inside `then`.
    With(Branch),
    /// `{{range}}`: renders `then` for each element, or `otherwise` if there are no elements.
    Range(Branch),
    /// `{{template "name" pipeline}}`
    Template {
        /// The name of the template to render.
        name: String,
        /// The value of its dot; nil if `None`.
        argument: Option<Pipeline>,
    },
    /// `{{break}}`
    Break,
    /// `{{continue}}`
    Continue,
}

/// A control structure.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Branch {
    pub(crate) pipeline: Pipeline,
    pub(crate) then: Vec<Node>,
    /// The nodes after `else`. An `else if` is an `If` in here.
    pub(crate) otherwise: Vec<Node>,
}

/// `$x := command | command …`
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pipeline {
    /// Variables that receive the value, with their `$`. A `range` may have two: index and element.
    pub(crate) variables: Vec<String>,
    /// True for `=`, false for `:=`.
    pub(crate) assigns: bool,
    /// At least one command. The value of each is the last argument of the next.
    pub(crate) commands: Vec<Command>,
}

/// A function with its arguments, or a lone value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Command {
    /// At least one operand.
    pub(crate) operands: Vec<Operand>,
}

/// A value in a command.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand {
    /// `.`
    Dot,
    /// `nil`
    Nil,
    /// `true`, `false`
    Bool(bool),
    /// `"…"`, or raw between backticks
    Text(String),
    /// A whole number, or a character.
    Int(i64),
    /// A number with a point or an exponent.
    Float(f64),
    /// `.a.b`
    Field(Vec<String>),
    /// `$x.a.b`; the name has its `$`, the root is `$` alone.
    Variable(String, Vec<String>),
    /// A function's name, one of [`FUNCTIONS`].
    Function(String),
    /// `( … )`
    Pipeline(Box<Pipeline>),
    /// Fields of the value of a function or parentheses.
    Chain(Box<Operand>, Vec<String>),
}

/// Why a text is not a valid template, such as `template: line:1: function "x" not defined`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TemplateError(String);

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
