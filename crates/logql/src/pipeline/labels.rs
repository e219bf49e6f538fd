//! The labels of one row while it passes the pipeline.
//!
//! Stream labels and metadata are borrowed from the batch. Values the pipeline creates go to one text buffer, which the
//! next row reuses, so that rows need no allocations.
//!
//! If two labels have the same name, the stream label keeps it; otherwise metadata keeps it over a parsed label. The
//! other label appears as `<name>_extracted`; there, parsed values take precedence over metadata. A dropped stream
//! label still occupies its name.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
};

use model::{Batch, Labels, MetadataColumn};

/// The label that names an error of the pipeline.
pub(crate) const ERROR: &str = "__error__";
/// The label that holds the details of that error.
pub(crate) const ERROR_DETAILS: &str = "__error_details__";

/// An error on one row. The row stays in the pipeline, with the error labels set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowError {
    Json,
    Logfmt,
    LabelFilter,
    SampleExtraction,
}

impl RowError {
    fn as_str(self) -> &'static str {
        match self {
            Self::Json => "JSONParserErr",
            Self::Logfmt => "LogfmtParserErr",
            Self::LabelFilter => "LabelFilterErr",
            Self::SampleExtraction => "SampleExtractionErr",
        }
    }
}

/// Where a label comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Category {
    Stream,
    Metadata,
    Parsed,
}

/// A metadata column and the label name under which it is visible.
#[derive(Debug)]
pub(crate) struct Column<'b> {
    pub(crate) name: Cow<'b, str>,
    pub(crate) values: &'b MetadataColumn,
    renamed: bool,
}

/// Returns the metadata columns of a batch. Columns that keep their name come before renamed ones.
pub(crate) fn columns(batch: &Batch) -> Vec<Column<'_>> {
    let column = |values| -> Column<'_> {
        let values: &MetadataColumn = values;
        let renamed = batch.labels.get(&values.name).is_some();
        let name = if renamed { format!("{}_extracted", values.name).into() } else { Cow::Borrowed(&*values.name) };
        Column { name, values, renamed }
    };
    let mut columns: Vec<Column<'_>> = batch.metadata.iter().map(column).collect();
    columns.sort_by_key(|c| c.renamed);
    columns
}

/// A piece of [`RowLabels::text`].
#[derive(Clone, Copy, Debug)]
struct Piece {
    start: u32,
    end: u32,
}

/// A stream label or a column that is hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hidden {
    Stream(usize),
    Column(usize),
}

/// Maximum number of parsed labels that are searched linearly. Beyond it, an index is used.
const FEW: usize = 32;

/// The labels of one row. See the module.
pub(crate) struct RowLabels<'b> {
    stream: &'b Labels,
    columns: &'b [Column<'b>],
    row: usize,
    hidden: Vec<Hidden>,
    text: String,
    parsed: Vec<(Piece, Piece)>,
    /// Positions in `parsed` by name. Used once there are more than [`FEW`].
    index: HashMap<Box<str>, usize>,
    deleted: HashSet<Box<str>>,
    error: Option<RowError>,
    details: Option<Piece>,
}

impl<'b> RowLabels<'b> {
    pub(crate) fn new(stream: &'b Labels, columns: &'b [Column<'b>]) -> Self {
        Self {
            stream,
            columns,
            row: 0,
            hidden: Vec::new(),
            text: String::new(),
            parsed: Vec::new(),
            index: HashMap::new(),
            deleted: HashSet::new(),
            error: None,
            details: None,
        }
    }

    /// Starts a new row and discards the previous one.
    pub(crate) fn begin(&mut self, row: usize) {
        self.row = row;
        self.hidden.clear();
        self.text.clear();
        self.parsed.clear();
        self.index.clear();
        self.deleted.clear();
        self.error = None;
        self.details = None;
    }

    fn put(&mut self, text: &str) -> Piece {
        let start = self.text.len() as u32;
        self.text.push_str(text);
        Piece { start, end: self.text.len() as u32 }
    }

    fn piece(&self, piece: Piece) -> &str {
        &self.text[piece.start as usize..piece.end as usize]
    }

    fn find_parsed(&self, name: &str) -> Option<usize> {
        if self.parsed.len() > FEW {
            return self.index.get(name).copied();
        }
        self.parsed.iter().position(|(n, _)| self.piece(*n) == name)
    }

    /// Adds a parsed label. The row must not have one of this name yet.
    fn push_parsed(&mut self, name: &str, value: Piece) {
        let piece = self.put(name);
        self.parsed.push((piece, value));
        match self.parsed.len() - 1 {
            last if last < FEW => {}
            FEW => {
                let place = |(i, (n, _)): (usize, &(Piece, Piece))| (self.piece(*n).into(), i);
                self.index = self.parsed.iter().enumerate().map(place).collect();
            }
            last => {
                self.index.insert(name.into(), last);
            }
        }
    }

    fn remove_parsed(&mut self, i: usize) {
        let (name, _) = self.parsed.swap_remove(i);
        if self.parsed.len() < FEW {
            return;
        }
        let name = self.text[name.start as usize..name.end as usize].to_owned();
        self.index.remove(name.as_str());
        if let Some((moved, _)) = self.parsed.get(i) {
            let moved = &self.text[moved.start as usize..moved.end as usize];
            if let Some(place) = self.index.get_mut(moved) {
                *place = i;
            }
        }
    }

    /// Returns the column that is visible as `name` on this row. A hidden column no longer occupies its name.
    fn find_column(&self, name: &str) -> Option<(usize, &'b str)> {
        let seen = |(i, c): (usize, &'b Column<'b>)| {
            let value = if c.name == name { c.values.values.get(self.row)? } else { return None };
            (!self.hidden.contains(&Hidden::Column(i))).then_some((i, value))
        };
        self.columns.iter().enumerate().find_map(seen)
    }

    fn find_stream(&self, name: &str) -> Option<&'b str> {
        let value = self.stream.get(name)?;
        if self.hidden.is_empty() {
            return Some(value);
        }
        let index = self.stream.iter().position(|(n, _)| n == name)?;
        (!self.hidden.contains(&Hidden::Stream(index))).then_some(value)
    }

