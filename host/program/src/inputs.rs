//! The files that an expression of the built-in component `data` names, and the output of its scripts.
//!
//! The component is in a sandbox. The program parses the expression as the component does, opens what
//! it names, and gives it to the component through its parameter `input-file`, in the order of the
//! expression. Whoever wrote the command line named the files, so this is for the built-in component
//! alone: another one of the same name gets nothing.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use data::language::{self, InputUse, MAX_FILE_BYTES, Source};
use memnbd::component::Description;
use memnbd::parameters::key_value;
use rustix::fs::{MemfdFlags, OFlags};

use super::{background, bounded};

/// The name of the component.
pub(super) const COMPONENT: &str = "data";

/// The parameter of the component that gives it files.
pub(super) const PARAMETER: &str = "input-file";

/// The parameter with the expression.
const EXPRESSION: &str = "data";

/// Time limit for a script, and for reading from a pipe or a device.
const LIMIT: Duration = Duration::from_secs(60);

/// What an expression may read outside of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Allowed {
    /// Nothing: it comes from somebody who has not the server's rights.
    Nothing,
    /// Files, and variables of the environment.
    Files,
    /// The output of scripts, too.
    Scripts,
}

/// What an expression reads.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    /// For each input, what messages call it, and its content.
    pub(super) files: Vec<(String, Arc<OwnedFd>)>,
    /// Variables that are set in the environment, as NAME=VALUE.
    variables: Vec<String>,
}

impl Inputs {
    /// Opens the files that the words of the component name, and runs the scripts. Relative paths
    /// begin at `directory`, which is also that of the scripts.
    ///
    /// If the expression is wrong, nothing is opened: the component reports the error.
    ///
    /// # Errors
    ///
    /// Returns a message if a file cannot be read, if a script fails, or if they are not allowed.
    pub(super) fn open(
        words: &[String],
        description: &Description,
        directory: &Path,
        allowed: Allowed,
    ) -> Result<Self, String> {
        let mut given: BTreeMap<&str, &str> = BTreeMap::new();
        given.extend(words.iter().map(|word| key_value(word).unwrap_or((EXPRESSION, word))));
        // With input-file= the command line names the files itself.
        let Some(&expression) = given.get(EXPRESSION) else { return Ok(Self::default()) };
        let is_parameter = |name: &str| description.parameters.iter().any(|one| one.name == name);
        let used = RefCell::new(BTreeMap::new());
        let variable = |name: &str| {
            if let Some(value) = given.get(name).filter(|_| !is_parameter(name)) {
                return Some((*value).to_owned());
            }
            if allowed == Allowed::Nothing {
                return None;
            }
            let value = std::env::var(name).ok().filter(|_| !is_parameter(name))?;
            used.borrow_mut().insert(name.to_owned(), value.clone());
            Some(value)
        };
        let Ok(uses) = language::inputs(expression, &variable) else {
            return Ok(Self::with_variables(used.into_inner()));
        };
        let mut inputs = Self::with_variables(used.into_inner());
        if given.contains_key(PARAMETER) {
            return Ok(inputs);
        }
        let mut remaining = MAX_FILE_BYTES;
        for InputUse { input, end } in uses {
            let what = What(&input.source);
            let opened = match &input.source {
                _ if allowed == Allowed::Nothing => Err(format!(
                    "files and scripts in an expression are for the command line; write the data \
                     itself, or give {PARAMETER}= the name of a file that the administrator granted"
                )),
                Source::File(name) => file(&directory.join(name), end, &mut remaining),
                Source::Script(_) if allowed != Allowed::Scripts => Err(
                    "scripts run as the user who starts the server, and so only with --allow-scripts"
                        .into(),
                ),
                Source::Script(script) => output(script, directory, end, &mut remaining),
            };
            let opened = opened.map_err(|error| format!("{COMPONENT}: {what}: {error}"))?;
            inputs.files.push((what.to_string(), Arc::new(opened)));
        }
        Ok(inputs)
    }

    fn with_variables(variables: BTreeMap<String, String>) -> Self {
        let words = variables.into_iter().map(|(name, value)| format!("{name}={value}"));
        Self { files: Vec::new(), variables: words.collect() }
    }

    /// Returns the words that the component gets in addition to its own.
    pub(super) fn words(&self) -> Vec<String> {
        let files = self.files.iter().map(|(what, _)| format!("{PARAMETER}={what}"));
        self.variables.iter().cloned().chain(files).collect()
    }
}

/// An input, in messages.
struct What<'a>(&'a Source);

