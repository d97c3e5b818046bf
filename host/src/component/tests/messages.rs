//! What components say, and what is said of them.

use tracing::Level;

use super::guest::{Described, Guest};
use super::logs::Logs;
use super::{LONG, SPAN, load, opened, started};
use crate::block::{Error, ErrorCode};
use crate::component::{Fault, Limit, MemoryBudget};

/// Fails with EIO and a message of so many bytes of this value.
pub(crate) fn fail_with(byte: u8, length: u32) -> String {
    format!(
        "(drop (memory.grow (i32.const 32)))
         (memory.fill (i32.const 0x200000) (i32.const {byte}) (i32.const {length}))
         (i32.store (i32.const 0x100) (i32.const 1))
         (i32.store (i32.const 0x104) (i32.const 1))
         (i32.store (i32.const 0x108) (i32.const 1))
         (i32.store (i32.const 0x10c) (i32.const 0x200000))
         (i32.store (i32.const 0x110) (i32.const {length}))
         (i32.const 0x100)"
    )
}

#[tokio::test]
async fn messages_of_errors_are_passed_on_and_logged() {
    let functions = ["read", "write", "zero", "trim", "flush", "extents", "cache"];
    let calls = ["read(0, 4096)", "write(0, 4096)", "zero(0, 4096)", "trim(0, 4096)", "flush()"];
    let calls = calls.into_iter().chain(["extents(0, 4096)", "cache(0, 4096)"]);
    for (function, call) in functions.into_iter().zip(calls) {
        let logs = Logs::capture();
        let mut instance = opened(&Guest::new().with(function, fail_with(b'x', 3)), LONG).await;
        let error = Error { code: ErrorCode::Io, message: Some("xxx".into()) };
        let answer = match function {
            "read" => instance.read(0, 4096).await,
            "write" => instance.write(0, &[1; 4096], false).await,
            "zero" => instance.zero(SPAN, false, false, false).await,
            "trim" => instance.trim(SPAN, false).await,
            "flush" => instance.flush().await,
            "extents" => instance.extents(SPAN).await.map(|answer| answer.map(drop)),
            _ => instance.cache(SPAN).await,
        };
        assert_eq!(answer.unwrap(), Err(error), "{function}");
        let line = format!("guest: {call} failed: input/output error: xxx");
        assert_eq!(logs.take(Level::INFO), [line]);
    }
}

#[tokio::test]
async fn messages_of_errors_are_printable_and_bounded() {
    let message = async |byte, length| {
        let guest = Guest::new().with("flush", fail_with(byte, length));
        opened(&guest, LONG).await.flush().await.map(|answer| answer.unwrap_err().message)
    };
    assert_eq!(message(b'x', 1 << 20).await.unwrap().unwrap().len(), 1024);
    assert_eq!(message(b'\n', 3).await.unwrap(), None, "blanks are no message");
    assert_eq!(message(b'x', 0).await.unwrap(), None);
    let fault = message(0xff, 3).await.unwrap_err();
    assert!(matches!(fault, Fault::Trap { .. }), "not UTF-8: {fault:?}");
}

