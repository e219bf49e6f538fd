//! The command line.

use std::path::PathBuf;

use clap::{ArgMatches, Args, FromArgMatches, Parser, Subcommand, ValueEnum};
use settings::Flags;

use crate::{
    replay::ReplayArgs,
    roles::{ROLES, Role},
};

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
    Replay(ReplayArgs),
    /// Work with configuration files
    Config(ConfigArgs),
    /// Check log, store, clock, disk and ports, and say what to do
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
