//! The command: from what was typed to a server that runs, and to its end.
//!
//! Every mistake is told before anything listens. Exit codes: 0 for a clean stop, 1 for a failure, 2
//! for wrong usage.

mod args;
mod background;
mod components;
mod exports;
mod listen;
mod size;

pub use components::built_in;

use std::fmt;
use std::future::Future;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{CommandFactory, Parser};
use tokio::signal::unix::{SignalKind, signal};

use crate::nbd::HandshakeConfig;
use crate::server::{Options, Server};
use args::Args;
use components::Choice;
use exports::Loader;

/// Why the command failed.
enum Failure {
    /// The command line makes no sense.
    Usage(String),
    /// It could not be done.
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) => write!(f, "{text}\nTry 'memnbd-host --help'."),
            Self::Failed(error) => write!(f, "{error:#}"),
        }
    }
}

/// Runs the command with the arguments of the process.
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => error.exit(),
    };
    match run(args) {
        Ok(code) => code,
        Err(failure) => {
            // Nobody is left to tell when stderr is gone.
            let _ = writeln!(io::stderr(), "memnbd-host: {failure}");
            match failure {
                Failure::Usage(_) => ExitCode::from(2),
                Failure::Failed(_) => ExitCode::FAILURE,
            }
        }
    }
}

fn run(args: Args) -> Result<ExitCode, Failure> {
    if args.version {
        print(&format!("memnbd-host {}\n", env!("CARGO_PKG_VERSION")))?;
        return Ok(ExitCode::SUCCESS);
    }
    let to_background = args.pidfile.is_some() && !args.foreground && !args.help;
    let detached = to_background && background::is_detached();
    if to_background && !detached {
        return Ok(background::detach().context("go to the background")?);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the threads")?;
    let result = runtime.block_on(async {
        if args.help { help(&args).await } else { serve(args, detached).await }
    });
    // A guest that is stuck in its last call must not keep the process.
    runtime.shutdown_background();
    result.map(|()| ExitCode::SUCCESS)
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("write to stdout")
}

async fn help(args: &Args) -> Result<(), Failure> {
    let mut text = Args::command().render_help().to_string();
    let (choice, _) = components::choose(args.component.as_deref(), &args.parameters);
    match choice {
        Choice::Default => text.push_str(&format!(
            "\nBuilt-in components: {}. 'memnbd-host NAME --help' tells their parameters.\n",
            components::names().join(", ")
        )),
        Choice::Named(name) => {
            let component = Loader::new(args)?.component(&name).await?;
            text.push_str(&components::help(&component));
        }
    }
    Ok(print(&text)?)
}

async fn serve(args: Args, detached: bool) -> Result<(), Failure> {
    log_to_stderr(args.verbose);
    let exports = exports::all(&args).await?;
    let uri_name = match exports.iter().next() {
        Some(export) => export.name().to_owned(),
        None => String::new(),
    };
    let (listeners, uri) = listen::bind(&args, &uri_name).await?;
    let options = Options {
        handshake: HandshakeConfig {
            structured_replies: !args.no_sr,
            extended_headers: !args.no_sr,
            meta_contexts: !args.no_sr && !args.no_mc,
            ..HandshakeConfig::default()
        },
        handshake_timeout: (!args.handshake_timeout.is_zero()).then_some(args.handshake_timeout),
        max_connections: (args.max_connections != 0).then_some(args.max_connections),
    };
    let server = Server::new(Arc::new(exports), options);
    let (stop, stop_now) = signals().context("handle signals")?;
    if let Some(pidfile) = &args.pidfile {
        write_pidfile(pidfile).with_context(|| format!("write {}", pidfile.display()))?;
    }
    print(&format!("{uri}\n"))?;
    if detached {
        // After the line that tells the first process that all is well: it may be gone by now.
        background::leave_terminal().context("go to the background")?;
    }
    server.run(listeners, stop, stop_now).await;
    Ok(())
}

fn log_to_stderr(verbose: bool) {
    let level = match verbose {
        true => tracing::Level::DEBUG,
        false => tracing::Level::INFO,
    };
    let targets = tracing_subscriber::filter::Targets::new()
        .with_target("memnbd_host", level)
        .with_target("component", level);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        .with_target(false)
        .log_internal_errors(false);
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::util::SubscriberInitExt;
    let subscriber = tracing_subscriber::registry().with(lines).with(targets);
    // A process that embeds the command may have a log of its own.
    let _ = subscriber.try_init();
}

/// 7/8 of what the machine, or the control group that the process is in, has.
fn machine_memory() -> u64 {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kib << 10)
    });
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let group = group.and_then(|text| text.trim().parse().ok());
    let memory = machine.into_iter().chain(group).min().unwrap_or(4 << 30);
    memory / 8 * 7
}

/// The first SIGINT, SIGTERM or SIGQUIT, and the second.
fn signals() -> io::Result<(impl Future<Output = ()>, impl Future<Output = ()>)> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut quit = signal(SignalKind::quit())?;
    let (first, stop) = tokio::sync::oneshot::channel();
    let (second, stop_now) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        for told in [first, second] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = quit.recv() => {}
            }
            // The server may be past waiting for it.
            let _ = told.send(());
        }
    });
    let wait = |receiver: tokio::sync::oneshot::Receiver<()>| async move {
        if receiver.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    Ok((wait(stop), wait(stop_now)))
}

/// Writes the process ID so that whoever sees the file sees all of it.
fn write_pidfile(path: &Path) -> io::Result<()> {
    let text = format!("{}\n", std::process::id());
    let plain = std::fs::metadata(path).map_or(true, |metadata| metadata.is_file());
    if !plain {
        return std::fs::write(path, text);
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}", std::process::id()));
    std::fs::write(&temporary, text)?;
    std::fs::rename(&temporary, path).inspect_err(|_| {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(&temporary);
    })
}
