//! One pass over rows: which columns it needs, and how it processes a batch.

use std::{collections::HashMap, sync::Arc};

use model::{Batch, Labels, LineNeed, Lines, Matcher, MetadataNeed, MetadataValues, Needs, TimeRange, TimestampNs};

use crate::{
    ast::{Conversion, Grouping, LogExpr, RangeAggregation},
    duration,
    entries::{Entries, EntryKey, FoundEntry},
    error::QueryError,
    grid::{CellCursor, Grid},
    number,
    params::{Direction, Params},
    partial::{Partial, PartialContent, SeriesTable, push_key},
    pipeline::{Category, ERROR, LabelTest, Pipeline, Row, RowError, RowLabels, Rows, Want, columns, parse_bytes},
    scan_id::ScanId,
    states::StateKind,
    stats::ScanStats,
};

/// One pass over the rows of some streams. Cheap to clone; any number of threads may use it, each with a [`Partial`].
#[derive(Clone, Debug)]
pub struct Scan {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    id: ScanId,
    matchers: Vec<Matcher>,
    time: TimeRange,
    needs: Needs,
    pipeline: Pipeline,
    sink: Sink,
}

#[derive(Debug)]
enum Sink {
    Log { direction: Direction, limit: u32 },
    Metric(Box<MetricSink>),
}

/// The parts of a range aggregation besides its log query.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metric {
    pub(crate) kind: StateKind,
    pub(crate) grid: Grid,
    /// Maximum number of series; 0 for no limit.
    pub(crate) series_max: u32,
}

#[derive(Debug)]
struct MetricSink {
    metric: Metric,
    grouping: Keys,
    unwrap: Option<Unwrap>,
    /// Whether errors are kept as a label, because the query groups by `__error__`.
    keeps_errors: bool,
}

/// The labels that identify a series.
#[derive(Debug)]
enum Keys {
    /// Only these, in order.
    By(Vec<String>),
    /// All but these.
    Without(Vec<String>),
}

#[derive(Debug)]
struct Unwrap {
    label: String,
    conversion: Conversion,
    filters: Vec<LabelTest>,
}

impl Scan {
    pub(crate) fn log(log: &LogExpr, params: &Params) -> Result<Self, QueryError> {
        let pipeline = Pipeline::new(&log.stages, Want::All, true)?;
        let needs = Needs { text: pipeline.text().into(), ..Needs::everything() };
        let time = TimeRange::new(params.start, params.end);
        let (direction, limit) = (params.direction, params.limit);
        let sink = Sink::Log { direction, limit };
        let (start, end) = (params.start, params.end);
        let id = ScanId::of(&format!("entries {log}\nfrom {start} to {end}, {limit} {direction:?}"));
        Ok(Self { inner: Arc::new(Inner { id, matchers: log.matchers.clone(), time, needs, pipeline, sink }) })
    }

    pub(crate) fn metric(
        range: &RangeAggregation,
        grouping: Option<&Grouping>,
        metric: Metric,
    ) -> Result<Self, QueryError> {
        let unwrapped = range.unwrap.as_ref().map(|u| u.label.clone());
        let (keys, mut want) = match grouping {
            Some(Grouping { without: false, labels }) => {
                let mut want = Want::Names(Vec::new());
                labels.iter().for_each(|name| want.add(name));
                let Want::Names(names) = &want else { return Err(QueryError::Evaluation("grouping".to_owned())) };
                (Keys::By(names.clone()), want)
            }
            other => {
                let without = other.map(|g| g.labels.clone()).unwrap_or_default();
                (Keys::Without(without.into_iter().chain(unwrapped.clone()).collect()), Want::All)
            }
        };
        let keeps_errors = matches!(&keys, Keys::By(names) if names.iter().any(|n| n == ERROR));
        let unwrap = match &range.unwrap {
            None => None,
            Some(unwrap) => {
                let filters = unwrap.filters.iter().map(LabelTest::new).collect::<Result<Vec<_>, _>>()?;
                want.add(&unwrap.label);
                filters.iter().for_each(|f| f.names(&mut |name| want.add(name)));
                Some(Unwrap { label: unwrap.label.clone(), conversion: unwrap.conversion, filters })
            }
        };
        let measures = metric.kind == StateKind::Bytes;
        let pipeline = Pipeline::new(&range.log.stages, want, measures)?;
        let lines = match (pipeline.reads_line(), measures) {
            (true, _) => LineNeed::Content,
            (false, true) => LineNeed::Lengths,
            (false, false) => LineNeed::None,
        };
        let metadata = metadata_need(pipeline.want(), &range.log.matchers);
        let (start, end) = metric.grid.windows().entries();
        let (labels, states) = (grouping.map(Grouping::to_string), metric.kind.name());
        let values = range.unwrap.as_ref().map(ToString::to_string).unwrap_or_default();
        let id = format!("{states} {} {values}\n{}\n{}", range.log, labels.unwrap_or_default(), metric.grid.key());
        Ok(Self {
            inner: Arc::new(Inner {
                id: ScanId::of(&id),
                matchers: range.log.matchers.clone(),
                time: TimeRange::new(TimestampNs::from_nanos(start), TimestampNs::from_nanos(end)),
                needs: Needs { lines, metadata, offsets: false, text: pipeline.text().into() },
                pipeline,
                sink: Sink::Metric(Box::new(MetricSink { metric, grouping: keys, unwrap, keeps_errors })),
            }),
        })
    }

