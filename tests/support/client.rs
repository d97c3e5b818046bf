//! Clients: programs that may be missing.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::process::run;
use super::server::Server;

/// Where a program is. Some are for root and live where the PATH of other users does not lead.
fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    places.map(|place| place.join(program)).find(|file| file.is_file())
}

/// Says that a program is missing, which in CI is a failure.
pub(crate) fn is_missing(program: &str) -> bool {
    let missing = find(program).is_none();
    if missing {
        skip(program);
    }
    missing
}

fn skip(program: &str) {
    assert!(env::var_os("CI").is_none(), "{program} is missing; `.ci/setup test` installs it");
    eprintln!("skipped, for {program} is missing; `.ci/setup test` installs it");
}

/// A client to be run in the server's directory.
pub(crate) fn client(server: &Server, program: &str) -> Command {
    let found = find(program).unwrap_or_else(|| panic!("a test that runs {program} requires it"));
    let mut command = Command::new(found);
    command.current_dir(server.path(""));
    command
}

/// Runs Python code in nbdsh, where `h` is a connection; what it prints.
pub(crate) fn nbdsh(server: &Server, code: &str) -> String {
    // It takes the first python3, but its module is the system's.
    let path = env::var("PATH").unwrap_or_default();
    let mut command = client(server, "nbdsh");
    command.env("PATH", format!("/usr/bin:{path}"));
    run(command.args(["--base-allocation", "-u", server.uri(), "-c", code])).success()
}

/// Checks that the log of a server started with `-v` says which headers replies had.
pub(crate) fn assert_served_with(server: &Server, style: &str) {
    let text = format!("served with {style} replies");
    assert!(server.log().iter().any(|line| line.contains(&text)), "{:#?}", server.log());
}

/// The tool that makes components of Python code, where `.ci/setup test` puts it or in the PATH.
pub(crate) fn python_component_tool() -> Option<PathBuf> {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/venv/bin/componentize-py");
    let found = find("componentize-py").or_else(|| ours.is_file().then_some(ours));
    if found.is_none() {
        skip("componentize-py");
    }
    found
}
