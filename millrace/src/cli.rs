//! The command line.

use std::path::PathBuf;

use clap::{ArgMatches, Args, FromArgMatches, Parser, Subcommand, ValueEnum};
use settings::Flags;

use crate::{
    replay::ReplayArgs,
    roles::{ROLES, Role},
};

/// A log store whose write-ahead log is the log itself: push with any Loki or OTLP agent, query in LogQL.
///
/// Without a command it starts everything in one process: no Kafka, no S3, no config file needed.
#[derive(Debug, Parser)]
#[command(name = "millrace", version, propagate_version = true, max_term_width = 110)]
#[command(
    after_help = "Settings come from defaults, --config FILE, MILLRACE_… environment variables and flags; later ones win.\n\
    Any setting of the file can be given as a variable: MILLRACE_LIMITS_CONFIG__INGESTION_RATE_MB=20 is\n\
    limits_config.ingestion_rate_mb. `millrace --print-config` shows what is in force."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) flags: Flags,
    /// Print the settings in force as YAML, and end
    #[arg(long, global = true, help_heading = "Server settings")]
    pub(crate) print_config: bool,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Role(RoleCommand),
    /// Send log files, or standard input, to a server
    Push(PushArgs),
    /// Run a LogQL query
    Query(QueryArgs),
    /// Follow entries as they arrive
    Tail(TailArgs),
    /// List label names, or the values of one label
    Labels(LabelsArgs),
    /// List streams
    Series(SeriesArgs),
    /// List, inspect and verify the blocks in the object store
    Blocks(BlocksArgs),
    /// Read a time window of the log again: compare it with the blocks, rebuild them, or send it elsewhere
    Replay(ReplayArgs),
    /// Work with configuration files
    Config(ConfigArgs),
    /// Check log, store, clock, disk and port, and say how to mend what is wrong
    Doctor,
}

/// The command of a role. There is one for each of [`ROLES`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct RoleCommand(pub(crate) &'static Role);

impl RoleCommand {
    fn named(name: &str) -> Option<Self> {
        ROLES.into_iter().find(|role| role.name == name).map(Self)
    }
}

impl FromArgMatches for RoleCommand {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let role = matches.subcommand_name().and_then(Self::named);
        role.ok_or_else(|| clap::Error::new(clap::error::ErrorKind::MissingSubcommand))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Subcommand for RoleCommand {
    fn augment_subcommands(command: clap::Command) -> clap::Command {
        command.subcommands(ROLES.map(|role| clap::Command::new(role.name).about(role.help)))
    }

    fn augment_subcommands_for_update(command: clap::Command) -> clap::Command {
        Self::augment_subcommands(command)
    }

    fn has_subcommand(name: &str) -> bool {
        Self::named(name).is_some()
    }
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
    /// Label of the pushed stream; repeat it for more labels. Files also get the label `filename`
    #[arg(long = "label", short, value_name = "NAME=VALUE")]
    pub(crate) labels: Vec<String>,
    /// Maximum number of lines in one push
    #[arg(long, value_name = "LINES", default_value_t = 5000)]
    pub(crate) batch_lines: usize,
    /// Show no progress
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// Files to send. Without files, or with `-`: standard input
    pub(crate) files: Vec<PathBuf>,
}

/// The format of printed results.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum Output {
    /// Time, labels and line; the values of metric queries line by line
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
    /// Maximum number of entries
    #[arg(long, default_value_t = 30, value_name = "ENTRIES")]
    pub(crate) limit: u32,
    /// Oldest entries first
    #[arg(long)]
    pub(crate) forward: bool,
    /// Evaluate at one time (--to) instead of over a range
    #[arg(long)]
    pub(crate) instant: bool,
    /// Time between two points of a metric query
    #[arg(long, value_name = "DURATION")]
    pub(crate) step: Option<String>,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    pub(crate) output: Output,
    /// Afterwards, print what the query cost
    #[arg(long)]
    pub(crate) stats: bool,
}

#[derive(Args, Debug)]
pub(crate) struct TailArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// A log query
    pub(crate) query: String,
    /// Number of older entries to print first
    #[arg(long, default_value_t = 10, value_name = "ENTRIES")]
    pub(crate) limit: u32,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Args, Debug)]
pub(crate) struct LabelsArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// List the values of this label. Without it: list the names of all labels
    pub(crate) name: Option<String>,
    /// How far back to look
    #[arg(long, default_value = "6h", value_name = "DURATION")]
    pub(crate) since: String,
}

#[derive(Args, Debug)]
pub(crate) struct SeriesArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Selectors, such as '{app="web"}'. Without one: all streams
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
        /// The key of an object, as `ls` prints it, or a file
        block: String,
    },
    /// Recompute checksums, order, counts and index of blocks
    Verify {
        /// Keys or files. Without one: every listed block, and whether heads and blocks agree
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn every_role_is_a_command() {
        Cli::command().debug_assert();
        for role in ROLES {
            let cli = Cli::try_parse_from(["millrace", role.name, "--http", "127.0.0.1:1"]).expect("a command");
            assert!(matches!(cli.command, Some(Command::Role(RoleCommand(parsed))) if parsed.name == role.name));
            assert!(cli.flags.http.is_some(), "flags may follow a role");
        }
        assert!(Cli::try_parse_from(["millrace", "nobody"]).is_err());
    }
}
