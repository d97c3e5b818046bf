//! `-P` in a directory where others can make files, too.

use std::fs;
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::background::Background;
use crate::support::{memnbd, run};

#[test]
fn link_in_place_of_a_pidfile_is_replaced() {
    let directory = TempDir::new().unwrap();
    let victim = directory.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    symlink("victim", directory.path().join("pid")).unwrap();
    run(&mut memnbd(directory.path(), ["-P", "pid", "-U", "socket", "1M"])).success();
    let server = Background::of(&directory.path().join("pid"));
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    server.stop();
}

#[test]
fn link_is_refused_where_it_cannot_be_replaced() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let directory = TempDir::new().unwrap();
    let victim = directory.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    let pidfile = directory.path().join("pid");
    let arguments = ["-u", "nobody", "-P", "pid", "-p", "0"];
    symlink("victim", &pidfile).unwrap();
    let error = run(memnbd(directory.path(), arguments).arg("1M")).failure(1);
    assert!(error.contains("pid: "), "{error}");
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    fs::remove_file(&pidfile).unwrap();
    // One that was made before the start failed, and that the other user cannot remove, is empty.
    run(memnbd(directory.path(), arguments).arg("2X")).failure(2);
    assert!(fs::read(&pidfile).unwrap_or_default().is_empty());
}