    /// The identity of this scan, for caches.
    pub fn id(&self) -> ScanId {
        self.inner.id
    }

    /// The scan reads the streams whose labels match all of these.
    pub fn matchers(&self) -> &[Matcher] {
        &self.inner.matchers
    }

    /// The scan ignores rows outside this range.
    pub fn time(&self) -> TimeRange {
        self.inner.time
    }

    /// Returns the columns that batches must have.
    pub fn needs(&self) -> &Needs {
        &self.inner.needs
    }

    /// Creates a partial without rows.
    pub fn partial(&self) -> Partial {
        let found = match &self.inner.sink {
            Sink::Log { direction, limit } => PartialContent::Entries(Entries::new(*direction, *limit)),
            Sink::Metric(sink) => PartialContent::Series(SeriesTable::new(&sink.metric.grid, sink.metric.kind)),
        };
        Partial { stats: ScanStats::default(), found }
    }

    /// Whether a received partial belongs to this scan. Merge it only if it does.
    pub fn fits(&self, partial: &Partial) -> bool {
        match (&self.inner.sink, &partial.found) {
            (Sink::Log { direction, limit }, PartialContent::Entries(entries)) => entries.fits(*direction, *limit),
            (Sink::Metric(sink), PartialContent::Series(table)) => table.fits(&sink.metric.grid, sink.metric.kind),
            _ => false,
        }
    }

    /// Converts a partial of another scan with the same [`Scan::id`] into a partial of this scan. The two queries may
    /// begin and end whole steps apart. Drops states outside this scan's windows. Returns `None` if conversion is
    /// impossible.
    pub fn adopt(&self, other: &Self, found: Partial) -> Option<Partial> {
        if self.id() != other.id() || !other.fits(&found) {
            return None;
        }
        match (&self.inner.sink, &other.inner.sink, found.found) {
            (Sink::Metric(mine), Sink::Metric(other), PartialContent::Series(table)) => {
                let table = table.moved(&other.metric.grid, &mine.metric.grid, self.inner.time);
                Some(Partial { found: PartialContent::Series(table), ..found })
            }
            (_, _, entries) => Some(Partial { found: entries, ..found }),
        }
    }

    /// Returns the time range in which rows can still change the partial of a log query that has reached its limit, or
    /// `None` while every row of [`Scan::time`] can. Readers may skip rows outside it. They must supply rows at its
    /// edges, because equal times are ordered by stream and offset.
    pub fn still_wanted(&self, partial: &Partial) -> Option<TimeRange> {
        let (Sink::Log { direction, .. }, PartialContent::Entries(entries)) = (&self.inner.sink, &partial.found) else {
            return None;
        };
        let bound = entries.bound()?;
        let time = self.inner.time;
        Some(match direction {
            Direction::Backward => TimeRange::new(time.start.max(TimestampNs::from_nanos(bound)), time.end),
            Direction::Forward => {
                TimeRange::new(time.start, time.end.min(TimestampNs::from_nanos(bound.saturating_add(1))))
            }
        })
    }

