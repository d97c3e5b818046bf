//! Components that trap, and components that do not return.

use wasmtime::Trap;

use super::guest::{FUNCTIONS, Guest};
use super::{LONG, SHORT, call, load, opened, started};
use crate::component::{Fault, LoadError};

const TRAP: &str = "(unreachable)";
const LOOP: &str = "(loop (br 0)) (unreachable)";

fn assert_trap(fault: &Fault, expected: Trap) {
    let Fault::Trap { error, .. } = fault else { panic!("not a trap: {fault:?}") };
    assert_eq!(error.downcast_ref(), Some(&expected), "{error:?}");
}

#[tokio::test]
async fn trap_in_any_function_is_a_fault() {
    for function in FUNCTIONS {
        let mut instance = opened(&Guest::new().with(function, TRAP), LONG).await;
        let fault = call(&mut instance, function).await.unwrap_err();
        assert_trap(&fault, Trap::UnreachableCodeReached);
    }
    let mut instance = started(&Guest::new().with("open", TRAP), LONG).await;
    assert_trap(&instance.open("", false, &[]).await.unwrap_err(), Trap::UnreachableCodeReached);
}

#[tokio::test]
async fn loop_in_any_function_ends_at_the_deadline() {
    for function in FUNCTIONS {
        let mut instance = opened(&Guest::new().with(function, LOOP), SHORT).await;
        let fault = call(&mut instance, function).await.unwrap_err();
        assert!(matches!(fault, Fault::Deadline(_, SHORT)), "{function}: {fault:?}");
    }
    let mut instance = started(&Guest::new().with("open", LOOP), SHORT).await;
    let fault = instance.open("", false, &[]).await.unwrap_err();
    assert!(matches!(fault, Fault::Deadline(_, SHORT)), "{fault:?}");
}

#[tokio::test]
async fn component_that_cannot_start_or_describe_itself_is_not_loaded() {
    let load = async |part, body| load(&Guest::new().with(part, body), SHORT).await.unwrap_err();
    let error = load("start", TRAP).await;
    assert!(matches!(error, LoadError::Fault(Fault::Start(_))), "{error:?}");
    let error = load("describe", TRAP).await;
    assert!(matches!(error, LoadError::Fault(Fault::Trap { .. })), "{error:?}");
    for part in ["start", "describe"] {
        let error = load(part, LOOP).await;
        assert!(matches!(error, LoadError::Fault(Fault::Deadline(_, SHORT))), "{error:?}");
    }
}

#[tokio::test]
async fn endless_recursion_is_a_fault() {
    let guest = Guest::new().with("flush", "(drop (call $flush)) (call $done)");
    let fault = opened(&guest, LONG).await.flush().await.unwrap_err();
    assert_trap(&fault, Trap::StackOverflow);
}

#[tokio::test]
async fn what_happens_after_a_call_counts_as_the_call() {
    let guest = Guest::new().with("post-read", TRAP);
    let fault = opened(&guest, LONG).await.read(0, 1).await.unwrap_err();
    assert_trap(&fault, Trap::UnreachableCodeReached);
    let guest = Guest::new().with("post-read", LOOP);
    let fault = opened(&guest, SHORT).await.read(0, 1).await.unwrap_err();
    assert!(matches!(fault, Fault::Deadline(_, SHORT)), "{fault:?}");
}

/// A guest that computes for long, but returns in time, lets others on its thread run meanwhile.
#[tokio::test]
async fn long_calls_yield() {
    let count = "(local.set $at (i64.const 3000000000))
        (loop $count
          (local.set $at (i64.sub (local.get $at) (i64.const 1)))
          (br_if $count (i64.ne (local.get $at) (i64.const 0))))
        (call $fail (i32.const 1))";
    let mut instance = opened(&Guest::new().with("extents", count), LONG).await;
    let mut turns = 0;
    let span = super::SPAN;
    let others = async {
        loop {
            turns += 1;
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        answer = instance.extents(span) => { answer.unwrap().unwrap_err(); }
        () = others => unreachable!("it has no end"),
    }
    assert!(turns > 3, "others ran {turns} times");
}