/// It logs what is in its memory from 0x10000 on, at the level of the offset.
fn logger(length: u32) -> Guest {
    let log = "memnbd:block/log@0.2.0";
    let import = format!(
        r#"(import "{log}" (instance $log
             (type $l (enum "error" "warn" "info" "debug" "trace"))
             (export "level" (type $level (eq $l)))
             (export "log" (func (param "level" $level) (param "message" string)))))"#
    );
    Guest::new()
        .with("imports", import)
        .with("core-imports", r#"(import "log" "log" (func $say (param i32 i32 i32)))"#)
        .with(
            "lowered",
            r#"(alias export $log "log" (func $log-function))
               (core func $log-lowered (canon lower (func $log-function) (memory $mem)))
               (core instance $log-core (export "log" (func $log-lowered)))"#,
        )
        .with("with", r#"(with "log" (instance $log-core))"#)
        .with("pass", format!(r#"(with "{log}" (instance $log))"#))
        .with(
            "cache",
            format!(
                "(call $say (i32.wrap_i64 (local.get $offset)) (i32.const 0x10000)
                   (i32.const {length}))
                 (call $done)"
            ),
        )
}

#[tokio::test]
async fn a_component_logs_at_levels() {
    let logs = Logs::capture();
    let component = load(&logger(4), LONG).await.unwrap().for_export("db");
    let mut instance = component.start(MemoryBudget::new(super::BUDGET)).await.unwrap();
    instance.open("db", false, &[]).await.unwrap().unwrap();
    instance.write(0, b"a\x1bb\n", false).await.unwrap().unwrap();
    let levels = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE];
    for (number, level) in levels.into_iter().enumerate() {
        let span = crate::block::Span { offset: number as u64, length: 1 };
        instance.cache(span).await.unwrap().unwrap();
        assert_eq!(logs.take(level), ["export \"db\": guest: a b "]);
    }
    assert_eq!(component.recent_output().len(), 5);
    let fault = instance.cache(crate::block::Span { offset: 5, length: 1 }).await.unwrap_err();
    assert!(matches!(fault, Fault::Trap { .. }), "there is no such level: {fault:?}");
    // As much as its memory can hold is cut, and what it cannot is its own fault.
    let mut instance = opened(&logger(1 << 20), LONG).await;
    instance.cache(SPAN).await.unwrap().unwrap();
    assert_eq!(logs.take(Level::ERROR)[0].len(), "guest: ".len() + 1024);
    let fault = opened(&logger(1 << 30), LONG).await.cache(SPAN).await.unwrap_err();
    assert!(matches!(fault, Fault::Trap { .. }), "{fault:?}");
}

#[tokio::test]
async fn a_trap_names_the_call_and_the_functions() {
    let write = "(drop (call $fail (i32.const 1))) (unreachable)";
    let guest = Guest::new().with("write", write);
    let fault = opened(&guest, LONG).await.write(512, &[1; 64], true).await.unwrap_err();
    let text = fault.to_string();
    assert!(
        text.starts_with("write(512, 64, fua) trapped: wasm trap: wasm `unreachable`"),
        "{text}"
    );
    // Functions without names are left out.
    let guest = Guest::new()
        .with("flush", "(drop (call $address (i64.const -1))) (call $begin) (call $done)");
    let guest = guest.with("start", "(if (global.get $log-was-read) (then (unreachable)))");
    let mut instance = opened(&guest, LONG).await;
    super::guest::take_log(&mut instance).await;
    let text = instance.flush().await.unwrap_err().to_string();
    assert!(text.ends_with("in begin, called by flush"), "{text}");
}

#[tokio::test]
async fn a_full_memory_is_told_as_such() {
    let grow = "(loop $grow (br_if $grow (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))";
    let guest = Guest::new().with("memory", "40 50").with("write", format!("{grow} (unreachable)"));
    let fault = opened(&guest, LONG).await.write(0, &[1; 64], false).await.unwrap_err();
    let Fault::OutOfMemory { limit, .. } = &fault else { panic!("{fault:?}") };
    assert_eq!(*limit, Limit::Memory(50 << 16));
    let text = fault.to_string();
    assert!(text.contains("the memory of an instance is full: it has 3276800 bytes"), "{text}");
    assert!(text.contains("write(0, 64) failed: wasm trap"), "{text}");
    assert!(!fault.may_pass(), "another instance would meet the same end");
}

#[tokio::test]
async fn the_end_of_time_names_the_call() {
    let guest = Guest::new().with("trim", "(loop (br 0)) (unreachable)");
    let fault = opened(&guest, super::SHORT).await.trim(SPAN, false).await.unwrap_err();
    assert!(fault.to_string().starts_with("trim(0, 4096) did not return within"), "{fault}");
    let described = Guest::new().described(Described::default()).with("open", "(unreachable)");
    let fault = started(&described, LONG).await.open("", false, &[]).await.unwrap_err();
    assert!(fault.to_string().starts_with("open trapped: "), "{fault}");
}
