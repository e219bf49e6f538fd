//! The stages of a query, compiled for rows.
//!
//! Compilation removes work whose result is not used: parsers whose labels nothing reads, and a `line_format` after the
//! last stage that reads the line. Line filters that see the stored line move to the front, where they run on whole
//! batches. The answer does not change, with one exception: as in Loki, errors of a removed parser are not reported.

mod filter;
mod json;
mod labels;
mod line;
mod logfmt;
mod rows;
mod text;
mod unpack;
mod want;

use std::borrow::Cow;

use model::{RegexMode, TextNeed, compile_regex, compile_regex_bytes};

use self::{filter::NameTest, labels::ERROR_DETAILS, line::LineTest, text::text_needs, want::Finder};
pub(crate) use self::{
    filter::{LabelTest, parse_bytes},
    labels::{Category, Column, ERROR, RowError, RowLabels, columns},
    rows::Rows,
    want::Want,
};
use crate::{
    ast::{LabelFormatSource, Stage},
    error::QueryError,
    jsonpath::JsonPath,
    linepattern::CapturePattern,
};

/// A compiled pipeline.
#[derive(Debug)]
pub(crate) struct Pipeline {
    /// Line filters that see the stored line.
    front: Vec<LineTest>,
    /// Conditions that hold for every line that passes `front`.
    text: Vec<TextNeed>,
    /// The other stages, in order.
    steps: Vec<Step>,
    /// The labels needed before the first step.
    want: Want,
}

#[derive(Debug)]
enum Step {
    Line(LineTest, Vec<TextNeed>),
    Json(Want),
    JsonPaths(Vec<(String, JsonPath)>, Want),
    Logfmt(logfmt::Options, Want),
    LogfmtExpressions(Vec<(String, String)>, logfmt::Options, Want),
    Regexp { regex: regex::bytes::Regex, names: Vec<(usize, String)>, want: Want },
    Pattern(CapturePattern, Want),
    Unpack(Want),
    Filter(LabelTest),
    Drop(NameTest),
    Keep(NameTest),
    Rename { from: String, to: String },
    Decolorize(regex::bytes::Regex),
}

impl Step {
    fn reads_line(&self) -> bool {
        !matches!(self, Self::Filter(_) | Self::Drop(_) | Self::Keep(_) | Self::Rename { .. })
    }

    fn changes_line(&self) -> bool {
        matches!(self, Self::Unpack(_) | Self::Decolorize(_))
    }
}

impl Pipeline {
    /// Compiles `stages` for a caller that needs these labels and, if `line_is_needed`, the line.
    pub(crate) fn new(stages: &[Stage], want: Want, line_is_needed: bool) -> Result<Self, QueryError> {
        let mut planner = Planner { want, line_is_needed, steps: Vec::new() };
        for stage in stages.iter().rev() {
            planner.before(stage)?;
        }
        let Planner { want, mut steps, .. } = planner;
        steps.reverse();
        let stored = steps.iter().position(Step::changes_line).unwrap_or(steps.len());
        let mut front = Vec::new();
        let mut rest = Vec::new();
        let mut text = Vec::new();
        for (i, step) in steps.into_iter().enumerate() {
            match step {
                Step::Line(test, needs) if i < stored => {
                    front.push(test);
                    text.extend(needs);
                }
                step => rest.push(step),
            }
        }
        Ok(Self { front, text, steps: rest, want })
    }

    /// Whether the pipeline reads lines.
    pub(crate) fn reads_line(&self) -> bool {
        !self.front.is_empty() || self.has_line_steps()
    }

    /// Whether any stage after the front line filters reads the line. If not, the result for a row depends only on its
    /// labels and metadata.
    pub(crate) fn has_line_steps(&self) -> bool {
        self.steps.iter().any(Step::reads_line)
    }

    /// Conditions that the stored line of every passing row meets.
    pub(crate) fn text(&self) -> &[TextNeed] {
        &self.text
    }

    /// The stream labels and metadata that the pipeline and its caller read.
    pub(crate) fn want(&self) -> &Want {
        &self.want
    }

    /// Runs the front line filters over a batch.
    pub(crate) fn select(&self, lines: &model::ByteColumn, mut rows: Rows) -> Rows {
        for test in &self.front {
            if rows.is_empty() {
                break;
            }
            rows = test.select(lines, rows);
        }
        rows
    }

