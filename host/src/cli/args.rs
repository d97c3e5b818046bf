//! The command-line options. [`super::plan`] determines what they mean together.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{ArgAction, Parser, ValueEnum};

use super::tls::TlsArgs;
use super::values;

/// The name of the program, unless --name gives another.
pub(super) const PROGRAM: &str = "memnbd-host";

/// Serves a sandboxed WebAssembly component as a disk over NBD.
#[derive(Debug, Parser)]
#[command(
    name = PROGRAM,
    override_usage = "memnbd-host [OPTIONS] [--component NAME|FILE.wasm] [KEY=VALUE | VALUE]...",
    disable_help_flag = true,
    disable_version_flag = true,
    // As with nbdkit, the last one counts.
    args_override_self = true
)]
pub(super) struct Args {
    /// The component that stores the disk: a built-in one by its name, or a file by its path, which
    /// has a / or ends in .wasm [default: memory]
    #[arg(long, value_name = "NAME|FILE.wasm")]
    pub(super) component: Option<String>,

    /// Parameters of the component, KEY=VALUE; a bare VALUE is for its main parameter. Where
    /// --component is not given, a first word that is neither KEY=VALUE nor a number is the component
    #[arg(value_name = "KEY=VALUE")]
    pub(super) parameters: Vec<String>,

    /// Refuse all writes
    #[arg(short, long = "read-only", visible_alias = "readonly")]
    pub(super) read_only: bool,

    /// The name of the export; the empty name finds it as well
    #[arg(short, long, value_name = "NAME", alias = "exportname")]
    pub(super) export_name: Option<String>,

    /// Serve another disk under this name, opened when first needed; may be given often. With the item
    /// read-only, all writes to it are refused. A disk that cannot be had is listed as failed, and
    /// the others are served
    #[arg(long = "export", value_name = "NAME=COMPONENT[,read-only][,KEY=VALUE]...")]
    pub(super) exports: Vec<String>,

    /// The longest that one call of the component may take, in seconds; after that the disk is dead
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = values::seconds)]
    pub(super) deadline: Duration,

    /// The most memory that a disk may take, as 512M or 2G [default: what the process may]
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    pub(super) max_memory: Option<u64>,

    /// The most memory that all disks and requests may take together [default: 7/8 of the machine's, or
    /// of its control group's]
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    pub(super) max_process_memory: Option<u64>,

    /// The number of threads that serve requests, beside one for each busy connection [default: one
    /// for each CPU]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) threads: Option<u16>,

    #[command(flatten)]
    pub(super) compiling: Compiling,

    #[command(flatten)]
    pub(super) listening: Listening,

    #[command(flatten)]
    pub(super) life: Life,

    #[command(flatten)]
    pub(super) clients: Clients,

    #[command(flatten)]
    pub(super) tls: TlsArgs,

    #[command(flatten)]
    pub(super) logging: Logging,

    #[command(flatten)]
    pub(super) information: Information,
}

impl Args {
    /// Treats `--export NAME`, as in nbdkit, as `--export-name NAME`.
    pub(super) fn understand_export(&mut self) {
        let name = self.exports.iter().position(|text| !text.contains('='));
        if let (Some(at), None) = (name, &self.export_name) {
            self.export_name = Some(self.exports.remove(at));
        }
    }

    /// Returns the name of the main export.
    pub(super) fn export_name(&self) -> &str {
        self.export_name.as_deref().unwrap_or_default()
    }
}

/// What it may cost to compile a component.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Compiling components that are files")]
pub(super) struct Compiling {
    /// The longest that compiling one may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = values::seconds)]
    pub(super) compile_timeout: Duration,

    /// The most CPU time that compiling one may take, in seconds
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 240,
        value_parser = clap::value_parser!(u64).range(1..=86400)
    )]
    pub(super) compile_cpu: u64,

    /// The most memory that compiling one may take, as 512M or 2G
    #[arg(long, value_name = "SIZE", default_value = "2G", value_parser = values::size)]
    pub(super) compile_memory: u64,
}

