//! The step between listening and serving: everyone who waits for the server is notified. Clients
//! can connect by then, and are greeted a moment later.

use anyhow::{Context as _, bail};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use sd_notify::NotifyState;

use super::args::Args;
use super::background::{self, Ready};
use super::log::Log;
use super::pidfile::Pidfile;
use super::plan::Life;

/// Announces that the server is ready: in the pidfile, to systemd, and on stdout.
pub(super) fn tell(
    args: &Args,
    pidfile: Option<Pidfile>,
    ready: &Ready,
    inherited: bool,
    life: Life<'_>,
    log: &Log,
) -> anyhow::Result<()> {
    // Dropped, and so removed, if a later step fails.
    let pidfile = match pidfile {
        Some(pidfile) => pidfile.write()?,
        None => None,
    };
    let status = format!("Serving {}", ready.uris.join(" "));
    let pid = std::process::id();
    let states = [NotifyState::Ready, NotifyState::MainPid(pid), NotifyState::Status(&status)];
    if let Err(error) = sd_notify::notify(&states) {
        tracing::warn!("NOTIFY_SOCKET: {error}");
    }
    match life {
        // The process that created the sockets knows their addresses.
        Life::Foreground if inherited && !args.life.print_uri => {}
        Life::Foreground if !args.manner.prints_uri(args) => {}
        Life::Foreground => super::print(&ready.lines())?,
        Life::Background => {
            // Leaving the terminal redirects stdout and stderr, so the waiting process is notified
            // first.
            ready.tell().context("write to stdout")?;
            log.leave_terminal();
            background::leave_terminal().context("go to the background")?;
        }
        Life::Captive(_) => ready.tell().context("write to stdout")?,
    }
    if let Some(pidfile) = pidfile {
        pidfile.keep();
    }
    Ok(())
}

/// Sets the name of this process in process listings, as given by `--name`.
pub(super) fn set_name(args: &Args) {
    let name = args.logging.name.as_deref().and_then(|name| std::ffi::CString::new(name).ok());
    if let Some(name) = name {
        // The kernel truncates the name to 15 bytes, and does not fail otherwise.
        let _ = rustix::thread::set_name(&name);
    }
}

/// Has the kernel send SIGTERM to this process when its parent ends, if `--exit-with-parent` was
/// given or the parent is the one that runs the command of `--run`.
pub(super) fn end_with_parent(args: &Args, life: Life<'_>) -> anyhow::Result<()> {
    if !args.life.exit_with_parent && !matches!(life, Life::Captive(_)) {
        return Ok(());
    }
    let parent = getppid();
    set_parent_process_death_signal(Some(Signal::TERM)).context("--exit-with-parent")?;
    if getppid() != parent {
        bail!("--exit-with-parent: the parent has ended already");
    }
    Ok(())
}
