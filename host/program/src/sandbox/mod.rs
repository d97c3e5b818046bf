//! Confining the process to what it was started for.
//!
//! Components are kept in by WebAssembly. Should one break out, or a client take over the process, the kernel
//! keeps the process in: it opens the files that the command line and the configuration file name and
//! what the C library needs, starts no program, connects to no TCP port, and makes no system calls but
//! those of a server. Files are restricted before there are other threads and before anything is read
//! that others wrote; system calls once the sockets are there and the user is the one that serves.
//!
//! - `places`: which files are named.

mod places;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};

use anyhow::Context as _;
use clap::ValueEnum;
use memnbd::component::{Broker, BuiltIn};
use memnbd::confinement::{Calls, Extent, Files, Rights};
use rustix::fs::Access;
use serde_json::{Value, json};

use super::args::Args;
use super::companion::Companion;
use super::components;
use super::exports::cache_directory;
use super::privileges::Identity;

/// Whether the process is confined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Sandbox {
    /// As far as the kernel can do that.
    On,
    /// Not at all.
    Off,
}

/// Whether files are restricted, for [`explained`].
static RESTRICTED: AtomicBool = AtomicBool::new(false);

/// What is left to do once files are restricted.
pub(super) struct Confined {
    on: bool,
    files: Extent,
    /// What can be opened, for the log.
    places: Files,
    /// Closed by the companion when it is restricted.
    companion: Receiver<()>,
    /// Starts compilers, which this process cannot.
    pub(super) broker: Option<Broker>,
}

impl Sandbox {
    /// Returns what an option asks for, where other options may need what would be refused.
    pub(super) fn of(args: &Args) -> Self {
        // Scripts are programs, and nobody knows what they need.
        if args.allow_scripts { Self::Off } else { args.life.sandbox }
    }
}

/// Restricts the files that this process can open from now on. The only other thread is the companion,
/// which follows.
///
/// # Errors
///
/// Returns an error if the kernel can restrict files and refuses to, or if the process that starts
/// compilers cannot be started.
pub(super) fn enter(
    args: &Args,
    identity: &Identity,
    companion: &Companion,
) -> anyhow::Result<Confined> {
    if Sandbox::of(args) == Sandbox::Off {
        return Ok(Confined {
            on: false,
            files: Extent::None,
            places: Files::default(),
            companion: mpsc::channel().1,
            broker: None,
        });
    }
    let mut places = places::named(args);
    let broker = if may_compile(args) {
        let cache = cache_directory(identity.home());
        let broker = Broker::start(identity.uid(), identity.gid(), cache.as_deref());
        if let Some(cache) = cache {
            places.allow(cache, Rights::Change);
        }
        Some(broker.context("start the process that starts compilers (--sandbox=off)")?)
    } else {
        None
    };
    debug_assert!(threads() <= 2, "a thread is there already and would not be restricted");
    let refused = "restrict the files of this process (--sandbox=off)";
    let rules = places.rules().context(refused)?;
    let of_companion = rules.try_clone().context(refused)?;
    let files = rules.apply_to_thread().context(refused)?;
    // A thread that could not be started is missed by those who need it.
    let (done, companion_is_done) = mpsc::channel();
    let _ = companion.run(move || {
        let _done: Sender<()> = done;
        if of_companion.apply_to_thread().is_err() {
            // What this thread has to do, it must not do unrestricted.
            std::process::abort();
        }
    });
    RESTRICTED.store(files != Extent::None, Ordering::Relaxed);
    Ok(Confined { on: true, files, places, companion: companion_is_done, broker })
}

impl Confined {
    /// Restricts the system calls of all threads.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel can do that and refuses to.
    pub(super) fn complete(&self) -> anyhow::Result<()> {
        if !self.on {
            tracing::debug!("the process is not confined");
            return Ok(());
        }
        let calls = Calls::serving().apply_to_process();
        let calls = calls.context("restrict the system calls of this process (--sandbox=off)")?;
        tracing::debug!("confined by the kernel: files {}, system calls {calls}", self.files);
        let named = self.places.iter().filter(|(path, _)| !places::is_of_system(path));
        for (path, rights) in named {
            tracing::debug!("can be opened: {} ({rights:?})", path.display());
        }
        if self.broker.is_some() {
            self.wait_for_companion();
        }
        Ok(())
    }

    /// Waits until the companion is restricted as well. It may be busy until then with the default component,
    /// which is needed anyway.
    pub(super) fn wait_for_companion(&self) {
        let _ = self.companion.recv();
    }
}

/// The number of threads of this process.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

/// Returns true if a component may have to be compiled: one that is a file, or a built-in one that is
/// not compiled.
fn may_compile(args: &Args) -> bool {
    let named = |name: &str| components::is_path(name);
    let (choice, _) = components::choose(args.component.as_deref(), &args.parameters);
    let of_exports = args.exports.iter().any(|text| text.contains('/') || text.contains(".wasm"));
    matches!(choice, components::Choice::Named(name) if named(&name))
        || args.filters.iter().any(|name| named(name))
        || of_exports
        || !args.control.control.is_empty()
        || args.control.config.is_some()
        || BuiltIn::ALL.iter().any(|built_in| !built_in.has_code())
}

/// Returns what the sandbox of a server with these arguments is, for --dump-config. This process is
/// confined to find out what the kernel does, so it can only print it afterwards.
pub(super) fn told(args: &Args) -> Value {
    if Sandbox::of(args) == Sandbox::Off {
        return json!({ "mode": "off" });
    }
    let places = places::named(args);
    let restricted = std::thread::spawn({
        let places = places.clone();
        move || places.rules()?.apply_to_thread()
    });
    let files = restricted.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()));
    let word = |extent: io::Result<Extent>| match extent {
        Ok(extent) => extent.to_string(),
        Err(error) => error.to_string(),
    };
    let paths: Vec<_> = places.iter().map(|(path, _)| path.to_string_lossy()).collect();
    let calls = Calls::serving().apply_to_process();
    json!({ "mode": "on", "files": word(files), "calls": word(calls), "paths": paths })
}

/// Adds to an error what refused to open a path, if it was the sandbox: the permissions of the file allow
/// it.
pub(super) fn explained(path: &Path, error: io::Error) -> io::Error {
    let directory = path.parent().unwrap_or(path);
    of_sandbox(error, path, Access::READ_OK, directory, "opens only what was named")
}

/// The same for a socket that was to be created in a directory.
pub(super) fn explained_socket(directory: &Path, error: io::Error) -> io::Error {
    let rule = "creates sockets only in directories that were named";
    of_sandbox(error, directory, Access::WRITE_OK, directory, rule)
}

fn of_sandbox(
    error: io::Error,
    path: &Path,
    wanted: Access,
    directory: &Path,
    rule: &str,
) -> io::Error {
    let denied = error.kind() == io::ErrorKind::PermissionDenied;
    let permitted = || rustix::fs::access(path, wanted).is_ok();
    if !denied || !RESTRICTED.load(Ordering::Relaxed) || !permitted() {
        return error;
    }
    io::Error::new(
        error.kind(),
        format!(
            "{error}: in its sandbox, the server {rule} when it started; start it with \
             --sandbox-path={} as well",
            directory.display()
        ),
    )
}
