//! --run: serving for as long as a shell command runs.
//!
//! The server is a separate process, so that its death is noticed. It is in its own process group,
//! out of reach of the terminal's Ctrl-C, which is meant for the command.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use super::Failure;
use super::args::Args;
use super::background::{self, Ready};

/// Starts the server, runs the command, and stops the server. Returns the exit code of the command,
/// or that of the server if only the server failed.
pub(super) fn run(args: &Args, command: &OsStr) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start a runtime")?;
    Ok(runtime.block_on(supervise(args, command))?)
}

async fn supervise(args: &Args, command: &OsStr) -> anyhow::Result<ExitCode> {
    // Signals are handled before there is anything that they could leave behind.
    let mut signals = Signals::new().context("handle signals")?;
    let mut second = background::second(args)?;
    second.process_group(0);
    let mut server = Command::from(second).spawn().context("start the server")?;
    let Some(ready) = signals.readiness(&mut server).await? else {
        // The server has reported the reason itself, or was asked to stop.
        return Ok(background::exit_code(end_of_server(&mut server).await?));
    };
    // Removes the directories in case the server does not get to it.
    let _private = RemovedAtEnd(ready.private());
    if args.life.print_uri {
        super::print(&ready.lines())?;
    }
    let mut script = variables(args, &ready);
    script.push(command);
    let command = Command::new("/bin/sh").arg("-c").arg(script).spawn();
    let mut command = command.context("run /bin/sh")?;
    let (status, died) = signals.end_of(args, &mut command, &mut server).await?;
    let code = match died {
        None => {
            forward(&server, Signal::TERM);
            end_of_server(&mut server).await?;
            background::exit_code(status)
        }
        // A failure of the command takes precedence over one of the server.
        Some(server) if status.success() => background::exit_code(server),
        Some(_) => background::exit_code(status),
    };
    Ok(code)
}

/// The signals that this process handles.
struct Signals {
    /// The terminal sends this and the next one to the command as well, which decides how to react.
    interrupt: tokio::signal::unix::Signal,
    quit: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits until the server is ready. Returns `None` if it ends instead, or is asked to stop.
    async fn readiness(&mut self, server: &mut Child) -> anyhow::Result<Option<Ready>> {
        let Some(stdout) = server.stdout.take() else { return Ok(None) };
        let mut stdout = BufReader::new(stdout);
        let mut line = Vec::new();
        loop {
            tokio::select! {
                read = stdout.read_until(b'\n', &mut line) => {
                    read?;
                    return Ok(Ready::parse(&line));
                }
                _ = self.terminate.recv() => {
                    forward(server, Signal::TERM);
                    return Ok(None);
                }
                _ = self.hangup.recv() => {}
            }
        }
    }

    /// Waits for the command. Returns its exit status, and that of the server if it has ended too.
    async fn end_of(
        &mut self,
        args: &Args,
        command: &mut Child,
        server: &mut Child,
    ) -> anyhow::Result<(ExitStatus, Option<ExitStatus>)> {
        let mut died = None;
        loop {
            tokio::select! {
                // A server that ends with its last client may end at the same moment as the
                // command.
                biased;
                status = command.wait() => {
                    let status = status.context("wait for the command")?;
                    let died = match died {
                        None => server.try_wait().context("wait for the server")?,
                        died => died,
                    };
                    return Ok((status, died));
                }
                status = server.wait(), if died.is_none() => {
                    let status = status.context("wait for the server")?;
                    if !status.success() {
                        let name = args.logging.program();
                        eprintln!("{name}: the server died while the command ran: {status}");
                    }
                    died = Some(status);
                }
                _ = self.terminate.recv() => forward(command, Signal::TERM),
                _ = self.hangup.recv() => forward(command, Signal::HUP),
            }
        }
    }
}

/// Waits for a server that was asked to stop. A further signal is forwarded; as its second, it ends
/// the server immediately.
async fn end_of_server(server: &mut Child) -> anyhow::Result<ExitStatus> {
    // New streams do not deliver signals that were received earlier.
    let mut signals = Signals::new().context("handle signals")?;
    loop {
        tokio::select! {
            status = server.wait() => return status.context("wait for the server"),
            _ = signals.interrupt.recv() => {}
            _ = signals.quit.recv() => {}
            _ = signals.terminate.recv() => {}
        }
        forward(server, Signal::TERM);
    }
}

fn forward(child: &Child, signal: Signal) {
    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        // The child may have just ended.
        let _ = kill_process(pid, signal);
    }
}

/// Returns assignments of shell variables, which are not exported to the command's children.
fn variables(args: &Args, ready: &Ready) -> OsString {
    let mut script = OsString::new();
    let mut assign = |name: &str, value: &OsStr| {
        script.push(name);
        script.push("=");
        script.push(quote(value));
        script.push("\n");
    };
    let uri = ready.uris.first().map_or("", String::as_str);
    assign("uri", uri.as_ref());
    assign("nbd", uri.as_ref());
    let port = ready.port.map(|port| port.to_string()).unwrap_or_default();
    assign("port", port.as_ref());
    assign("unixsocket", ready.unix().unwrap_or_default().as_os_str());
    assign("tls_certificates", ready.certificates().unwrap_or_default().as_os_str());
    assign("tls_psk", ready.keys().unwrap_or_default().as_os_str());
    let tls = ready.tls.map(|tls| tls.to_string()).unwrap_or_default();
    assign("tls", tls.as_ref());
    assign("exportname", args.export_name().as_ref());
    script
}

/// Quotes arbitrary bytes as a single shell word.
fn quote(value: &OsStr) -> OsString {
    // Quoting fails only for a NUL byte, which no argument, name or path contains.
    let quoted = shlex::bytes::try_quote(value.as_bytes()).unwrap_or_default();
    OsString::from_vec(quoted.into_owned())
}

/// Directories to remove when this is dropped.
struct RemovedAtEnd(Vec<PathBuf>);

impl Drop for RemovedAtEnd {
    fn drop(&mut self) {
        for directory in &self.0 {
            // Usually the server has already removed it.
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}