    /// Adds the rows of a batch. The caller has checked the stream's labels; rows outside [`Scan::time`] are skipped.
    /// For log queries, rows with the same stream and offset must be supplied in order.
    ///
    /// # Errors
    /// If a row's error fails the query, there are too many series, or the batch lacks what the scan needs.
    pub fn accept(&self, batch: &Batch, partial: &mut Partial) -> Result<(), QueryError> {
        let inner = &*self.inner;
        let has_lines = batch.lines.len() == batch.len();
        let has_enough = match inner.needs.lines {
            LineNeed::None => true,
            LineNeed::Lengths => has_lines,
            LineNeed::Content => has_lines && (batch.lines.has_content() || batch.is_empty()),
        };
        if !has_enough {
            let text = format!("a batch of {} rows lacks lines ({} are there)", batch.len(), batch.lines.len());
            return Err(QueryError::Evaluation(text));
        }
        let time = self.still_wanted(partial).unwrap_or(inner.time);
        let rows = Rows::in_time(&batch.timestamps, time.start.nanos(), time.end.nanos());
        partial.stats.lines += rows.len() as u64;
        if rows.is_empty() {
            if let PartialContent::Entries(entries) = &mut partial.found {
                entries.rows_seen += batch.len() as u64;
            }
            return Ok(());
        }
        if inner.needs.lines != LineNeed::None {
            partial.stats.bytes += line_bytes(&batch.lines, &rows);
        }
        partial.stats.metadata_bytes += metadata_bytes(batch);
        let rows = match batch.lines.content() {
            Some(lines) if inner.needs.lines == LineNeed::Content => inner.pipeline.select(lines, rows),
            _ => rows,
        };
        match (&inner.sink, &mut partial.found) {
            (Sink::Log { direction, .. }, PartialContent::Entries(entries)) => {
                partial.stats.post_filter_lines += self.accept_entries(batch, &rows, *direction, entries);
                Ok(())
            }
            (Sink::Metric(sink), PartialContent::Series(table)) => {
                let by_class = !inner.pipeline.has_line_steps() && sink.unwrap.is_none();
                let counter = Counter::new(sink, batch, table);
                let passed = if by_class {
                    counter.by_class(&inner.pipeline, &rows)
                } else {
                    counter.by_row(&inner.pipeline, &rows)
                };
                partial.stats.post_filter_lines += passed?;
                Ok(())
            }
            _ => Err(QueryError::Evaluation("a partial of another query".to_owned())),
        }
    }

    /// Whether [`Scan::count`] may add all rows of one stream at once. This holds if the scan needs only the time of a
    /// row (and its line length, if `line_bytes` is known), and all rows of `time` are in the same windows.
    pub fn counts_whole(&self, time: TimeRange, line_bytes: Option<u64>) -> bool {
        let Sink::Metric(sink) = &self.inner.sink else { return false };
        let needs = &self.inner.needs;
        let lines_are_known = match needs.lines {
            LineNeed::None => true,
            LineNeed::Lengths => line_bytes.is_some(),
            LineNeed::Content => false,
        };
        let is_blind = lines_are_known && needs.metadata == MetadataNeed::None && sink.unwrap.is_none();
        if !is_blind || time.is_empty() {
            return is_blind;
        }
        sink.metric.grid.is_one_cell(time.start.nanos(), time.end.nanos().saturating_sub(1))
    }

    /// Adds `rows` rows of one stream without reading them, with the same result as [`Scan::accept`]. They are in
    /// `time`. Their lines have `line_bytes` bytes in total, which a scan of line lengths needs.
    ///
    /// # Errors
    /// If the labels fail the query, there are too many series, or [`Scan::counts_whole`] does not hold.
    pub fn count(
        &self,
        labels: &Labels,
        rows: u64,
        line_bytes: Option<u64>,
        time: TimeRange,
        partial: &mut Partial,
    ) -> Result<(), QueryError> {
        let inner = &*self.inner;
        if !self.counts_whole(time, line_bytes) {
            return Err(QueryError::Evaluation("this scan cannot count rows that it does not see".to_owned()));
        }
        let (Sink::Metric(sink), PartialContent::Series(table)) = (&inner.sink, &mut partial.found) else {
            return Err(QueryError::Evaluation("a partial of another query".to_owned()));
        };
        if rows == 0 || !time.overlaps(&inner.time) {
            return Ok(());
        }
        let line_bytes = if inner.needs.lines == LineNeed::None { 0 } else { line_bytes.unwrap_or(0) };
        partial.stats.lines += rows;
        partial.stats.bytes += line_bytes;
        let batch = Batch {
            labels: labels.clone(),
            timestamps: vec![time.start.nanos()],
            lines: Lines::Absent,
            metadata: Vec::new(),
            offsets: Vec::new(),
        };
        let counter = Counter::new(sink, &batch, table);
        partial.stats.post_filter_lines += counter.whole(&inner.pipeline, rows, line_bytes)?;
        Ok(())
    }