    /// Runs the remaining stages over one row. Returns false if the row is dropped.
    pub(crate) fn run(&self, row: &mut Row<'_>) -> bool {
        self.steps.iter().all(|step| row.apply(step))
    }
}

/// Walks the stages from last to first and tracks which labels are needed.
struct Planner {
    want: Want,
    line_is_needed: bool,
    steps: Vec<Step>,
}

impl Planner {
    fn before(&mut self, stage: &Stage) -> Result<(), QueryError> {
        let bad = |e: &dyn std::fmt::Display| QueryError::Evaluation(e.to_string());
        match stage {
            Stage::LineFilter(filter) => {
                self.steps.push(Step::Line(LineTest::new(filter)?, text_needs(filter)));
                self.line_is_needed = true;
            }
            Stage::Json(list) if list.is_empty() => {
                if !self.want.is_nothing() {
                    self.parser(Step::Json(self.want.clone()));
                }
            }
            Stage::Json(list) => {
                if self.needs_one(list.iter().map(|e| e.target.as_str())) {
                    let path = |e: &crate::ast::Extraction| {
                        Ok((e.target.clone(), JsonPath::parse(&e.source).map_err(|e| bad(&e))?))
                    };
                    let paths = list.iter().map(path).collect::<Result<_, QueryError>>()?;
                    self.parser(Step::JsonPaths(paths, self.want.clone()));
                }
            }
            Stage::Logfmt { strict, keep_empty, extractions } => {
                let options = logfmt::Options { strict: *strict, keep_empty: *keep_empty };
                if extractions.is_empty() {
                    if !self.want.is_nothing() {
                        self.parser(Step::Logfmt(options, self.want.clone()));
                    }
                } else if self.needs_one(extractions.iter().map(|e| e.target.as_str())) {
                    let list = extractions.iter().map(|e| (e.target.clone(), e.source.clone())).collect();
                    self.parser(Step::LogfmtExpressions(list, options, self.want.clone()));
                }
            }
            Stage::Regexp(pattern) => {
                let regex = compile_regex_bytes(pattern, RegexMode::Search).map_err(|e| bad(&e))?;
                let named = |(i, name): (usize, Option<&str>)| name.map(|n| (i, n.to_owned()));
                let names: Vec<_> = regex.capture_names().enumerate().filter_map(named).collect();
                if self.needs_one(names.iter().map(|(_, n)| n.as_str())) {
                    self.parser(Step::Regexp { regex, names, want: self.want.clone() });
                }
            }
            Stage::Pattern(pattern) => {
                let pattern = CapturePattern::parse(pattern).map_err(|e| bad(&e))?;
                if self.needs_one(pattern.names()) {
                    self.parser(Step::Pattern(pattern, self.want.clone()));
                }
            }
            Stage::Unpack => {
                if self.line_is_needed || !self.want.is_nothing() {
                    self.parser(Step::Unpack(self.want.clone()));
                }
            }
            Stage::LabelFilter(filter) => {
                let test = LabelTest::new(filter)?;
                test.names(&mut |name| self.want.add(name));
                self.steps.push(Step::Filter(test));
            }
            Stage::Drop(items) => {
                let test = NameTest::new(items);
                test.names(&mut |name| self.want.add(name));
                self.steps.push(Step::Drop(test));
            }
            Stage::Keep(items) => {
                let test = NameTest::new(items);
                test.names(&mut |name| self.want.add(name));
                self.steps.push(Step::Keep(test));
            }
            Stage::LabelFormat(items) => {
                // Reversed, because the planner walks backwards.
                for item in items.iter().rev() {
                    let LabelFormatSource::Label(from) = &item.source else {
                        return Err(QueryError::NotEvaluated(
                            "`| label_format` with a template is not evaluated yet".to_owned(),
                        ));
                    };
                    self.want.add(from);
                    self.steps.push(Step::Rename { from: from.clone(), to: item.target.clone() });
                }
            }
            Stage::LineFormat(_) => {
                if self.line_is_needed {
                    return Err(QueryError::NotEvaluated("`| line_format` is not evaluated yet".to_owned()));
                }
            }
            Stage::Decolorize => {
                if self.line_is_needed {
                    // Terminal control sequences: CSI, OSC and single escapes, also with the 8-bit introducer.
                    let sequences = "[\u{1b}\u{9b}][\\[\\]()#;?]*(?:(?:(?:[a-zA-Z0-9]*(?:;[a-zA-Z0-9]*)*)?\u{7})|\
                                     (?:(?:[0-9]{1,4}(?:;[0-9]{0,4})*)?[0-9A-PRZcf-ntqry=><~]))";
                    let regex = regex::bytes::Regex::new(sequences).map_err(|e| bad(&e))?;
                    self.steps.push(Step::Decolorize(regex));
                }
            }
        }
        Ok(())
    }

