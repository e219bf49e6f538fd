//! Settings that are often given on the command line.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;

/// Flags that override the file and the environment. A program flattens them into its command line; they may stand
/// before or after a command.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Server settings")]
pub struct Flags {
    /// Read settings from this YAML file (Loki's key names where Loki has the same setting)
    #[arg(long, global = true, value_name = "FILE", env = "MILLRACE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Keep the local log in DIR/log and the objects in DIR/store [default: ./millrace-data]
    #[arg(long, global = true, value_name = "DIR", env = "MILLRACE_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Listen here for HTTP, and for OTLP over gRPC [default: 127.0.0.1:3100]
    #[arg(long, global = true, value_name = "HOST:PORT", env = "MILLRACE_HTTP")]
    pub http: Option<SocketAddr>,
    /// Take the tenant from the X-Scope-OrgID header and refuse requests without it
    #[arg(
        long,
        global = true,
        env = "MILLRACE_AUTH_ENABLED",
        num_args = 0..=1,
        default_missing_value = "true",
        require_equals = true,
        value_name = "BOOL"
    )]
    pub auth_enabled: Option<bool>,
}

/// Variables of the command line, without their prefix: those of [`Flags`] and those of client commands. They are no
/// paths of settings.
pub(crate) const FLAG_VARIABLES: [&str; 6] = ["CONFIG", "DATA_DIR", "HTTP", "AUTH_ENABLED", "ADDR", "TENANT"];
