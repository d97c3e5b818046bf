//! Between listening and serving: everybody who waits is told, and the process becomes what it will
//! be. Clients can connect by then; they are greeted a moment later.

use std::io;
use std::path::Path;

use anyhow::{Context as _, bail};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use sd_notify::NotifyState;

use super::args::Args;
use super::background::{self, Ready};
use super::log::Log;
use super::plan::Life;
use super::privileges::Identity;

/// Tells that the server is ready, by the pidfile, to systemd, and on stdout.
pub(super) fn tell(
    args: &Args,
    ready: &Ready,
    inherited: bool,
    identity: &Identity,
    life: Life<'_>,
    log: &Log,
) -> anyhow::Result<()> {
    if let Some(pidfile) = &args.life.pidfile {
        // Where only the former user can.
        write_pidfile(pidfile).with_context(|| format!("write {}", pidfile.display()))?;
    }
    identity.assume().inspect_err(|_| {
        // What it tells would not be true.
        let _ = args.life.pidfile.as_ref().map(std::fs::remove_file);
    })?;
    // The kernel forgets it with the former user.
    end_with_parent(args, life)?;
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
