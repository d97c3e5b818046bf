//! Going to the background: a second process of the same command line serves, and the first one
//! waits until it is ready.
//!
//! The first reads one line from the second's stdout, the URI, which comes when it is ready. Until
//! then the second writes its errors where the first would; then it lets go of the terminal.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Command, ExitCode, Stdio};

/// Set for the process that serves, to the process ID of the one that waits.
const WAITING: &str = "MEMNBD_WAITING";

/// Whether this process was started to serve in the background.
///
/// The variable is inherited by whatever is started from here, so it counts only for the child of
/// the process that it names; and as long as that one waits, it is the parent.
pub(super) fn is_detached() -> bool {
    let Ok(waiting) = std::env::var(WAITING) else { return false };
    rustix::process::getppid().is_some_and(|parent| parent.as_raw_nonzero().to_string() == waiting)
}

/// Starts the process that serves. Returns when it is ready, or with its exit code if it could not.
pub(super) fn detach() -> io::Result<ExitCode> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(WAITING, std::process::id().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    if line.ends_with('\n') {
        io::stdout().write_all(line.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    // It has told why.
    let status = child.wait()?;
    Ok(status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Lets go of the terminal, its session and the directory: nobody must wait for this process.
pub(super) fn leave_terminal() -> io::Result<()> {
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    rustix::process::setsid()?;
    std::env::set_current_dir("/")?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}