impl fmt::Display for What<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 40;
        match self.0 {
            Source::File(name) => write!(f, "<{name}"),
            Source::Script(script) if script.chars().count() > LONGEST => {
                let start: String = script.chars().take(LONGEST).collect();
                write!(f, "<({start}...)")
            }
            Source::Script(script) => write!(f, "<({script})"),
        }
    }
}

/// Opens a file. A regular file or block device is opened as it is; of a pipe or a character device,
/// a copy of what is used is made.
fn file(path: &Path, end: Option<u64>, remaining: &mut usize) -> Result<OwnedFd, String> {
    // The first process has it, and does not pass it on.
    let is_stdin = ["/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"].iter().any(|one| path == *one);
    if is_stdin && background::is_server_child().unwrap_or(true) {
        return Err("a server in the background or with --run has no stdin; use a file".into());
    }
    let kind = std::fs::metadata(path).map_err(|error| error.to_string())?.file_type();
    if kind.is_dir() || kind.is_socket() {
        let kind = if kind.is_dir() { "directory" } else { "socket" };
        return Err(format!("it is a {kind}; files, devices and pipes can be read"));
    }
    if kind.is_file() || kind.is_block_device() {
        // Without blocking, because the path may name a pipe by now. What it names is checked again
        // when the component's device is made of it.
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
        let opened = File::options().read(true).custom_flags(flags).open(path);
        return opened.map(OwnedFd::from).map_err(|error| error.to_string());
    }
    let limit = stream_limit(end, *remaining)?;
    let path = path.to_owned();
    // Opening a pipe waits until somebody writes to it.
    let read = within_limit(move || {
        let noctty = OFlags::NOCTTY.bits().cast_signed();
        read_some(File::options().read(true).custom_flags(noctty).open(path)?, limit)
    })?;
    kept(&read.map_err(|error| error.to_string())?, remaining)
}

/// Runs a shell script and returns its output.
fn output(
    script: &str,
    directory: &Path,
    end: Option<u64>,
    remaining: &mut usize,
) -> Result<OwnedFd, String> {
    let limit = stream_limit(end, *remaining)?;
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(script).current_dir(directory).process_group(0);
    let mut child = shell.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(text)?;
    let Some(stdout) = child.stdout.take() else { return Err("it has no output".into()) };
    let read = within_limit(move || read_some(stdout, limit));
    let whole = matches!(&read, Ok(Ok(bytes)) if bytes.len() < limit);
    let status = end_of(child, whole).map_err(text)?;
    let bytes = read?.map_err(text)?;
    // One whose output was cut is killed.
    if whole && !status.success() {
        return Err(format!("the script failed: {status}"));
    }
    kept(&bytes, remaining)
}

fn text(error: io::Error) -> String {
    error.to_string()
}

/// Waits for the end of a script that has written all its output, or kills it with its children.
fn end_of(mut child: Child, whole: bool) -> io::Result<ExitStatus> {
    if !whole && let Some(group) = rustix::process::Pid::from_raw(child.id().cast_signed()) {
        // It may have just ended.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    child.wait()
}

/// Returns how many bytes of a stream are read. One more than may be used shows that it is too long.
fn stream_limit(end: Option<u64>, remaining: usize) -> Result<usize, String> {
    match end {
        None => Ok(remaining + 1),
        Some(end) => match usize::try_from(end) {
            Ok(end) if end <= remaining => Ok(end),
            _ => Err(format!(
                "the slice ends at {end}; all pipes, devices and scripts together are read up to \
                 {MAX_FILE_BYTES} bytes"
            )),
        },
    }
}

fn read_some(from: impl Read, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(limit as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Runs a function that may wait for ever. Gives up after [`LIMIT`].
fn within_limit<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    let (sender, receiver) = std::sync::mpsc::channel();
    // Nobody receives the result of one that took too long.
    bounded::within(LIMIT, move || _ = sender.send(work()));
    let late = |_| format!("it was not read to its end within {} s", LIMIT.as_secs());
    receiver.try_recv().map_err(late)
}

/// Keeps bytes in memory, as a file.
fn kept(bytes: &[u8], remaining: &mut usize) -> Result<OwnedFd, String> {
    let left = remaining.checked_sub(bytes.len());
    *remaining = left.ok_or_else(|| {
        format!(
            "it has more bytes than may be read, {MAX_FILE_BYTES} with the other ones; slice it, as \
             in [:512]"
        )
    })?;
    let memory = rustix::fs::memfd_create(c"memnbd-input", MemfdFlags::CLOEXEC);
    let mut file = File::from(memory.map_err(|error| error.to_string())?);
    file.write_all(bytes).map_err(text)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests;
