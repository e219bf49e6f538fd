//! Column `ts`: the time of each row, in nanoseconds since the epoch. Every scan reads it.

use std::{
    collections::{HashMap, hash_map::Entry},
    ops::Range,
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, AsArray, TimestampNanosecondArray},
    datatypes::{DataType, Field, TimeUnit, TimestampNanosecondType},
};
use model::{Batch, Needs, TimeRange};
use parquet::{
    basic::Encoding,
    file::properties::{DeltaBinaryPackedEncoderOptions, EnabledStatistics, WriterPropertiesBuilder},
    schema::types::ColumnPath,
};

use super::{
    column::{
        Column, ColumnReader, ColumnWriter, NewRow, PageFacts, RowWriter, ScannedRows, StoredRows, check_equal,
        wrong_type,
    },
    integers::{read_page, renew},
    pages::{LeafPages, Page, PageSource},
};
use crate::{
    BlockError, BlockOptions,
    page::PageReader,
    table::{Group, GroupRows},
};

const NAME: &str = "ts";

#[derive(Debug)]
pub(crate) struct TimestampColumn;

impl Column for TimestampColumn {
    fn field(&self) -> Field {
        Field::new(NAME, DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())), false)
    }

    fn leaf_names(&self) -> Vec<String> {
        vec![NAME.to_owned()]
    }

    fn properties(
        &self,
        _: &BlockOptions,
        builder: WriterPropertiesBuilder,
    ) -> Result<WriterPropertiesBuilder, BlockError> {
        let path = ColumnPath::from(NAME);
        // The step back in time from one stream to the next widens a whole block of differences, so blocks are as small as
        // Parquet allows.
        let blocks = DeltaBinaryPackedEncoderOptions::try_new(128, 4)?;
        Ok(builder
            .set_column_encoding(path.clone(), Encoding::DELTA_BINARY_PACKED)
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_delta_binary_packed_encoder_options(path.clone(), blocks)
            .set_column_statistics_enabled(path, EnabledStatistics::Page))
    }

    fn page_facts(&self) -> PageFacts {
        PageFacts::Bounds
    }

    fn reader(&self, _: &Needs, _: &Group) -> Option<Box<dyn ColumnReader>> {
        Some(Box::new(TimestampReader::default()))
    }

    fn check(&self, array: &ArrayRef, scanned: &ScannedRows<'_>, stored: &mut StoredRows) -> Result<(), BlockError> {
        let array = array.as_primitive_opt::<TimestampNanosecondType>().ok_or_else(|| wrong_type(NAME))?;
        stored.timestamps.extend_from_slice(array.values());
        check_equal(NAME, **array.values() == scanned.batch.timestamps[scanned.rows.clone()])
    }
}

/// Timestamps that wait to be encoded.
#[derive(Debug)]
pub(crate) struct TimestampWriter(Vec<i64>);

impl RowWriter for TimestampWriter {
    fn new(_: &BlockOptions, _: &[Arc<str>]) -> Result<Self, BlockError> {
        Ok(Self(Vec::new()))
    }

    #[inline]
    fn push(&mut self, row: &NewRow<'_>) -> Result<usize, BlockError> {
        self.0.push(row.ts);
        Ok(0)
    }

    fn column_writers(&mut self) -> Vec<&mut dyn ColumnWriter> {
        vec![self]
    }
}

impl ColumnWriter for TimestampWriter {
    fn take_rows(&mut self, _: usize, _: &mut GroupRows) -> Result<Option<ArrayRef>, BlockError> {
        Ok(Some(Arc::new(TimestampNanosecondArray::from(renew(&mut self.0)).with_timezone("UTC"))))
    }
}

/// Reads timestamps and cuts rows to a range of time.
#[derive(Debug, Default)]
struct TimestampReader {
    /// Decoded pages, among them those that were decoded to cut rows that have yet to be read.
    pages: HashMap<usize, Vec<i64>>,
}

impl ColumnReader for TimestampReader {
    fn holds(&self, _: usize, page: usize) -> bool {
        self.pages.contains_key(&page)
    }

    fn holds_dictionary(&self, _: usize) -> bool {
        false
    }

    fn read(&mut self, source: &mut PageSource<'_>, batch: &mut Batch) -> Result<(), BlockError> {
        let (index, rows) = source.place(0)?;
        self.pages.retain(|held, _| *held >= index);
        let times = match self.pages.entry(index) {
            Entry::Occupied(held) => held.into_mut(),
            Entry::Vacant(vacant) => {
                let page = source.page(0, index)?;
                vacant.insert(read_page(source.decoder, &page, None)?)
            }
        };
        batch.timestamps = times[rows].to_vec();
        Ok(())
    }

    fn pages_to_cut(&self, pages: &LeafPages, rows: &Range<u32>, time: &TimeRange) -> Vec<usize> {
        let overlaps = |page: &usize| {
            let (min, max) = pages.bounds[*page];
            min < time.end.nanos() && time.start.nanos() <= max
        };
        pages.of_rows(rows).filter(overlaps).collect()
    }

    fn load_to_cut(&mut self, page: &Page<'_>, decoder: &mut PageReader) -> Result<(), BlockError> {
        self.pages.insert(page.index, read_page(decoder, page, None)?);
        Ok(())
    }

    /// Rows of pages that were not decoded lie outside, as the pages' bounds said.
    fn cut(&self, pages: &LeafPages, rows: Range<u32>, time: &TimeRange) -> Range<u32> {
        let mut kept: Option<Range<u32>> = None;
        for page in pages.of_rows(&rows) {
            let Some(values) = self.pages.get(&page) else {
                continue;
            };
            let page_rows = &pages.pages[page].rows;
            let rows = rows.start.max(page_rows.start)..rows.end.min(page_rows.end);
            let values = &values[(rows.start - page_rows.start) as usize..(rows.end - page_rows.start) as usize];
            let first = rows.start + values.partition_point(|ts| *ts < time.start.nanos()) as u32;
            let last = rows.start + values.partition_point(|ts| *ts < time.end.nanos()) as u32;
            if first < last {
                let start = kept.map_or(first, |kept| kept.start);
                kept = Some(start..last);
            }
        }
        kept.unwrap_or(0..0)
    }
}
