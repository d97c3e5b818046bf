use std::fs;
use std::io::{BufRead, BufReader};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;
use tracing::Level;

use super::*;
use crate::component::tests::logs::Logs;

fn open(path: &Path, append: bool, limit: u64) -> Output {
    let output = Outputs::new(limit).get(path.to_owned(), append);
    output.open().unwrap();
    output
}

#[tokio::test]
async fn file_is_emptied_once_or_appended_to() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("log");
    fs::write(&path, "before\n").unwrap();
    let outputs = Outputs::default();
    let first = outputs.get(path.clone(), false);
    assert!(!first.is_open());
    first.open().unwrap();
    first.append(b"one\n").unwrap();
    first.drain().await;
    // Another disk that names the same path.
    let second = outputs.get(path.clone(), false);
    second.open().unwrap();
    assert_eq!(first, second);
    second.append(b"two\n").unwrap();
    second.drain().await;
    assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
    let third = open(&path, true, MAX_OUTPUT);
    third.append(b"three\n").unwrap();
    third.drain().await;
    assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\nthree\n");
}

#[tokio::test]
async fn output_takes_no_more_than_it_may() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("log");
    let output = open(&path, false, 10);
    assert_eq!(output.append(b"12345678"), Ok(()));
    assert_eq!(output.append(b"123"), Err(Full));
    assert_eq!(output.append(b"90"), Ok(()));
    assert_eq!(output.append(b"1"), Err(Full));
    output.drain().await;
    assert_eq!(fs::read_to_string(&path).unwrap(), "1234567890");
}

#[tokio::test]
async fn thread_starts_again_after_a_pause() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("log");
    let output = open(&path, false, MAX_OUTPUT);
    output.append(b"one").unwrap();
    output.drain().await;
    while output.queue().running {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    output.append(b"two").unwrap();
    output.drain().await;
    assert_eq!(fs::read_to_string(&path).unwrap(), "onetwo");
}

#[test]
fn only_files_pipes_and_terminals_are_written_to() {
    let directory = TempDir::new().unwrap();
    let refused = |path: &Path| {
        let output = Outputs::default().get(path.to_owned(), false);
        output.open().unwrap_err().to_string()
    };
    assert!(refused(Path::new("/dev/null")).contains("it is a device"));
    assert!(refused(directory.path()).contains("directory"));
    assert!(refused(&directory.path().join("none/log")).contains("No such file"));
    let pipe = directory.path().join("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    assert!(refused(&pipe).contains("a pipe that nobody reads"));
    let socket = directory.path().join("socket");
    let _listening = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    assert!(refused(&socket).contains("a socket"));
}

#[tokio::test]
async fn pipe_that_is_not_read_blocks_nobody_and_its_losses_are_counted() {
    let logs = Logs::capture();
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("pipe");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let reader = fs::File::options().read(true).write(true).open(&path).unwrap();
    let output = open(&path, false, MAX_OUTPUT);
    let line = [&[b'x'; 999][..], b"\n"].concat();
    for _ in 0..3000 {
        output.append(&line).unwrap();
    }
    // The first one was logged at once.
    assert!(logs.take(Level::WARN).concat().contains("1 pieces were dropped"));
    let dropped = 1 + output.queue().lost.dropped;
    assert!((1000..3000).contains(&dropped), "{dropped}");
    let mut reader = BufReader::new(reader);
    for _ in 0..3000 - dropped {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        assert_eq!(line.len(), 1000, "pieces are whole");
    }
    output.drain().await;
}

#[test]
fn losses_are_logged() {
    let logs = Logs::capture();
    let mut lost = Lost { dropped: 3, failed: Some((7, Errno::NOSPC)), reported: None };
    lost.report(Path::new("log"), false);
    lost.dropped = 5;
    lost.report(Path::new("log"), false);
    let told = logs.take(Level::WARN);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("7 bytes could not be written: No space left"));
    assert!(told[1].contains("3 pieces were dropped"));
    lost.report(Path::new("log"), true);
    assert!(logs.take(Level::WARN)[0].contains("5 pieces"));
}

#[test]
fn terminals_get_text_only() {
    assert_eq!(harmless(b"a\x1b[2J\tb\r\n\x9b\xc2\x9b"), "a [2J\tb \n\u{fffd} ".as_bytes());
}
