//! The arguments of `loadtest bench`.

use std::path::PathBuf;

use crate::corpus::CorpusArgs;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(super) corpus: CorpusArgs,
    /// Number of connections that push
    #[arg(long, default_value_t = 4)]
    pub(super) connections: usize,
    /// Afterwards push the same corpus to a cluster on Kafka and an S3 server, and print its cost by role instead of
    /// running queries
    #[arg(long)]
    pub(super) cluster: bool,
    /// Runs of each query; the median is reported
    #[arg(short, default_value_t = 3)]
    pub(super) k: usize,
    /// Also run ClickHouse on the corpus, with this Python interpreter, which must have the chdb package
    #[arg(long, value_name = "PYTHON")]
    pub(super) clickhouse: Option<PathBuf>,
    /// File with the queries [default: loadtest/queries.json]
    #[arg(long)]
    pub(super) queries: Option<PathBuf>,
    /// The server's binary [default: millrace beside this one]
    #[arg(long)]
    pub(super) millrace: Option<PathBuf>,
    /// Work in this folder and keep the data [default: a temporary folder]
    #[arg(long)]
    pub(super) folder: Option<PathBuf>,
    /// Fail if ingest costs more CPU-seconds per raw GB than this
    #[arg(long)]
    pub(super) ingest_max: Option<f64>,
}