/// Where clients come from.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Where to listen")]
pub(super) struct Listening {
    /// Listen on this TCP port, or that of --vsock; 0 takes a free one [default: 10809]
    #[arg(short, long, value_name = "PORT", conflicts_with = "unix")]
    pub(super) port: Option<u32>,

    /// Listen on this IP address or host name [default: localhost]
    #[arg(short, long, value_name = "ADDRESS", alias = "ip-addr", conflicts_with = "unix")]
    pub(super) ipaddr: Option<String>,

    /// Listen on the IPv4 addresses of the name only
    #[arg(short = '4', long, overrides_with = "ipv6_only")]
    pub(super) ipv4_only: bool,

    /// Listen on the IPv6 addresses of the name only
    #[arg(short = '6', long, overrides_with = "ipv4_only")]
    pub(super) ipv6_only: bool,

    /// Listen on this Unix domain socket instead of TCP; - makes a private one
    #[arg(short = 'U', long, value_name = "PATH|-")]
    pub(super) unix: Option<PathBuf>,

    /// Listen on a port for virtual machines (AF_VSOCK) instead of TCP
    #[arg(long, conflicts_with_all = ["unix", "ipaddr", "ipv4_only", "ipv6_only"])]
    pub(super) vsock: bool,

    /// Listen on HOST:PORT, unix:PATH or vsock:PORT, too; may be given often. With ,export=NAME that
    /// export is all that there is on this socket
    #[arg(long, value_name = "ADDRESS[,export=NAME]")]
    pub(super) listen: Vec<OsString>,

    /// Serve one client on stdin and stdout, and end with it
    #[arg(
        short,
        long,
        alias = "stdin",
        conflicts_with_all = ["port", "ipaddr", "ipv4_only", "ipv6_only", "unix", "vsock", "listen"]
    )]
    pub(super) single: bool,
}

/// How the server starts and ends.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Start and end")]
pub(super) struct Life {
    /// Write the process ID to this file when ready, and go to the background unless -f is given. With
    /// -u the file is there from the start, and empty until then
    #[arg(short = 'P', long, value_name = "FILE", alias = "pid-file")]
    pub(super) pidfile: Option<PathBuf>,

    /// Stay in the foreground, with -P too
    #[arg(short, long, alias = "no-fork")]
    pub(super) foreground: bool,

    /// Go to the background when ready, without -P too
    #[arg(long, conflicts_with_all = ["foreground", "exit_with_parent", "run", "single"])]
    pub(super) fork: bool,

    /// Run a shell command when ready, and end with it. It finds the server by $uri, $nbd (the same),
    /// $unixsocket, $port, $exportname, $tls, $tls_certificates and $tls_psk. Without -p, -i, -U,
    /// --vsock or --listen the server has a private Unix domain socket
    #[arg(long, value_name = "COMMAND", conflicts_with = "single")]
    pub(super) run: Option<OsString>,

    /// Time limit for the last flush of all disks when the server stops, in seconds; 0 does not wait.
    /// Exports that are not flushed in time are logged, and the exit status is 1
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "30",
        value_parser = values::seconds_or_zero
    )]
    pub(super) shutdown_timeout: Duration,

    /// End when the last client that used an export is gone
    #[arg(long)]
    pub(super) exit_last: bool,

    /// End when the parent process ends, however it does; stays in the foreground
    #[arg(long)]
    pub(super) exit_with_parent: bool,

    /// Print the URI on stdout although there is --run, or the sockets are inherited; else it always
    /// is printed
    #[arg(long, conflicts_with = "single")]
    pub(super) print_uri: bool,

    /// Become this user, by name or number, when the sockets are there, and before a component that is
    /// a file is compiled or run
    #[arg(short, long, value_name = "USER")]
    pub(super) user: Option<String>,

    /// Become a member of this group, by name or number, and of no other
    #[arg(short, long, value_name = "GROUP")]
    pub(super) group: Option<String>,

    /// Lock the process into memory: for a disk that is swapped to on the same machine
    #[arg(long)]
    pub(super) swap: bool,
}

