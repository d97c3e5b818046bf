//! Between listening and serving: everybody who waits is told. Clients can connect by then; they are
//! greeted a moment later.

use anyhow::{Context as _, bail};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use sd_notify::NotifyState;

use super::args::Args;
use super::background::{self, Ready};
use super::log::Log;
use super::pidfile::Pidfile;
use super::plan::Life;

/// Tells that the server is ready, by the pidfile, to systemd, and on stdout.
pub(super) fn tell(
    args: &Args,
    pidfile: Option<Pidfile>,
    ready: &Ready,
    inherited: bool,
    life: Life<'_>,
    log: &Log,
) -> anyhow::Result<()> {
    // Removed again should the rest fail.
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
        // Whoever made the sockets knows where they are.
        Life::Foreground if inherited && !args.life.print_uri => {}
        Life::Foreground => super::print(&ready.lines())?,
        Life::Background => {
            // A log that cannot be had is told before all is well.
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

/// What lists of processes call this one.
pub(super) fn set_name(args: &Args) {
    let name = args.logging.name.as_deref().and_then(|name| std::ffi::CString::new(name).ok());
    if let Some(name) = name {
        // The kernel cuts it at 15 bytes; it does not fail otherwise.
        let _ = rustix::thread::set_name(&name);
    }
}

/// Has the kernel stop this process when its parent ends, where that was asked for or the parent is
/// there for it.
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