    /// Returns the value of a label.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        match (self.error, self.details) {
            (Some(error), _) if name == ERROR => return Some(error.as_str()),
            (_, Some(details)) if name == ERROR_DETAILS => return Some(self.piece(details)),
            _ => {}
        }
        if let Some(i) = self.find_parsed(name) {
            return Some(self.piece(self.parsed[i].1));
        }
        self.find_stream(name).or_else(|| self.find_column(name).map(|(_, value)| value))
    }

    /// Whether a parsed value of this name would be renamed to `<name>_extracted`.
    pub(crate) fn is_taken(&self, name: &str) -> bool {
        self.stream.get(name).is_some() || self.find_column(name).is_some_and(|(i, _)| !self.columns[i].renamed)
    }

    /// Whether the row has a parsed label of this name.
    pub(crate) fn is_parsed(&self, name: &str) -> bool {
        self.find_parsed(name).is_some()
    }

    /// Sets a value that a parser extracted, under its final name. Returns false if the name is already parsed or was
    /// dropped.
    pub(crate) fn extract(&mut self, name: &str, value: &str) -> bool {
        if self.is_parsed(name) || (!self.deleted.is_empty() && self.deleted.contains(name)) {
            return false;
        }
        let value = self.put(value);
        self.push_parsed(name, value);
        true
    }

    /// Sets a label and replaces any earlier value.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.hide(name);
        self.deleted.remove(name);
        let value = self.put(value);
        match self.find_parsed(name) {
            Some(i) => self.parsed[i].1 = value,
            None => self.push_parsed(name, value),
        }
    }

    /// Hides the stream label and the metadata of this name.
    fn hide(&mut self, name: &str) {
        let index = self.find_stream(name).and_then(|_| self.stream.iter().position(|(n, _)| n == name));
        self.hidden.extend(index.map(Hidden::Stream));
        while let Some((index, _)) = self.find_column(name) {
            self.hidden.push(Hidden::Column(index));
        }
    }

    /// Drops a label. Later parsers do not set it again.
    pub(crate) fn remove(&mut self, name: &str) {
        match name {
            ERROR => self.error = None,
            ERROR_DETAILS => self.details = None,
            _ => {}
        }
        self.hide(name);
        if let Some(i) = self.find_parsed(name) {
            self.remove_parsed(i);
        }
        self.deleted.insert(name.into());
    }

    /// Whether the row has an error, set by the pipeline, the line or the metadata.
    pub(crate) fn has_error(&self) -> bool {
        self.error.is_some() || self.get(ERROR).is_some_and(|e| !e.is_empty())
    }

    /// Whether a value could not be turned into a sample.
    pub(crate) fn is_sample_error(&self) -> bool {
        self.error == Some(RowError::SampleExtraction)
    }

    /// Sets the error labels.
    pub(crate) fn set_error(&mut self, error: RowError, details: Option<&str>) {
        self.error = Some(error);
        self.details = details.map(|text| self.put(text));
    }

    /// Calls `found` with every label, each name once, in no particular order.
    pub(crate) fn for_each<'s>(&'s self, mut found: impl FnMut(Category, &'s str, &'s str)) {
        for (i, (name, value)) in self.stream.iter().enumerate() {
            if !self.hidden.contains(&Hidden::Stream(i)) && !(self.is_overlaid(name)) {
                found(Category::Stream, name, value);
            }
        }
        let mut any = false;
        for (i, column) in self.columns.iter().enumerate() {
            if self.hidden.contains(&Hidden::Column(i)) || self.is_overlaid(&column.name) {
                continue;
            }
            let Some(value) = column.values.values.get(self.row) else { continue };
            // If two columns have the same name, only the first one with a value is visible.
            if column.renamed && self.find_column(&column.name).is_some_and(|(first, _)| first != i) {
                continue;
            }
            if self.stream.get(&column.name).is_some() && self.find_stream(&column.name).is_some() {
                continue;
            }
            any = true;
            found(Category::Metadata, &column.name, value);
        }
        for (name, value) in &self.parsed {
            let name = self.piece(*name);
            if (name == ERROR && self.error.is_some()) || (name == ERROR_DETAILS && self.details.is_some()) {
                continue;
            }
            any = true;
            found(Category::Parsed, name, self.piece(*value));
        }
        if let Some(error) = self.error {
            found(Category::Parsed, ERROR, error.as_str());
        }
        if let Some(details) = self.details {
            // Loki discards the details of a dropped error unless the entry has labels besides the stream's.
            if self.error.is_some() || any {
                found(Category::Parsed, ERROR_DETAILS, self.piece(details));
            }
        }
    }

    /// Whether a parsed label or an error hides the stream label or metadata of this name.
    fn is_overlaid(&self, name: &str) -> bool {
        self.is_parsed(name)
            || (name == ERROR && self.error.is_some())
            || (name == ERROR_DETAILS && self.details.is_some())
    }

    /// Returns all labels as one set.
    pub(crate) fn to_labels(&self) -> Labels {
        let mut pairs = Vec::new();
        self.for_each(|_, name, value| pairs.push((name, value)));
        Labels::with_empty_values(pairs)
    }

    /// Returns the stream's labels that are still visible.
    pub(crate) fn stream_labels(&self) -> Labels {
        let mut seen = Vec::new();
        self.for_each(|category, name, value| {
            if category == Category::Stream {
                seen.push((name, value));
            }
        });
        if seen.len() == self.stream.len() { self.stream.clone() } else { Labels::with_empty_values(seen) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use model::{Lines, MetadataValues};

    use super::*;

    fn batch(metadata: &[(&str, &str)]) -> Batch {
        let column = |&(name, value): &(&str, &str)| MetadataColumn {
            name: name.into(),
            values: MetadataValues::Constant(Arc::from(value)),
        };
        Batch {
            labels: Labels::from_pairs([("app", "a"), ("k", "stream")]),
            timestamps: vec![1],
            lines: Lines::Absent,
            metadata: metadata.iter().map(column).collect(),
            offsets: vec![],
        }
    }

    #[test]
    fn names_are_taken_in_order() {
        let batch = batch(&[("k", "meta"), ("m", "1")]);
        let columns = columns(&batch);
        let mut row = RowLabels::new(&batch.labels, &columns);
        row.begin(0);
        assert_eq!(row.to_labels().to_string(), r#"{app="a", k="stream", k_extracted="meta", m="1"}"#);
        assert!(row.is_taken("k") && row.is_taken("m") && !row.is_taken("k_extracted"));
        assert!(row.extract("k_extracted", "parsed"));
        assert!(!row.extract("k_extracted", "again"));
        assert_eq!(row.to_labels().to_string(), r#"{app="a", k="stream", k_extracted="parsed", m="1"}"#);
        row.remove("k");
        assert_eq!(row.get("k"), None);
        assert!(row.is_taken("k") && !row.extract("k", "x"));
        row.set("k", "set");
        row.set("app", "b");
        assert_eq!(row.to_labels().to_string(), r#"{app="b", k="set", k_extracted="parsed", m="1"}"#);
        assert_eq!(row.stream_labels(), Labels::empty());
        row.set_error(RowError::Json, Some("why"));
        assert_eq!((row.get(ERROR), row.get(ERROR_DETAILS)), (Some("JSONParserErr"), Some("why")));
        row.begin(0);
        assert_eq!(row.stream_labels(), batch.labels);
    }

    #[test]
    fn many_labels() {
        let batch = batch(&[]);
        let mut row = RowLabels::new(&batch.labels, &[]);
        for _ in 0..2 {
            row.begin(0);
            for i in 0..100 {
                assert!(row.extract(&format!("l{i}"), &i.to_string()));
                assert!(!row.extract(&format!("l{}", i / 2), "again"));
            }
            for i in (0..100).step_by(3) {
                row.remove(&format!("l{i}"));
            }
            for i in 0..100 {
                let value = i.to_string();
                let name = format!("l{i}");
                assert_eq!(row.get(&name), (i % 3 != 0).then_some(value.as_str()), "{name}");
                assert!(!row.extract(&name, "again"));
            }
            for i in 0..90 {
                row.set(&format!("l{i}"), "x");
                row.remove(&format!("l{}", 99 - i));
            }
            assert_eq!((row.get("l5"), row.get("l50"), row.get("l95")), (Some("x"), Some("x"), None));
        }
    }

    #[test]
    fn details_alone() {
        let batch = batch(&[]);
        let mut row = RowLabels::new(&batch.labels, &[]);
        row.begin(0);
        row.set_error(RowError::Json, Some("why"));
        row.remove(ERROR);
        assert_eq!(row.to_labels(), batch.labels);
        row.extract("x", "1");
        assert_eq!(row.to_labels().to_string(), r#"{__error_details__="why", app="a", k="stream", x="1"}"#);
    }
}