/// What clients may do.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Clients")]
pub(super) struct Clients {
    /// The longest that a client may negotiate, in seconds; 0 for no limit
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "10",
        value_parser = values::seconds_or_zero,
        visible_alias = "timeout"
    )]
    pub(super) handshake_timeout: Duration,

    /// How long a client may stop in the middle of a request, or take nothing of a reply, in seconds; 0
    /// for no limit. After that it is closed
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "60",
        value_parser = values::seconds_or_zero
    )]
    pub(super) stall_timeout: Duration,

    /// How long a client may ask for nothing, in seconds; 0 for no limit
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "0",
        value_parser = values::seconds_or_zero
    )]
    pub(super) idle_timeout: Duration,

    /// The most connections at once, others wait; 0 for no limit. Each listener and each export has a part
    /// of half of them for sure
    #[arg(long, value_name = "N", default_value_t = 1024, visible_alias = "limit")]
    pub(super) max_connections: u64,

    /// The most connections of one export, others are refused [default: what --max-connections leaves]
    #[arg(long, value_name = "N")]
    pub(super) max_connections_per_export: Option<u64>,

    /// Find out when the machine of a TCP client vanishes: always on, accepted for nbdkit's sake
    #[arg(long, hide = true)]
    pub(super) keepalive: bool,

    /// Speak newstyle: there is nothing else, accepted for nbdkit's sake
    #[arg(short = 'n', long, alias = "new-style", hide = true)]
    pub(super) newstyle: bool,

    /// Offer no structured replies, and nothing that needs them: to test clients
    #[arg(long, visible_alias = "no-structured-replies")]
    pub(super) no_sr: bool,

    /// Offer no metadata contexts: to test clients
    #[arg(long, visible_alias = "no-meta-contexts")]
    pub(super) no_mc: bool,

    /// Offer only these of the handshake flags, 1 fixed newstyle, 2 no zeroes: to test clients
    #[arg(long, value_name = "MASK", value_parser = values::mask)]
    pub(super) mask_handshake: Option<u16>,
}

/// What is told of what happens.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Log")]
pub(super) struct Logging {
    /// Log to stderr, syslog, null or a file, which SIGHUP opens again [default: stderr; in the
    /// background syslog]. Lines that cannot be written in time are dropped and counted
    #[arg(long, value_name = "stderr|syslog|null|FILE")]
    pub(super) log: Option<PathBuf>,

    /// Write lines for people, or objects of JSON
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub(super) log_format: LogFormat,

    /// Call the server this in its log and the list of processes
    #[arg(long, value_name = "NAME", value_parser = values::name)]
    pub(super) name: Option<String>,

    /// Log more: connections, refused requests
    #[arg(short, long)]
    pub(super) verbose: bool,
}

impl Logging {
    /// Returns the name of the program for its messages.
    pub(super) fn program(&self) -> &str {
        self.name.as_deref().unwrap_or(PROGRAM)
    }
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// For people.
    Text,
    /// An object for each line.
    Json,
}

/// What the program tells of itself instead of serving.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Information, instead of serving")]
pub(super) struct Information {
    /// Print what the program was built with, as KEY=VALUE
    #[arg(long, group = "information")]
    pub(super) dump_config: bool,

    /// Print what the component says of itself, what it imports and its limits, as KEY=VALUE
    #[arg(long, group = "information", visible_alias = "dump-plugin")]
    pub(super) dump_component: bool,

    /// Print JSON instead of KEY=VALUE
    #[arg(long, requires = "information")]
    pub(super) json: bool,

    /// Print the script that completes the options in this shell
    #[arg(
        long,
        value_name = "SHELL",
        group = "information",
        value_parser = PossibleValuesParser::new(["bash", "zsh", "fish"])
    )]
    pub(super) completion: Option<String>,

    /// Print the manual page, for man -l -
    #[arg(long, group = "information")]
    pub(super) man: bool,

    /// Print the version
    #[arg(short = 'V', long)]
    pub(super) version: bool,

    /// Print this, and the parameters of the component
    #[arg(short, long, action = ArgAction::SetTrue)]
    pub(super) help: bool,
}
