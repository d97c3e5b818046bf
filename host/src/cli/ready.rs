//! Between listening and serving: everybody who waits is told. Clients can connect by then; they are
//! greeted a moment later.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

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
    pidfile: Option<Pidfile>,
    life: Life<'_>,
    log: &Log,
) -> anyhow::Result<()> {
    if let Some(pidfile) = pidfile {
        pidfile.write()?;
    }
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

/// The file of the process ID.
pub(super) struct Pidfile {
    path: PathBuf,
    /// Where another user than the one who serves may write.
    opened: Option<File>,
    written: bool,
}

impl Pidfile {
    /// Opens it, empty, where only the user can whom the process will not be any more.
    pub(super) fn prepare(path: &Path, identity: &Identity) -> anyhow::Result<Self> {
        let plain = std::fs::metadata(path).map_or(true, |metadata| metadata.is_file());
        let opened = match identity.changes() && plain {
            true => Some(File::create(path).with_context(|| format!("write {}", path.display()))?),
            false => None,
        };
        Ok(Self { path: path.to_owned(), opened, written: false })
    }

    /// Writes it, for the server is ready.
    fn write(mut self) -> anyhow::Result<()> {
        let written = match &mut self.opened {
            Some(file) => file.write_all(pid_line().as_bytes()),
            None => write_pidfile(&self.path),
        };
        self.written = written.is_ok();
        written.with_context(|| format!("write {}", self.path.display()))
    }
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        if self.opened.is_some() && !self.written {
            // Where this user may; what is left is empty.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn pid_line() -> String {
    format!("{}\n", std::process::id())
}

/// Writes the process ID so that whoever sees the file sees all of it.
fn write_pidfile(path: &Path) -> io::Result<()> {
    let text = pid_line();
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
