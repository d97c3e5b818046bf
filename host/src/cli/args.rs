//! The options, as they are typed.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Parser};

use super::size;

/// Serves a sandboxed WebAssembly component as a disk over NBD.
#[derive(Debug, Parser)]
#[command(
    name = "memnbd-host",
    override_usage = "memnbd-host [OPTIONS] [--component NAME|FILE.wasm] [KEY=VALUE | VALUE]...",
    disable_help_flag = true,
    disable_version_flag = true
)]
pub(super) struct Args {
    /// The component that stores the disk: a built-in one by its name, or a file [default: memory]
    #[arg(long, value_name = "NAME|FILE.wasm")]
    pub(super) component: Option<String>,

    /// Parameters of the component, KEY=VALUE; a bare VALUE is for its main parameter. Where
    /// --component is not given, the first may be the component
    #[arg(value_name = "KEY=VALUE")]
    pub(super) parameters: Vec<String>,

    /// Listen on this TCP port; 0 takes a free one
    #[arg(short, long, value_name = "PORT", conflicts_with = "unix")]
    pub(super) port: Option<u16>,

    /// Listen on this IP address or host name [default: localhost]
    #[arg(short, long, value_name = "ADDRESS", conflicts_with = "unix")]
    pub(super) ipaddr: Option<String>,

    /// Listen on this Unix domain socket instead of TCP
    #[arg(short = 'U', long, value_name = "PATH")]
    pub(super) unix: Option<PathBuf>,

    /// Write the process ID to this file when ready, and go to the background unless -f is given
    #[arg(short = 'P', long, value_name = "FILE")]
    pub(super) pidfile: Option<PathBuf>,

    /// Stay in the foreground, with -P too
    #[arg(short, long)]
    pub(super) foreground: bool,

    /// Refuse all writes
    #[arg(short, long = "read-only", visible_alias = "readonly")]
    pub(super) read_only: bool,

    /// The name of the export; the empty name finds it as well
    #[arg(short, long, value_name = "NAME", default_value = "")]
    pub(super) export_name: String,

    /// Serve another disk under this name, opened when first needed; may be given often
    #[arg(long = "export", value_name = "NAME=COMPONENT[,KEY=VALUE]...")]
    pub(super) exports: Vec<String>,

    /// The longest that one call of the component may take, in seconds; after that the disk is dead
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub(super) deadline: Duration,

    /// The most memory that the disk may take, as 512M or 2G [default: 7/8 of the machine's]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub(super) max_memory: Option<u64>,

    /// The longest that a client may negotiate, in seconds; 0 for no limit
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds_or_zero)]
    pub(super) handshake_timeout: Duration,

    /// The most connections at once, others wait; 0 for no limit
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub(super) max_connections: usize,

    /// Offer no structured replies, and nothing that needs them: to test clients
    #[arg(long)]
    pub(super) no_sr: bool,

    /// Offer no metadata contexts: to test clients
    #[arg(long)]
    pub(super) no_mc: bool,

    /// Log more: connections, refused requests
    #[arg(short, long)]
    pub(super) verbose: bool,

    /// Print the version
    #[arg(short = 'V', long)]
    pub(super) version: bool,

    /// Print this, and the parameters of the component
    #[arg(short, long, action = ArgAction::SetTrue)]
    pub(super) help: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    match seconds_or_zero(text)? {
        Duration::ZERO => Err("it must be more than 0 seconds".into()),
        duration => Ok(duration),
    }
}

fn seconds_or_zero(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds")?;
    // A day is more than any test takes, and far from what timers cannot count.
    match seconds {
        0.0..=86400.0 => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("it must be between 0 and 86400 seconds".into()),
    }
}
