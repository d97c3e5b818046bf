//! The backends, with real clients, and beside nbdkit's plugins of the same names.

mod data;
mod file;
mod memory;
mod partitioning;
mod plain;
mod split;

use std::path::Path;

use tempfile::TempDir;

use crate::support::{run, shell};

/// What a program prints that is asked to serve in `directory` while `command` runs.
pub(crate) fn served(program: &str, directory: &Path, arguments: &[&str], command: &str) -> String {
    let mut script = String::from("\"$SERVER\" -U - \"$@\" --run \"$COMMAND\"");
    if program != "memnbd" {
        // What comes after --run is not for the server.
        script.insert_str(0, "ulimit -c 0; ");
    }
    let mut words = vec!["-c".as_ref(), script.as_ref(), "sh".as_ref()];
    words.extend(arguments.iter().map(std::ffi::OsStr::new));
    let server = match program {
        "memnbd" => env!("CARGO_BIN_EXE_memnbd-host"),
        other => other,
    };
    let path = std::env::var("PATH").unwrap_or_default();
    let mut shell = shell(directory, &words);
    shell.env("SERVER", server).env("COMMAND", command);
    run(shell.env("PATH", format!("/usr/bin:{path}"))).success()
}

/// Checks that this program and nbdkit serve the same: the command prints the same with both.
pub(crate) fn same(arguments: &[&str], command: &str) -> String {
    let directory = TempDir::new().unwrap();
    let ours = served("memnbd", directory.path(), arguments, command);
    assert_eq!(ours, served("nbdkit", directory.path(), arguments, command), "{arguments:?}");
    ours
}

/// Prints the size of the disk and a checksum of its content.
const CONTENT: &str = r#"nbdinfo --size "$uri" && nbdcopy "$uri" - | sha256sum"#;
