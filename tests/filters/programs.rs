//! Programs that ignore what disks do, and the filters that find that out. Each program is in `programs/`,
//! once with the mistake and once without.

use std::fs;

use tempfile::TempDir;

use crate::backends::served;
use crate::support::require;

/// Runs a program with a disk. What it prints.
fn run_with(directory: &TempDir, program: &str, arguments: &[&str], words: &str) -> String {
    let path = format!("{}/../../tests/filters/programs/{program}", env!("CARGO_MANIFEST_DIR"));
    let (mode, rest) = words.split_once(' ').unwrap_or((words, ""));
    let command = format!("/usr/bin/python3 '{path}' {mode} \"$uri\" {rest}");
    served("memnbd", directory.path(), arguments, &command)
}

/// The fsync trap: an error of a flush is told once, and then the data are gone.
#[test]
fn flush_that_is_only_tried_again_loses_a_commit() {
    require!("nbdsh");
    let disk =
        ["--filter=flush", "memory", "1M", "flush-mode=drop", "flush-nth=5", "flush-once=true"];
    let outcome = |mode| run_with(&TempDir::new().unwrap(), "flush.py", &disk, mode);
    assert_eq!(outcome("careless"), "flush: EIO\nlost: [4]\n");
    assert_eq!(outcome("careful"), "flush: EIO\nlost: []\n");
}

#[test]
fn backup_to_a_full_disk_is_taken_for_complete() {
    require!("nbdsh");
    let disk = ["--filter=enospc", "memory", "4M", "enospc-after=1M"];
    let outcome = |mode: &str| {
        let directory = TempDir::new().unwrap();
        let data: Vec<u8> = (0..2_000_000_u32).map(|n| (n % 251) as u8).collect();
        fs::write(directory.path().join("data"), data).unwrap();
        run_with(&directory, "full.py", &disk, &format!("{mode} data"))
    };
    assert_eq!(outcome("careless"), "backup: complete\nwrong: 15\n");
    assert_eq!(outcome("careful"), "backup: failed: ENOSPC\nwrong: 15\n");
}

#[test]
fn rotten_records_are_trusted_without_checksums() {
    require!("nbdsh");
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("disk"), vec![0; 2 << 20]).unwrap();
    run_with(&directory, "rot.py", &["file", "disk"], "write");
    let rotten =
        ["--filter=evil", "file", "disk", "evil=bit-rot", "evil-probability=1e-6", "evil-seed=2"];
    let wrong = |mode| {
        let printed = run_with(&directory, "rot.py", &rotten, mode);
        let words: Vec<&str> = printed.split_whitespace().collect();
        let ["right:", _, "missing:", "0", "wrong:", wrong] = words[..] else {
            panic!("{printed}");
        };
        wrong.parse::<u32>().unwrap()
    };
    let careless = wrong("careless");
    assert!((1..30).contains(&careless), "{careless}");
    assert_eq!(wrong("careful"), 0);
}
