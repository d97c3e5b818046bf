//! The benchmarks' own program: its logic, and that it measures, cleans up and stops.
//!
//! No figure decides anything here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::{LIMIT, finish_within, require, run, shell, wait_until};

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/bench");

/// The program, with directories for temporary files and results of the test's own.
fn driver(directory: &TempDir, arguments: &[&str]) -> Command {
    let program = format!("exec python3 -B {DIRECTORY} run --binary \"$MEMNBD\" \"$@\"");
    let fixed = ["-c", &program, "driver", "--quick", "--output", "results"];
    let arguments: Vec<_> = fixed.iter().chain(arguments).map(|word| word.as_ref()).collect();
    let temporary = directory.path().join("temporary");
    fs::create_dir(&temporary).expect("the test's directory is writable");
    let mut command = shell(directory.path(), &arguments);
    command.env("TMPDIR", temporary);
    command
}

/// What the benchmarks take for the ceiling, made as `make bench` does.
fn null_server(directory: &TempDir) -> PathBuf {
    let path = directory.path().join("null-server");
    let source = Path::new(DIRECTORY).join("null_server.rs");
    let mut command = Command::new("rustc");
    command.args(["--edition", "2024", "-O", "-o"]).arg(&path).arg(source);
    run(&mut command).success();
    path
}

/// The temporary directories that the program made and has not removed.
fn left_over(directory: &TempDir) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory.path().join("temporary")).expect("it was made");
    entries.map(|entry| entry.expect("it is readable").path()).collect()
}

#[test]
fn logic_of_the_driver_is_right() {
    require!("python3");
    let mut command = Command::new("python3");
    run(command.args(["-B", "-m", "unittest", "discover", "-s", DIRECTORY])).success();
}

#[test]
fn servers_are_measured() {
    require!("python3", "rustc", "fio", "nbdcopy", "mke2fs");
    let directory = TempDir::new().unwrap();
    let null = null_server(&directory);
    let chosen = "^(unix/randread-4k-qd64|unix/write-1m-qd8|image/nbdcopy-(in|out)|start/.*)$";
    let mut command = driver(&directory, &["--servers", "memnbd,null", "--only", chosen]);
    command.args(["--seconds", "0.2", "--size", "16m", "--image-size", "16m", "--null"]).arg(null);
    let printed = run(&mut command).success();

    let results = directory.path().join("results");
    let text = fs::read_to_string(results.join("results.json")).unwrap();
    let text: serde_json::Value = serde_json::from_str(&text).unwrap();
    let measurements = text["measurements"].as_array().unwrap();
    assert_eq!(measurements.len(), 6, "{printed}");
    for each in measurements {
        let name = each["name"].as_str().unwrap();
        let figures = |server| each["values"][server].as_array().map_or(0, Vec::len);
        let rounds = if name.starts_with("start/") { 5 } else { 1 };
        assert_eq!(figures("memnbd"), rounds, "{name}\n{printed}");
        // It stores nothing, so there is nothing to copy out of it.
        let rounds = if name.starts_with("image/") { 0 } else { rounds };
        assert_eq!(figures("null"), rounds, "{name}\n{printed}");
        let all = each["values"].as_object().unwrap().values().flat_map(|each| each.as_array());
        assert!(all.flatten().all(|figure| figure.as_f64().unwrap() > 0.0), "{name}\n{printed}");
    }
    assert!(fs::read_to_string(results.join("results.svg")).unwrap().ends_with("</svg>\n"));
    let tables = fs::read_to_string(results.join("results.md")).unwrap();
    assert!(tables.contains("| randread-4k-qd64 | requests/s |"), "{tables}");
    assert!(left_over(&directory).is_empty(), "{:?}", left_over(&directory));
}

#[test]
fn interrupted_driver_leaves_nothing_behind() {
    require!("python3", "fio");
    let directory = TempDir::new().unwrap();
    let mut command = driver(&directory, &["--servers", "memnbd", "--only", "^unix/", "--size=1m"]);
    let mut child = command.args(["--seconds", "600"]).spawn().unwrap();
    let listens = || {
        let mut entries = left_over(&directory).into_iter().filter_map(|path| path.read_dir().ok());
        let is_socket = |path: PathBuf| path.extension().is_some_and(|kind| kind == "sock");
        entries.any(|mut entries| entries.any(|entry| is_socket(entry.unwrap().path())))
    };
    let listened = wait_until(LIMIT, listens);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let status = finish_within(&mut child, LIMIT);
    assert!(listened, "it starts a server");
    assert_eq!(status.and_then(|status| status.code()), Some(130));
    assert!(left_over(&directory).is_empty(), "{:?}", left_over(&directory));
}

#[test]
fn what_makes_no_sense_is_refused() {
    require!("python3");
    for (wrong, said) in [
        (["--servers", "nbdkti"], "'nbdkti' is none of memnbd, nbdkit, qemu-nbd, null"),
        (["--only", "("], "'(' is not a regular expression"),
        (["--size", "1q"], "'1q' is not a size like 512m or 1g"),
        (["--rounds", "0"], "0 is not 1 or more"),
        (["--pin", "all"], "'all' is not a list of CPUs like 0,2-3"),
    ] {
        let directory = TempDir::new().unwrap();
        let error = run(&mut driver(&directory, &wrong)).failure(2);
        assert!(error.contains(said), "{error}");
    }
}
