//! Serving in a second process while the first one waits: in the background, or next to the command
//! of --run. Both processes have the same command line, except that the second one gets the arguments
//! in argument files, which may be pipes, from the first.
//!
//! The first process reads one line from the stdout of the second, which is written when the second
//! is ready. Until then the second reports errors where the first would.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use anyhow::bail;
use serde::{Deserialize, Serialize};

use super::args::Args;
use super::tls::{Credentials, Tls};
use memnbd::nbd::TlsMode;

/// The environment variable that gives the serving process the process ID of the waiting one.
const WAITING: &str = "MEMNBD_WAITING";

/// The message that the serving process sends when it is ready.
#[derive(Serialize, Deserialize)]
pub(super) struct Ready {
    /// The URIs of the server, in order; at least one.
    pub(super) uris: Vec<String>,
    /// The port of the first socket that has one.
    pub(super) port: Option<u32>,
    /// The bytes of the path of the first Unix domain socket.
    unix: Option<Vec<u8>>,
    /// The bytes of the paths of private sockets.
    private: Vec<Vec<u8>>,
    /// 1 if clients may use TLS, 2 if they must.
    pub(super) tls: Option<u8>,
    /// The bytes of the directory of certificates.
    certificates: Option<Vec<u8>>,
    /// The bytes of the file of pre-shared keys.
    keys: Option<Vec<u8>>,
}

impl Ready {
    pub(super) fn new(
        uris: Vec<String>,
        port: Option<u32>,
        unix: Option<&Path>,
        private: &[PathBuf],
        tls: &Tls,
    ) -> Self {
        let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
        let (certificates, keys) = match &tls.credentials {
            Credentials::None => (None, None),
            Credentials::Certificates(directory) => (Some(bytes(directory)), None),
            Credentials::Keys(file) => (None, Some(bytes(file))),
        };
        let tls = match tls.mode {
            TlsMode::Off => None,
            TlsMode::On => Some(1),
            TlsMode::Require => Some(2),
        };
        let private = private.iter().map(|path| bytes(path)).collect();
        Self { uris, port, unix: unix.map(bytes), private, tls, certificates, keys }
    }

    /// The path of the first Unix domain socket.
    pub(super) fn unix(&self) -> Option<PathBuf> {
        self.unix.as_deref().map(path)
    }

    /// The directories that were created for private sockets.
    pub(super) fn private(&self) -> Vec<PathBuf> {
        let sockets = self.private.iter().map(|bytes| path(bytes));
        sockets.filter_map(|socket| Some(socket.parent()?.to_owned())).collect()
    }

    /// The directory of certificates.
    pub(super) fn certificates(&self) -> Option<PathBuf> {
        self.certificates.as_deref().map(path)
    }

    /// The file of pre-shared keys.
    pub(super) fn keys(&self) -> Option<PathBuf> {
        self.keys.as_deref().map(path)
    }

    /// Returns the URIs, one per line.
    pub(super) fn lines(&self) -> String {
        self.uris.iter().map(|uri| format!("{uri}\n")).collect()
    }

    /// Sends this message to the waiting process.
    pub(super) fn tell(&self) -> io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        let mut stdout = io::stdout();
        stdout.write_all(&line)?;
        stdout.flush()
    }

    /// Parses a message. Returns `None` if the process ended without sending one.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }
}

fn path(bytes: &[u8]) -> PathBuf {
    OsStr::from_bytes(bytes).into()
}

/// Returns true if another process waits for this one to be ready. This process starts no further
/// servers, so the variable is not inherited by one.
///
/// # Errors
///
/// Returns an error if the waiting process has ended, so that this one is no longer needed.
pub(super) fn is_server_child() -> anyhow::Result<bool> {
    let Ok(waiting) = std::env::var(WAITING) else { return Ok(false) };
    let parent = rustix::process::getppid();
    match parent.is_some_and(|parent| parent.as_raw_nonzero().to_string() == waiting) {
        true => Ok(true),
        false => bail!("process {waiting}, which started this one, has ended"),
    }
}

/// Returns the command that starts the serving process.
pub(super) fn second(args: &Args) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    // The program answers to more than one name.
    if let Some(name) = args.typed.first() {
        command.arg0(name);
    }
    command
        .args(args.typed.iter().skip(1))
        .env(WAITING, std::process::id().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    Ok(command)
}

/// Starts the serving process and waits until it is ready. Returns its message, or its exit code if
/// it failed to start; it has reported the reason itself then.
pub(super) fn detach(args: &Args) -> io::Result<Result<Ready, ExitCode>> {
    let mut child = second(args)?.spawn()?;
    let mut line = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_until(b'\n', &mut line)?;
    }
    match Ready::parse(&line) {
        Some(ready) => Ok(Ok(ready)),
        None => Ok(Err(exit_code(child.wait()?))),
    }
}

/// Converts an exit status into an exit code as a shell does: 128 plus the signal number if the
/// process was killed by a signal.
pub(super) fn exit_code(status: ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| Some(128 + status.signal()?));
    let code = code.and_then(|code| u8::try_from(code).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}

/// Detaches from the terminal, its session and the working directory, so that nothing waits for
/// this process.
pub(super) fn leave_terminal() -> io::Result<()> {
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    rustix::process::setsid()?;
    std::env::set_current_dir("/")?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}