    fn parser(&mut self, step: Step) {
        self.steps.push(step);
        self.line_is_needed = true;
    }

    /// Whether one of these parsed labels, or an error from parsing them, is needed.
    fn needs_one<'n>(&self, mut targets: impl Iterator<Item = &'n str>) -> bool {
        self.want.has(ERROR)
            || self.want.has(ERROR_DETAILS)
            || targets.any(|t| self.want.has(t) || self.want.has(&format!("{t}_extracted")))
    }
}

/// One row and its state in the pipeline.
pub(crate) struct Row<'b> {
    pub(crate) labels: RowLabels<'b>,
    stored: &'b [u8],
    buffer: Vec<u8>,
    is_changed: bool,
}

impl<'b> Row<'b> {
    pub(crate) fn new(labels: RowLabels<'b>) -> Self {
        Self { labels, stored: b"", buffer: Vec::new(), is_changed: false }
    }

    /// Starts row `row` of the batch with its stored line.
    pub(crate) fn begin(&mut self, row: usize, line: &'b [u8]) {
        self.labels.begin(row);
        self.stored = line;
        self.is_changed = false;
    }

    /// The current line, as changed by the stages so far.
    pub(crate) fn line(&self) -> &[u8] {
        if self.is_changed { &self.buffer } else { self.stored }
    }

    fn apply(&mut self, step: &Step) -> bool {
        let line = if self.is_changed { self.buffer.as_slice() } else { self.stored };
        let labels = &mut self.labels;
        match step {
            Step::Line(test, _) => return test.passes(line),
            Step::Json(want) => json::fields(line, want, labels),
            Step::JsonPaths(paths, want) => json::paths(line, paths, want, labels),
            Step::Logfmt(options, want) => logfmt::fields(line, *options, want, labels),
            Step::LogfmtExpressions(list, options, want) => logfmt::expressions(line, list, *options, want, labels),
            Step::Regexp { regex, names, want } => {
                if let Some(found) = regex.captures(line) {
                    let mut finder = Finder::new(labels, want);
                    for (group, name) in names {
                        finder.found(name, || {
                            found.get(*group).map_or(Cow::Borrowed(""), |m| want::to_text(m.as_bytes()))
                        });
                    }
                }
            }
            Step::Pattern(pattern, want) => {
                let mut finder = Finder::new(labels, want);
                pattern.captures(line, |name, value| finder.found(name, || want::to_text(value)));
            }
            Step::Unpack(want) => {
                if let Some(entry) = unpack::unpack(line, want, labels) {
                    self.buffer = entry;
                    self.is_changed = true;
                }
            }
            Step::Filter(test) => return test.passes(labels),
            Step::Drop(test) => test.drop(labels),
            Step::Keep(test) => test.keep(labels),
            Step::Rename { from, to } => {
                if let Some(value) = labels.get(from).map(str::to_owned) {
                    labels.set(to, &value);
                    labels.remove(from);
                }
            }
            Step::Decolorize(regex) => {
                if let Cow::Owned(plain) = regex.replace_all(line, &b""[..]) {
                    self.buffer = plain;
                    self.is_changed = true;
                }
            }
        }
        true
    }
}

/// Compiles a regex that must match the whole value of a label.
pub(crate) fn whole_regex(pattern: &str) -> Result<regex::Regex, QueryError> {
    compile_regex(pattern, RegexMode::Whole).map_err(|e| QueryError::Evaluation(e.to_string()))
}
