//! The command-line options. [`super::plan`] determines what they mean together.

mod information;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches, Parser, ValueEnum};

use super::image::Format;
use super::nbdkit::{Manner, Refused};
use super::sandbox::Sandbox;
use super::tls::TlsArgs;
use super::values;
pub(super) use information::Information;

/// The name of the program, unless --name gives another.
pub(super) const PROGRAM: &str = "memnbd-host";

/// Serves a sandboxed WebAssembly component as a disk over NBD.
#[derive(Debug, Parser)]
#[command(
    name = PROGRAM,
    override_usage = "memnbd-host [OPTIONS] [--component NAME|FILE.wasm] [KEY=VALUE | VALUE | @FILE]...",
    disable_help_flag = true,
    disable_version_flag = true,
    // As with nbdkit, the last one counts.
    args_override_self = true
)]
pub(super) struct Args {
    /// The component that provides the disk: the name of a built-in one, or the path of a file,
    /// which contains a / or ends in .wasm [default: memory]
    #[arg(long, value_name = "NAME|FILE.wasm")]
    pub(super) component: Option<String>,

    /// Parameters of the component, as KEY=VALUE; a bare VALUE sets its main parameter. Without
    /// --component, a first word that is neither KEY=VALUE nor a number names the component. An
    /// argument @FILE, wherever it is, stands for the arguments in that file, one on each line,
    /// where lines that are blank or begin with # are skipped; @ before a digit, +, - or ^ is an
    /// offset of data
    #[arg(value_name = "KEY=VALUE")]
    pub(super) parameters: Vec<String>,

    /// Put a filter between the clients and the disk; may be repeated, the first is nearest to the
    /// clients. A parameter is for the layer nearest to the clients that has it; NAME.KEY=VALUE is
    /// for the layer NAME
    #[arg(long = "filter", value_name = "NAME|FILE.wasm")]
    pub(super) filters: Vec<String>,

    /// Refuse all writes
    #[arg(short, long = "read-only", visible_alias = "readonly")]
    pub(super) read_only: bool,

    /// Give each connection a disk of its own, which is discarded when it ends
    #[arg(long)]
    pub(super) private: bool,

    /// Fill the disk from an image before the server is ready: raw, qcow2, vhd, vmdk, gzip, xz or
    /// zstd, which is decoded in the sandbox. Without a size, a disk in memory is as large as the image; what is
    /// behind the image reads as zeroes. Backing files are not opened
    #[arg(long, value_name = "IMAGE", value_hint = clap::ValueHint::FilePath)]
    pub(super) preload: Option<PathBuf>,

    /// The format of the image of --preload, which is otherwise detected by its first bytes. For a raw
    /// image whose content others wrote, give raw: they may have made it look like another format
    #[arg(long, value_name = "FORMAT", requires = "preload")]
    pub(super) preload_format: Option<Format>,

    /// The name of the export. Clients that request the empty name get it as well
    #[arg(short, long, value_name = "NAME", alias = "exportname")]
    pub(super) export_name: Option<String>,

    /// Serve another disk under this name, opened when it is first needed; may be repeated. With
    /// the item read-only, all writes to it are refused; filter=NAME is as --filter. A disk that cannot be opened is listed as
    /// failed, and the others are served. The name * stands for every other name that clients ask
    /// for: each is a disk of its own, up to 256 at a time
    #[arg(
        long = "export",
        value_name = "NAME=COMPONENT[,read-only][,filter=NAME]...[,KEY=VALUE]..."
    )]
    pub(super) exports: Vec<String>,

    /// Run the scripts of the expressions that the component data serves, <(SCRIPT), as the user who
    /// starts the server
    #[arg(long)]
    pub(super) allow_scripts: bool,

    /// Time limit for one call of the component, in seconds. A disk that exceeds it fails for good
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = values::seconds)]
    pub(super) deadline: Duration,

    /// Memory limit of a disk, such as 512M or 2G [default: that of the process]
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    pub(super) max_memory: Option<u64>,

    /// Memory limit of all disks and requests together [default: 7/8 of the memory of the machine,
    /// or of the control group]
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    pub(super) max_process_memory: Option<u64>,

    /// Limit of what components write to each file that a parameter names for that, such as that of a log
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = values::size)]
    pub(super) max_output: u64,

    /// The number of threads that serve requests, in addition to one for each busy connection
    /// [default: one per CPU]
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
    pub(super) control: Control,

    #[command(flatten)]
    pub(super) logging: Logging,

    #[command(flatten)]
    pub(super) information: Information,

    #[command(flatten)]
    pub(super) refused: Refused,

    /// The command line, with the name of the program and without argument files.
    #[arg(skip)]
    pub(super) typed: Vec<OsString>,

    /// Whose command line it is.
    #[arg(skip)]
    pub(super) manner: Manner,
}