    /// Returns the number of rows that passed.
    fn accept_entries(&self, batch: &Batch, rows: &Rows, direction: Direction, entries: &mut Entries) -> u64 {
        let columns = columns(batch);
        let mut row = Row::new(RowLabels::new(&batch.labels, &columns));
        let lines = batch.lines.content();
        let first_row = entries.rows_seen;
        entries.rows_seen += batch.len() as u64;
        let mut passed = 0;
        let mut take = |i: usize| {
            let ts = batch.timestamps[i];
            if !entries.wants_time(ts) {
                return;
            }
            let offset = batch.offsets.get(i).copied().unwrap_or(0);
            let key = EntryKey { ts, stream: batch.labels.clone(), offset, row: first_row + i as u64 };
            if !entries.wants(&key) {
                return;
            }
            row.begin(i, lines.map_or(b"", |lines| lines.get(i)));
            if !self.inner.pipeline.run(&mut row) {
                return;
            }
            passed += 1;
            let (mut metadata, mut parsed) = (Vec::new(), Vec::new());
            row.labels.for_each(|category, name, value| match category {
                Category::Stream => {}
                Category::Metadata => metadata.push((name.to_owned(), value.to_owned())),
                Category::Parsed => parsed.push((name.to_owned(), value.to_owned())),
            });
            entries.push(FoundEntry {
                key,
                line: row.line().to_vec(),
                seen: row.labels.stream_labels(),
                metadata,
                parsed,
            });
        };
        // Take the best rows first, so that the rest can be skipped once the limit is reached.
        match direction {
            Direction::Backward => rows.iter().rev().for_each(&mut take),
            Direction::Forward => rows.iter().for_each(&mut take),
        }
        passed
    }
}

/// Returns the metadata keys that may provide one of the needed labels.
fn metadata_need(want: &Want, matchers: &[Matcher]) -> MetadataNeed {
    let Want::Names(wanted) = want else { return MetadataNeed::All };
    let mut names = Vec::new();
    for name in wanted {
        let mut name = name.as_str();
        loop {
            // Every selected stream has this label, so metadata of the same name gets the suffix `_extracted`.
            let is_streams = matchers.iter().any(|m| m.name() == name && !m.matches_empty());
            let is_error = name.starts_with(ERROR.trim_end_matches('_'));
            if !is_streams && !is_error && !names.iter().any(|n| n == name) {
                names.push(name.to_owned());
            }
            let Some(base) = name.strip_suffix("_extracted") else { break };
            name = base;
            // Read the base name from metadata even if a stream label has the same name.
            if !names.iter().any(|n| n == name) {
                names.push(name.to_owned());
            }
        }
    }
    if names.is_empty() { MetadataNeed::None } else { MetadataNeed::Names(names) }
}

fn line_bytes(lines: &Lines, rows: &Rows) -> u64 {
    match rows {
        Rows::Span(span) => lines.bytes_in(span.clone()),
        Rows::List(_) => rows.iter().map(|row| lines.bytes_of(row) as u64).sum(),
    }
}

/// Returns the number of bytes of the metadata values in a batch.
fn metadata_bytes(batch: &Batch) -> u64 {
    let of_column = |values: &MetadataValues| match values {
        MetadataValues::Constant(value) => (value.len() * batch.len()) as u64,
        MetadataValues::Dictionary { dictionary, ids } => {
            let of_row =
                |id: &u32| if *id == MetadataValues::ABSENT { 0 } else { dictionary.bytes_of(*id as usize) as u64 };
            ids.iter().map(of_row).sum()
        }
    };
    batch.metadata.iter().map(|column| of_column(&column.values)).sum()
}

/// Adds the rows of one batch to the series of a range aggregation.
struct Counter<'p, 'b> {
    sink: &'p MetricSink,
    batch: &'b Batch,
    table: &'p mut SeriesTable,
    cursor: CellCursor<'p>,
    passed: u64,
    key: Vec<u8>,
}

impl<'p, 'b> Counter<'p, 'b> {
    fn new(sink: &'p MetricSink, batch: &'b Batch, table: &'p mut SeriesTable) -> Self {
        Self { sink, batch, table, cursor: sink.metric.grid.cursor(), passed: 0, key: Vec::new() }
    }

