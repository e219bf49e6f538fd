//! The command line: what can be said, and what it means for the configuration.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

/// A log store whose write-ahead log is the log itself: push with any Loki or OTLP agent, ask in LogQL.
///
/// Without a command it starts everything in one process: no Kafka, no S3, no config file needed.
#[derive(Debug, Parser)]
#[command(name = "millrace", version, propagate_version = true, max_term_width = 110)]
#[command(
    after_help = "Settings come from, later ones winning: defaults, --config FILE, MILLRACE_… environment variables, flags.\n\
    Any setting of the file can be given as a variable: MILLRACE_LIMITS_CONFIG__INGESTION_RATE_MB=20 is\n\
    limits_config.ingestion_rate_mb. `millrace --print-config` shows what is in force."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// Settings that are given often, as flags. They may stand before or behind a command.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ServerArgs {
    /// Read settings from this YAML file (Loki's key names where Loki has the same setting)
    #[arg(long, global = true, value_name = "FILE", env = "MILLRACE_CONFIG", help_heading = "Server settings")]
    pub(crate) config: Option<PathBuf>,
    /// Keep the local log in DIR/log and the objects in DIR/store [default: ./millrace-data]
    #[arg(long, global = true, value_name = "DIR", env = "MILLRACE_DATA_DIR", help_heading = "Server settings")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Listen here for HTTP, and for OTLP over gRPC [default: 127.0.0.1:3100]
    #[arg(long, global = true, value_name = "HOST:PORT", env = "MILLRACE_HTTP", help_heading = "Server settings")]
    pub(crate) http: Option<SocketAddr>,
    /// Take the tenant from the X-Scope-OrgID header and refuse requests without it
    #[arg(long, global = true, env = "MILLRACE_AUTH_ENABLED", num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL", help_heading = "Server settings")]
    pub(crate) auth_enabled: Option<bool>,
    /// Print the settings in force as YAML, and end
    #[arg(long, global = true, help_heading = "Server settings")]
    pub(crate) print_config: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start everything in one process (the default)
    All,
    /// Take pushes and append them to the log; nothing else
    Gateway,
    /// Read the log, keep recent entries in memory, cut and store blocks
    Consumer,
    /// Turn everything that the log holds into blocks, then end
    Builder,
    /// Answer queries from memory and blocks; take no pushes
    QueryService,
    /// Send log files, or standard input, to a server
    Push(PushArgs),
    /// Ask a LogQL query
    Query(QueryArgs),
    /// Follow entries as they arrive
    Tail(TailArgs),
    /// List label names, or the values of one label
    Labels(LabelsArgs),
    /// List streams
    Series(SeriesArgs),
    /// Look into the blocks of the object store
    Blocks(BlocksArgs),
    /// Read a window of the log again: compare it with the blocks, make blocks anew, or send it on
    Replay(crate::replay::ReplayArgs),
    /// Work with configuration files
    Config(ConfigArgs),
    /// Check log, store, clock, disk and ports, and say what to do
    Doctor,
}

/// Which server a client command talks to.
#[derive(Args, Clone, Debug)]
pub(crate) struct ClientArgs {
    /// The server
    #[arg(long, value_name = "URL", env = "MILLRACE_ADDR", default_value = "http://127.0.0.1:3100")]
    pub(crate) addr: String,
    /// The tenant, sent as X-Scope-OrgID
    #[arg(long, value_name = "TENANT", env = "MILLRACE_TENANT")]
    pub(crate) tenant: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct PushArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Label of the pushed stream; give it again for more. `filename` is added for files
    #[arg(long = "label", short, value_name = "NAME=VALUE")]
    pub(crate) labels: Vec<String>,
    /// Lines of one push at the most
    #[arg(long, value_name = "LINES", default_value_t = 5000)]
    pub(crate) batch_lines: usize,
    /// Show no progress
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// Files to send; `-` or none: standard input
    pub(crate) files: Vec<PathBuf>,
}

/// How answers are printed.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum Output {
    /// Time, labels and line; numbers as a table
    #[default]
    Text,
    /// Only the lines, byte for byte
    Raw,
    /// The server's JSON
    Json,
}

#[derive(Args, Debug)]
pub(crate) struct QueryArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// What is asked, in LogQL
    #[arg(help = r#"LogQL, such as '{app="web"} |= "error"' or 'sum by (app) (rate({env="prod"}[5m]))'"#)]
    pub(crate) query: String,
    /// How far back to look when --from is not given
    #[arg(long, default_value = "1h", value_name = "DURATION")]
    pub(crate) since: String,
    /// Start: RFC 3339, or nanoseconds since the epoch
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<String>,
    /// End, as --from [default: now]
    #[arg(long, value_name = "TIME")]
    pub(crate) to: Option<String>,
    /// Entries at the most
    #[arg(long, default_value_t = 30, value_name = "ENTRIES")]
    pub(crate) limit: u32,
    /// Oldest entries first
    #[arg(long)]
    pub(crate) forward: bool,
    /// One value at one time (--to) instead of a range
    #[arg(long)]
    pub(crate) instant: bool,
    /// Distance of the points of a metric query
    #[arg(long, value_name = "DURATION")]
    pub(crate) step: Option<String>,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    pub(crate) output: Output,
    /// Say afterwards what the query cost
    #[arg(long)]
    pub(crate) stats: bool,
}

#[derive(Args, Debug)]
pub(crate) struct TailArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// A log query
    pub(crate) query: String,
    /// Older entries to begin with
    #[arg(long, default_value_t = 10, value_name = "ENTRIES")]
    pub(crate) limit: u32,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Args, Debug)]
pub(crate) struct LabelsArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// The label whose values are listed; none: the names
    pub(crate) name: Option<String>,
    /// How far back to look
    #[arg(long, default_value = "6h", value_name = "DURATION")]
    pub(crate) since: String,
}

#[derive(Args, Debug)]
pub(crate) struct SeriesArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Selectors, such as '{app="web"}'; none: all streams
    pub(crate) matchers: Vec<String>,
    /// How far back to look
    #[arg(long, default_value = "6h", value_name = "DURATION")]
    pub(crate) since: String,
}

#[derive(Args, Debug)]
pub(crate) struct BlocksArgs {
    #[command(subcommand)]
    pub(crate) command: BlocksCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BlocksCommand {
    /// List the blocks that the heads of the store list
    Ls,
    /// Print what a block holds: tenants, columns, sections, bytes
    Inspect {
        /// An object's key as `ls` prints it, or a file
        block: String,
    },
    /// Recompute checksums, order, counts and index of blocks
    Verify {
        /// Keys or files; none: every listed block, and that heads and blocks agree
        blocks: Vec<String>,
    },
}

#[derive(Args, Debug)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    pub(crate) command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check a file (or the one of --config) and the overrides file it names
    Check {
        /// The file
        file: Option<PathBuf>,
    },
}