impl Args {
    /// Parses a command line in which argument files are expanded.
    ///
    /// # Errors
    ///
    /// Returns an error for the user, or the text that an option asks for.
    pub(super) fn of(typed: Vec<OsString>) -> Result<Self, clap::Error> {
        let manner = Manner::of(typed.first());
        let mut matches = manner.adapt(Self::command()).try_get_matches_from(&typed)?;
        let mut args = Self::from_arg_matches_mut(&mut matches)?;
        args.understand_export();
        (args.typed, args.manner) = (typed, manner);
        manner.apply(&mut args);
        Ok(args)
    }

    /// Treats `--export NAME`, as in nbdkit, as `--export-name NAME`.
    fn understand_export(&mut self) {
        let name = self.exports.iter().position(|text| !text.contains('='));
        if let (Some(at), None) = (name, &self.export_name) {
            self.export_name = Some(self.exports.remove(at));
        }
    }

    /// Returns the name of the main export, or with nbdkit's manner the one that clients are told to
    /// ask for.
    pub(super) fn export_name(&self) -> &str {
        self.export_name.as_deref().unwrap_or_default()
    }
}

/// What it may cost to compile a component.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Compiling components that are files")]
pub(super) struct Compiling {
    /// Time limit for compiling a component, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = values::seconds)]
    pub(super) compile_timeout: Duration,

    /// CPU time limit for compiling a component, in seconds
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 240,
        value_parser = clap::value_parser!(u64).range(1..=86400)
    )]
    pub(super) compile_cpu: u64,

    /// Memory limit for compiling a component, such as 512M or 2G
    #[arg(long, value_name = "SIZE", default_value = "2G", value_parser = values::size)]
    pub(super) compile_memory: u64,
}

/// Where clients come from.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Where to listen")]
pub(super) struct Listening {
    /// Listen on this TCP port, or vsock port with --vsock; 0 chooses a free one [default: 10809]
    #[arg(short, long, value_name = "PORT", conflicts_with = "unix")]
    pub(super) port: Option<u32>,

    /// Listen on this IP address or host name [default: localhost]
    #[arg(short, long, value_name = "ADDRESS", alias = "ip-addr", conflicts_with = "unix")]
    pub(super) ipaddr: Option<String>,

    /// Listen on IPv4 addresses only
    #[arg(short = '4', long, overrides_with = "ipv6_only")]
    pub(super) ipv4_only: bool,

    /// Listen on IPv6 addresses only
    #[arg(short = '6', long, overrides_with = "ipv4_only")]
    pub(super) ipv6_only: bool,

    /// Listen on this Unix domain socket instead of TCP; - creates a private one
    #[arg(short = 'U', long, value_name = "PATH|-")]
    pub(super) unix: Option<PathBuf>,

    /// Listen on a vsock port, for virtual machines, instead of TCP
    #[arg(long, conflicts_with_all = ["unix", "ipaddr", "ipv4_only", "ipv6_only"])]
    pub(super) vsock: bool,

    /// Also listen on HOST:PORT, unix:PATH or vsock:PORT; may be repeated. With ,export=NAME, only
    /// that export is served there
    #[arg(long, value_name = "ADDRESS[,export=NAME]")]
    pub(super) listen: Vec<OsString>,

    /// Serve one client on stdin and stdout, and exit when it disconnects
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
    /// Write the process ID to this file when ready, and go to the background unless -f is given.
    /// With -u, the file is created empty at the start
    #[arg(short = 'P', long, value_name = "FILE", alias = "pid-file")]
    pub(super) pidfile: Option<PathBuf>,

    /// Stay in the foreground, even with -P
    #[arg(short, long, alias = "no-fork")]
    pub(super) foreground: bool,

    /// Go to the background when ready, even without -P
    #[arg(long, conflicts_with_all = ["foreground", "exit_with_parent", "run", "single"])]
    pub(super) fork: bool,

    /// Run a shell command when ready, and exit when it ends. It finds the server through $uri,
    /// $nbd (the same), $unixsocket, $port, $exportname, $tls, $tls_certificates and $tls_psk.
    /// Without -p, -i, -U, --vsock or --listen, the server listens on a private Unix domain socket
    #[arg(long, value_name = "COMMAND", conflicts_with = "single")]
    pub(super) run: Option<OsString>,

