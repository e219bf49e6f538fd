//! The statistics of an answer, in Loki's shape.

use std::time::Duration;

use reading::ReadStats;
use serde_json::{Value, json};

/// The statistics of an answer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AnswerStats {
    /// What the read cost.
    pub(crate) read: ReadStats,
    /// Time from the start of the work to the answer.
    pub(crate) exec_time: Duration,
    /// Time before the start of the work.
    pub(crate) queue_time: Duration,
    /// Number of entries or samples in the answer.
    pub(crate) entries_returned: u64,
}

impl AnswerStats {
    /// Bytes per second of execution.
    pub(crate) fn bytes_per_second(&self) -> u64 {
        per_second(self.read.bytes, self.exec_time)
    }

    /// Loki's statistics object. Members that have no counterpart here are 0.
    pub(crate) fn to_json(self) -> Value {
        let read = &self.read;
        let exec_time = self.exec_time.as_secs_f64();
        let block_lines = read.lines - read.memory_lines.min(read.lines);
        let block_bytes = read.bytes - read.memory_bytes.min(read.bytes);
        let cache = |found: u64, requested: u64, bytes: u64| {
            json!({
                "entriesFound": found, "entriesRequested": requested, "entriesStored": requested - found.min(requested),
                "bytesReceived": bytes, "bytesSent": 0, "requests": requested, "downloadTime": 0, "queryLengthServed": 0,
            })
        };
        let dataobj = json!({
            "prePredicateDecompressedRows": 0, "prePredicateDecompressedBytes": 0,
            "prePredicateDecompressedStructuredMetadataBytes": 0, "postPredicateRows": 0,
            "postPredicateDecompressedBytes": 0, "postPredicateStructuredMetadataBytes": 0, "postFilterRows": 0,
            "pagesScanned": 0, "pagesDownloaded": 0, "pagesDownloadedBytes": 0, "pageBatches": 0,
            "totalRowsAvailable": 0, "totalPageDownloadTime": 0, "wireBytesTransferred": 0,
        });
        let store = |of_blocks: bool| {
            let only_blocks = |n: u64| if of_blocks { n } else { 0 };
            let only_memory = |n: u64| if of_blocks { 0 } else { n };
            let fetch_nanos = u64::try_from(read.fetch_time.as_nanos()).unwrap_or(u64::MAX);
            json!({
                "totalChunksRef": only_blocks(read.blocks_listed),
                "totalChunksDownloaded": only_blocks(read.blocks_read),
                "chunksDownloadTime": only_blocks(fetch_nanos),
                "queryReferencedStructuredMetadata": read.metadata_bytes > 0,
                "queryUsedV2Engine": false,
                "chunk": {
                    "headChunkBytes": only_memory(read.memory_bytes),
                    "headChunkLines": only_memory(read.memory_lines),
                    "decompressedBytes": only_blocks(block_bytes),
                    "decompressedLines": only_blocks(block_lines),
                    "compressedBytes": only_blocks(read.fetched_bytes),
                    "totalDuplicates": 0,
                    "postFilterLines": only_blocks(read.post_filter_lines),
                    "headChunkStructuredMetadataBytes": 0,
                    "decompressedStructuredMetadataBytes": only_blocks(read.metadata_bytes),
                },
                "chunkRefsFetchTime": 0, "congestionControlLatency": 0, "pipelineWrapperFilteredLines": 0,
                "dataobj": dataobj,
            })
        };
        json!({
            "summary": {
                "bytesProcessedPerSecond": self.bytes_per_second(),
                "linesProcessedPerSecond": per_second(read.lines, self.exec_time),
                "totalBytesProcessed": read.bytes,
                "totalLinesProcessed": read.lines,
                "execTime": exec_time,
                "queueTime": self.queue_time.as_secs_f64(),
                "subqueries": read.subqueries,
                "totalEntriesReturned": self.entries_returned,
                "splits": 0,
                "shards": read.subqueries,
                "totalPostFilterLines": read.post_filter_lines,
                "totalStructuredMetadataBytesProcessed": read.metadata_bytes,
            },
            "querier": { "store": store(true), "querierExecTime": exec_time },
            "ingester": {
                "totalReached": read.partitions,
                "totalChunksMatched": 0,
                "totalBatches": 0,
                "totalLinesSent": 0,
                "store": store(false),
            },
            "cache": {
                "chunk": cache(0, 0, 0),
                "index": cache(read.index_hits, read.index_requests, read.index_bytes),
                "statsResult": cache(0, 0, 0), "volumeResult": cache(0, 0, 0), "seriesResult": cache(0, 0, 0),
                "labelResult": cache(0, 0, 0), "instantMetricResult": cache(0, 0, 0), "logResult": cache(0, 0, 0),
                "result": cache(0, 0, 0), "taskResult": cache(0, 0, 0),
            },
            "index": {
                "totalChunks": read.blocks_listed,
                "postFilterChunks": read.blocks_read,
                "shardsDuration": 0,
                "usedBloomFilters": false,
                "totalStreams": read.block_streams,
                "chunkRefsLookupTime": 0,
                "bloomFilterTime": 0,
            },
        })
    }
}

fn per_second(count: u64, time: Duration) -> u64 {
    let seconds = time.as_secs_f64();
    if seconds > 0.0 { (count as f64 / seconds) as u64 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shape() {
        let read = ReadStats { lines: 10, bytes: 1000, memory_lines: 4, memory_bytes: 300, ..ReadStats::default() };
        let stats = AnswerStats { read, exec_time: Duration::from_millis(500), ..AnswerStats::default() };
        let json = stats.to_json();
        let check = |pointer: &str, expected: f64| {
            assert_eq!(json.pointer(pointer).and_then(Value::as_f64), Some(expected), "{pointer}");
        };
        check("/summary/bytesProcessedPerSecond", 2000.0);
        check("/summary/linesProcessedPerSecond", 20.0);
        check("/summary/execTime", 0.5);
        check("/querier/store/chunk/decompressedLines", 6.0);
        check("/querier/store/chunk/headChunkLines", 0.0);
        check("/ingester/store/chunk/headChunkBytes", 300.0);
        check("/cache/taskResult/queryLengthServed", 0.0);
        check("/index/bloomFilterTime", 0.0);
        check("/querier/store/dataobj/wireBytesTransferred", 0.0);
    }
}
