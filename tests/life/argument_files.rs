//! Arguments that come from files.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::{memnbd, require, run, shell};

#[test]
fn file_stands_for_its_arguments() {
    require!("nbdinfo", "bash");
    let directory = TempDir::new().unwrap();
    let here = directory.path();
    fs::write(here.join("args"), "# A disk.\n-U\n-\n\n--run\nnbdinfo --size \"$uri\"\n").unwrap();
    fs::write(here.join("data"), "data\n@510 0x55 0xAA\nsize=1K").unwrap();
    assert_eq!(run(&mut memnbd(here, ["memory", "@args", "1M"])).success(), "1048576\n");
    assert_eq!(run(&mut memnbd(here, ["@data", "@./args"])).success(), "1024\n");
    // Offsets of data are no files, even if there are such files.
    fs::write(here.join("510 1"), "--no-such-option").unwrap();
    assert_eq!(run(&mut memnbd(here, ["@args", "data", "@510 1"])).success(), "511\n");
    fs::write(here.join("510 1"), "--no-such-option").unwrap();
    // A pipe can be read once, but there are two processes.
    let program = env!("CARGO_BIN_EXE_memnbd-host");
    let script = format!("{program} @<(echo memory; echo 2M) @args");
    let mut bash = Command::new("bash");
    assert_eq!(run(bash.current_dir(here).args(["-c", &script])).success(), "2097152\n");
    let script = format!(
        "{program} -P pid -U socket @<(echo memory; echo 3M) > log
        nbdinfo --size 'nbd+unix:///?socket=socket'
        kill $(cat pid)"
    );
    let mut bash = Command::new("bash");
    assert_eq!(run(bash.current_dir(here).args(["-c", &script])).success(), "3145728\n");
    // The link to the program called nbdkit has them as well.
    std::os::unix::fs::symlink(program, here.join("nbdkit")).unwrap();
    let mut linked = shell(here, &["-c".as_ref(), "./nbdkit memory @args 5M".as_ref()]);
    assert_eq!(run(&mut linked).success(), "5242880\n");
}

#[test]
fn files_that_cannot_be_read_are_told_and_nothing_hangs() {
    require!("mkfifo");
    let directory = TempDir::new().unwrap();
    let here = directory.path();
    fs::write(here.join("latin"), b"1M\nname=\xe4\n").unwrap();
    fs::write(here.join("nested"), "@latin\n").unwrap();
    run(Command::new("mkfifo").arg(here.join("pipe"))).success();
    let start = Instant::now();
    for (argument, words) in [
        ("@none", &["@none: No such file", "--option=@none"][..]),
        ("@.", &["directory"]),
        ("@latin", &["latin: line 2: it is not UTF-8"]),
        ("@nested", &["nested: line 1: ", "no further ones"]),
        ("@/dev/zero", &["at most 1048576 bytes"]),
        ("@pipe", &["it was not read to its end within 10 s"]),
    ] {
        let error = run(&mut memnbd(here, ["-U", "socket", argument])).failure(2);
        for word in words {
            assert!(error.contains(word), "{word:?} is not in {error}");
        }
    }
    assert!(start.elapsed() < Duration::from_secs(60));
    assert!(!here.join("socket").exists());
}
