//! A component that fails takes its own disk with it, and nothing else.

use std::time::Duration;

use tracing::Level;

use super::{AMPLE, Client, MIB, config, open};
use crate::block::{Command, ErrorCode, Span};
use crate::component::Engine;
use crate::component::tests::guest::{FUNCTIONS, Guest, can};
use crate::component::tests::logs::Logs;
use crate::component::tests::wasi;
use crate::component::tests::{LONG, SHORT};
use crate::device::tests::Requests;
use crate::device::{Answer, Device};

/// Asserts that a disk of this guest dies by a call of this function while another disk, made by
/// the same engine, goes on. Returns the line that is logged.
async fn assert_dies(guest: &Guest, function: &str, deadline: Duration) -> String {
    let logs = Logs::capture();
    let engine = Engine::new(deadline);
    let open = async |guest: &Guest| {
        let component = engine.load("guest", &guest.wasm()).await.unwrap();
        Client::open(config(component, AMPLE)).await.unwrap()
    };
    let other = open(&Guest::new()).await;
    other.write(0, &[7; 4096], false).await.unwrap();
    let disk = open(guest).await;
    assert!(!disk.disk.is_dead());

    assert_eq!(disk.call(function).await, Err(ErrorCode::Io), "{function}");
    assert!(disk.disk.is_dead());
    let mut errors = logs.take(Level::ERROR);
    assert_eq!(errors.len(), 1, "{errors:?}");
    for function in FUNCTIONS {
        assert_eq!(disk.call(function).await, Err(ErrorCode::Io), "{function}");
    }
    disk.disk.clone().last_flush().await.unwrap();
    assert!(logs.take(Level::ERROR).is_empty(), "it is logged once");
    assert!(logs.take(Level::WARN).is_empty());
    disk.until_memory_is_given_back().await;

    assert!(!other.disk.is_dead());
    assert_eq!(other.read(0, 4096).await.unwrap(), [7; 4096]);
    errors.remove(0)
}

/// A guest whose `stored` is asked for.
fn with(function: &'static str, body: &str) -> Guest {
    let guest = Guest::new().with(function, body);
    match function {
        "stored" => guest
            .opened(|disk| disk.stripe = 1 << 16)
            .with("zero", "(drop (memory.grow (i32.const 1))) (call $done)"),
        _ => guest,
    }
}

#[tokio::test]
async fn trap_in_any_function_kills_the_disk() {
    for function in FUNCTIONS {
        let line = assert_dies(&with(function, "(unreachable)"), function, LONG).await;
        assert!(line.contains("export \"export\"") && line.contains("unreachable"), "{line}");
    }
}

#[tokio::test]
async fn last_words_are_logged_with_the_reason() {
    let guest = wasi::printer(&format!("{} (unreachable)", wasi::PRINT.replace("LENGTH", "8")));
    let logs = Logs::capture();
    let component = Engine::new(LONG).load("guest", &guest.wasm()).await.unwrap();
    let disk = Client::open(config(component, AMPLE)).await.unwrap();
    disk.write(0, b"out of x", false).await.unwrap();
    assert_eq!(disk.call("flush").await, Err(ErrorCode::Io));
    let errors = logs.take(Level::ERROR);
    assert!(errors[0].contains("; the component last printed [\"out of x\"]; "), "{errors:?}");
}

#[tokio::test]
async fn loop_in_any_function_kills_the_disk() {
    for function in FUNCTIONS {
        let guest = with(function, "(loop (br 0)) (unreachable)");
        let line = assert_dies(&guest, function, SHORT).await;
        assert!(line.contains("deadline of 50ms"), "{line}");
    }
}

#[tokio::test]
async fn broken_contract_kills_the_disk() {
    for function in ["read", "extents"] {
        let guest = with(function, "(call $list (i32.const 0x1000) (i32.const 0))");
        let line = assert_dies(&guest, function, LONG).await;
        assert!(line.contains(&format!("contract: {function}(0, 4096) returned")), "{line}");
    }
}

#[tokio::test]
async fn error_codes_kill_nothing() {
    for function in ["read", "write", "zero", "trim", "flush", "extents", "cache"] {
        let disk = open(&with(function, "(call $fail (i32.const 4))")).await;
        assert_eq!(disk.call(function).await, Err(ErrorCode::NoSpc), "{function}");
        assert!(!disk.disk.is_dead());
    }
}

/// Another instance of the same component opens a disk of another size: it is not used, and the
/// first one does all the work.
#[tokio::test]
async fn another_disk_on_the_second_open_is_not_used() {
    let random = ("wasi:random/random@0.2.0", r#"(export "get-random-u64" (func (result u64)))"#);
    let guest = wasi::guest(&[random], &[], &[(0, "get-random-u64", "(result i64)")])
        .opened(|disk| disk.capabilities |= can::INTERCHANGEABLE)
        .with(
            "open",
            "(i64.store (i32.const 0x208)
               (i64.or (i64.shr_u (call $get-random-u64) (i64.const 2)) (i64.const 0x100000)))
             (i32.const 0x200)",
        );
    let logs = Logs::capture();
    let disk = open(&guest).await;
    for _ in 0..3 {
        let first = read_and_hold(&disk, 0).await;
        let second = disk.read(0, 4096);
        let (second, ()) = tokio::join!(second, async { drop(first) });
        assert_eq!(second.unwrap(), [0; 4096]);
    }
    assert!(!disk.disk.is_dead());
    assert_eq!(logs.take(Level::ERROR), [""; 0]);
    let warnings = logs.take(Level::WARN);
    assert!(warnings.len() == 1 && warnings[0].contains("another disk"), "{warnings:?}");
}

/// A fault of the host's is one of the disk's, too, for a guest may have been in the middle of a
/// call.
#[tokio::test]
async fn a_panic_kills_the_disk_and_is_answered() {
    let logs = Logs::capture();
    let disk = open(&Guest::new()).await;
    let other = open(&Guest::new()).await;
    disk.disk.panics.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(disk.call("write").await, Err(ErrorCode::Io));
    assert!(disk.disk.is_dead());
    let errors = logs.take(Level::ERROR);
    assert!(errors.len() == 1 && errors[0].contains("panicked"), "{errors:?}");
    assert_eq!(disk.call("read").await, Err(ErrorCode::Io));
    other.call("write").await.unwrap();
}

async fn read_and_hold(disk: &Client, offset: u64) -> Answer {
    let command = Command::Read { span: Span { offset, length: 4096 } };
    disk.execute(command, Vec::new()).await.unwrap()
}

/// Who claims to store nothing is believed, and loses what it stored.
#[tokio::test]
async fn lies_about_what_is_stored_harm_the_liar() {
    let striped = Guest::new()
        .opened(|disk| disk.stripe = 1 << 16)
        .with("zero", "(drop (memory.grow (i32.const 1))) (call $done)");
    let disk = open(&striped.clone().with("stored", "(i64.const 0)")).await;
    disk.write(0, &[7; 65536], false).await.unwrap();
    disk.zero(0, 4096).await.unwrap();
    assert_eq!(disk.read(4096, 4096).await.unwrap(), [0; 4096]);
    assert!(!disk.disk.is_dead());

    let disk = open(&striped.with("stored", "(i64.const -1)")).await;
    disk.write(0, &[7; 65536], false).await.unwrap();
    disk.zero(0, MIB).await.unwrap();
    assert_eq!(disk.read(4096, 4096).await.unwrap(), [7; 4096], "it did not zero at all");
    assert!(!disk.disk.is_dead());
}