    /// Time limit for flushing all disks when the server stops, in seconds; 0 does not wait.
    /// Exports that are not flushed in time are logged, and the exit status is 1
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "30",
        value_parser = values::seconds_or_zero
    )]
    pub(super) shutdown_timeout: Duration,

    /// Exit when the last client that used an export has disconnected
    #[arg(long)]
    pub(super) exit_last: bool,

    /// Exit when the parent process ends, for whatever reason; stays in the foreground
    #[arg(long)]
    pub(super) exit_with_parent: bool,

    /// Print the URI on stdout even with --run or inherited sockets; otherwise it is always printed
    #[arg(long, conflicts_with = "single")]
    pub(super) print_uri: bool,

    /// Change to this user, by name or number, after the sockets are created and before a component
    /// from a file is compiled or run
    #[arg(short, long, value_name = "USER")]
    pub(super) user: Option<String>,

    /// Change to this group, by name or number, and leave all others
    #[arg(short, long, value_name = "GROUP")]
    pub(super) group: Option<String>,

    /// Let the kernel confine the process, as far as it can: to the files that the command line and the
    /// configuration file name, and to the system calls of a server. With --allow-scripts it is off
    #[arg(long, value_name = "on|off", value_enum, default_value_t = Sandbox::On)]
    pub(super) sandbox: Sandbox,

    /// Let the process open this file, or what is in this directory, although nothing names it yet; may be
    /// repeated
    #[arg(long = "sandbox-path", value_name = "PATH")]
    pub(super) sandbox_paths: Vec<PathBuf>,

    /// Lock the process into memory, for a disk that the same machine uses as swap space
    #[arg(long)]
    pub(super) swap: bool,
}

/// What clients may do.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Clients")]
pub(super) struct Clients {
    /// Time limit for the handshake with a client, in seconds; 0 for none
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "10",
        value_parser = values::seconds_or_zero,
        visible_alias = "timeout"
    )]
    pub(super) handshake_timeout: Duration,

    /// How long a client may stall in the middle of a request or a reply before it is disconnected,
    /// in seconds; 0 for no limit
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "60",
        value_parser = values::seconds_or_zero
    )]
    pub(super) stall_timeout: Duration,

    /// How long a client may be idle before it is disconnected, in seconds; 0 for no limit
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "0",
        value_parser = values::seconds_or_zero
    )]
    pub(super) idle_timeout: Duration,

    /// The maximum number of connections; further clients wait; 0 for no limit. Half of them are
    /// reserved in equal shares for the listeners and the exports
    #[arg(long, value_name = "N", default_value_t = 1024, visible_alias = "limit")]
    pub(super) max_connections: u64,

    /// The maximum number of connections to one export; further clients are refused [default: what
    /// --max-connections leaves]
    #[arg(long, value_name = "N")]
    pub(super) max_connections_per_export: Option<u64>,

    /// Detect that the machine of a TCP client is gone: always on, accepted for compatibility with
    /// nbdkit
    #[arg(long, hide = true)]
    pub(super) keepalive: bool,

    /// Speak the newstyle protocol: always on, accepted for compatibility with nbdkit
    #[arg(short = 'n', long, alias = "new-style", hide = true)]
    pub(super) newstyle: bool,

    /// Do not offer structured replies, nor what depends on them, to test clients
    #[arg(long, visible_alias = "no-structured-replies")]
    pub(super) no_sr: bool,

    /// Do not offer metadata contexts, to test clients
    #[arg(long, visible_alias = "no-meta-contexts")]
    pub(super) no_mc: bool,

    /// Offer only these handshake flags, 1 for fixed newstyle and 2 for no zeroes, to test clients
    #[arg(long, value_name = "MASK", value_parser = values::mask)]
    pub(super) mask_handshake: Option<u16>,
}

/// How the server is controlled while it runs.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Control")]
pub(super) struct Control {
    /// Serve the control API, HTTP with JSON, on this Unix domain socket, which only this user can
    /// connect to, or over TCP, with --tls-certificates and for those who have tokens; may be repeated. The
    /// program memnbd uses it
    #[arg(long, value_name = "unix:PATH|HOST:PORT")]
    pub(super) control: Vec<OsString>,

    /// Serve the disks that this TOML file describes as well, and make them what it then describes on
    /// SIGHUP
    #[arg(long, value_name = "FILE.toml")]
    pub(super) config: Option<PathBuf>,

    /// Let those who use the control API name this path; may be repeated. KIND is component, file,
    /// read-only-file, directory, read-only-directory, output or secret. They can name no other path
    #[arg(long = "grant", value_name = "KIND:NAME=PATH", requires = "control")]
    pub(super) grants: Vec<OsString>,
}

/// What is told of what happens.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Log")]
pub(super) struct Logging {
    /// Log to stderr, syslog, null or a file, which is reopened on SIGHUP [default: stderr; in the
    /// background, syslog]. Lines that cannot be written in time are dropped and counted
    #[arg(long, value_name = "stderr|syslog|null|FILE")]
    pub(super) log: Option<PathBuf>,

    /// Log plain text, or one JSON object per line
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub(super) log_format: LogFormat,

    /// The name of the server in its log and in the list of processes
    #[arg(long, value_name = "NAME", value_parser = values::name)]
    pub(super) name: Option<String>,

    /// Also log connections and refused requests
    #[arg(short, long)]
    pub(super) verbose: bool,

    /// Ignored, for scripts written for nbdkit, in which it sets debug flags of plugins
    #[arg(short = 'D', long = "debug", value_name = "PLUGIN.FLAG=N")]
    pub(super) debug_flags: Vec<String>,
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