    /// Counts the only row of the batch `rows` times. All these rows are in the same windows.
    fn whole(mut self, pipeline: &Pipeline, rows: u64, line_bytes: u64) -> Result<u64, QueryError> {
        let mut row = Row::new(RowLabels::new(&self.batch.labels, &[]));
        let Some(series) = self.class(pipeline, &mut row, 0)? else { return Ok(0) };
        self.add(series, self.batch.timestamps[0], rows, line_bytes);
        Ok(rows)
    }

    /// Runs the pipeline once per combination of metadata values. For pipelines whose result depends only on metadata.
    fn by_class(mut self, pipeline: &Pipeline, rows: &Rows) -> Result<u64, QueryError> {
        let batch = self.batch;
        let columns = self.columns(pipeline);
        let ids = |c: &crate::pipeline::Column<'b>| match &c.values.values {
            MetadataValues::Constant(_) => None,
            MetadataValues::Dictionary { dictionary, ids } => Some((dictionary.len(), ids.as_slice())),
        };
        let dictionaries: Vec<(usize, &[u32])> = columns.iter().filter_map(ids).collect();
        let mut row = Row::new(RowLabels::new(&batch.labels, &columns));
        let Some(first) = rows.iter().next() else { return Ok(0) };
        match dictionaries.as_slice() {
            [] => {
                if let Some(series) = self.class(pipeline, &mut row, first)? {
                    self.add_rows(series, rows);
                }
            }
            [(size, ids)] => {
                // One slot for each value. The last one is for rows without a value.
                let mut known: Vec<Option<Option<u32>>> = vec![None; size + 1];
                for i in rows.iter() {
                    let slot = (ids[i] as usize).min(*size);
                    let class = match known[slot] {
                        Some(class) => class,
                        None => {
                            let class = self.class(pipeline, &mut row, i)?;
                            known[slot] = Some(class);
                            class
                        }
                    };
                    if let Some(series) = class {
                        self.add_row(series, i);
                    }
                }
            }
            several => {
                let mut known: HashMap<Vec<u32>, Option<u32>> = HashMap::new();
                let mut last: (Vec<u32>, Option<u32>) = (Vec::new(), None);
                for i in rows.iter() {
                    let is_same = !last.0.is_empty() && several.iter().zip(&last.0).all(|((_, ids), id)| ids[i] == *id);
                    if !is_same {
                        last.0.clear();
                        last.0.extend(several.iter().map(|(_, ids)| ids[i]));
                        last.1 = match known.get(&last.0) {
                            Some(class) => *class,
                            None => {
                                let class = self.class(pipeline, &mut row, i)?;
                                known.insert(last.0.clone(), class);
                                class
                            }
                        };
                    }
                    if let Some(series) = last.1 {
                        self.add_row(series, i);
                    }
                }
            }
        }
        Ok(self.passed)
    }

    /// Returns the metadata columns that may provide a needed label.
    fn columns(&self, pipeline: &Pipeline) -> Vec<crate::pipeline::Column<'b>> {
        let mut columns = columns(self.batch);
        columns.retain(|c| match pipeline.want() {
            Want::All => true,
            Want::Names(names) => names
                .iter()
                .any(|n| n.strip_prefix(&*c.name).is_some_and(|rest| rest.is_empty() || rest == "_extracted")),
        });
        columns
    }

    /// Returns the series of rows with the same metadata as this one, or `None` if the pipeline drops them.
    fn class(&mut self, pipeline: &Pipeline, row: &mut Row<'_>, i: usize) -> Result<Option<u32>, QueryError> {
        row.begin(i, b"");
        if !pipeline.run(row) {
            return Ok(None);
        }
        self.series(&row.labels).map(Some)
    }

    fn by_row(mut self, pipeline: &Pipeline, rows: &Rows) -> Result<u64, QueryError> {
        let batch = self.batch;
        let columns = self.columns(pipeline);
        let mut row = Row::new(RowLabels::new(&batch.labels, &columns));
        let lines = batch.lines.content().filter(|lines| lines.len() == batch.len());
        for i in rows.iter() {
            row.begin(i, lines.map_or(b"", |lines| lines.get(i)));
            if !pipeline.run(&mut row) {
                continue;
            }
            let mut value = None;
            if let Some(unwrap) = &self.sink.unwrap {
                value = unwrap.sample(&mut row.labels);
                if value.is_none() {
                    continue;
                }
            }
            let series = self.series(&row.labels)?;
            self.passed += 1;
            let ts = batch.timestamps[i];
            match value {
                Some(value) => self.add_value(series, ts, value),
                None => self.add(series, ts, 1, row.line().len() as u64),
            }
        }
        Ok(self.passed)
    }

    /// Returns the number of the row's series.
    fn series(&mut self, labels: &RowLabels<'_>) -> Result<u32, QueryError> {
        let sink = self.sink;
        if labels.has_error() && (!sink.keeps_errors || labels.is_sample_error()) {
            let error = labels.get(ERROR).unwrap_or_default().to_owned();
            return Err(QueryError::Pipeline { error, series: labels.to_labels().to_string() });
        }
        self.key.clear();
        match &sink.grouping {
            Keys::By(names) => {
                for name in names {
                    if let Some(value) = labels.get(name) {
                        push_key(&mut self.key, name, value);
                    }
                }
            }
            Keys::Without(names) => {
                let mut pairs = Vec::new();
                labels.for_each(|_, name, value| {
                    if !names.iter().any(|n| n == name) {
                        pairs.push((name, value));
                    }
                });
                pairs.sort_unstable();
                pairs.iter().for_each(|(name, value)| push_key(&mut self.key, name, value));
            }
        }
        let number = self.table.number(&self.key, || labels_of(&self.key));
        let max = sink.metric.series_max;
        if max > 0 && self.table.series.len() > max as usize {
            return Err(QueryError::SeriesLimit(max));
        }
        Ok(number)
    }

    #[inline]
    fn add_row(&mut self, series: u32, i: usize) {
        let bytes = if self.measures() { self.batch.lines.bytes_of(i) as u64 } else { 0 };
        self.add(series, self.batch.timestamps[i], 1, bytes);
        self.passed += 1;
    }

    /// Adds many rows of one series, cell by cell.
    fn add_rows(&mut self, series: u32, rows: &Rows) {
        let Rows::Span(span) = rows else {
            return rows.iter().for_each(|i| self.add_row(series, i));
        };
        let timestamps = &self.batch.timestamps[..span.end];
        let mut from = span.start;
        while from < span.end {
            let first = timestamps[from];
            self.cursor.cell(first);
            let more = timestamps[from..].iter().take_while(|ts| self.cursor.holds(**ts)).count();
            let to = from + more.max(1);
            let bytes = if self.measures() { self.batch.lines.bytes_in(from..to) } else { 0 };
            self.add(series, first, (to - from) as u64, bytes);
            from = to;
        }
        self.passed += span.len() as u64;
    }

    fn measures(&self) -> bool {
        self.sink.metric.kind == StateKind::Bytes
    }

    /// Adds rows to the cell of `ts`. Does nothing if `ts` is in no window.
    #[inline]
    fn add(&mut self, series: u32, ts: i64, rows: u64, bytes: u64) {
        if let Some(cell) = self.cursor.cell(ts) {
            let cells = self.sink.metric.grid.cells();
            self.table.series[series as usize].states.add_rows(cell, cells, rows, bytes);
        }
    }

    fn add_value(&mut self, series: u32, ts: i64, value: f64) {
        if let Some(cell) = self.cursor.cell(ts) {
            let cells = self.sink.metric.grid.cells();
            self.table.series[series as usize].states.add_value(cell, cells, ts, value);
        }
    }
}

impl Unwrap {
    /// Returns the row's value, or `None` if the label is absent or a filter drops the row. A value that does not parse
    /// becomes 0 and sets an error.
    fn sample(&self, labels: &mut RowLabels<'_>) -> Option<f64> {
        let text = labels.get(&self.label).filter(|text| !text.is_empty())?;
        let converted = match self.conversion {
            Conversion::Number => number::parse_float(text),
            Conversion::Duration | Conversion::DurationSeconds => duration::parse_go(text).map(|ns| ns as f64 / 1e9),
            Conversion::Bytes => parse_bytes(text).map(|bytes| bytes as f64),
        };
        let value = converted.unwrap_or_else(|details| {
            labels.set_error(RowError::SampleExtraction, Some(&details));
            0.0
        });
        self.filters.iter().all(|filter| filter.passes(labels)).then_some(value)
    }
}

/// Decodes the labels from a series' key.
fn labels_of(key: &[u8]) -> Labels {
    let mut texts = key.split(|b| *b == 0xff).map(|text| std::str::from_utf8(text).unwrap_or_default());
    let mut pairs = Vec::new();
    while let (Some(name), Some(value)) = (texts.next(), texts.next()) {
        pairs.push((name, value));
    }
    Labels::with_empty_values(pairs)
}
