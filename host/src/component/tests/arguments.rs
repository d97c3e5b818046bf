//! Components that are at odds with what is passed to them.

use super::guest::{Guest, MIB};
use super::{LONG, SHORT, opened, started};
use crate::block::Chunk;
use crate::block::ErrorCode;
use crate::component::{Fault, Instance};
use crate::parameters::{Argument, Value};

fn arguments() -> Vec<Argument> {
    let argument = |name: &str, value| Argument { name: name.into(), value };
    vec![argument("size", Value::Size(MIB)), argument("name", Value::Text("value".into()))]
}

/// A body for `cabi_realloc` that is good enough to open a disk.
fn unless_small(realloc: &str) -> String {
    format!(
        "(if (i32.ge_u (local.get $size) (i32.const 64)) (then {realloc} (return)))
         (i32.const 0x110000)"
    )
}

async fn read_all(instance: &mut Instance, offset: u64, length: u32) -> Vec<u8> {
    instance.read(offset, length).await.unwrap().unwrap();
    let mut bytes = Vec::new();
    for index in 0.. {
        match instance.chunk(index) {
            Some(Chunk::Data(data)) => bytes.extend_from_slice(data),
            Some(Chunk::Hole(length)) => bytes.resize(bytes.len() + length as usize, 0),
            None => break,
        }
    }
    bytes
}

#[tokio::test]
async fn allocator_out_of_bounds_is_a_fault() {
    let huge = "(i32.const 0xfffffff0)";
    let beyond = "(i32.shl (memory.size) (i32.const 16))";
    for realloc in ["(unreachable)", huge, beyond] {
        let guest = Guest::new().with("realloc", realloc);
        let fault = started(&guest, LONG).await.open("x", false, &arguments()).await.unwrap_err();
        assert!(matches!(fault, Fault::Trap { .. }), "{realloc}: {fault:?}");
        let guest = guest.with("realloc", unless_small(realloc));
        let fault = opened(&guest, LONG).await.write(0, &[7; 64], false).await.unwrap_err();
        assert!(matches!(fault, Fault::Trap { .. }), "{realloc}: {fault:?}");
    }
}

#[tokio::test]
async fn allocator_that_does_not_return_ends_at_the_deadline() {
    let guest = Guest::new().with("realloc", unless_small("(loop (br 0)) (unreachable)"));
    let fault = opened(&guest, SHORT).await.write(0, &[7; 64], false).await.unwrap_err();
    assert!(matches!(fault, Fault::Deadline(_, SHORT)), "{fault:?}");
}

#[tokio::test]
async fn misaligned_allocation_is_a_fault() {
    let guest = Guest::new().with("realloc", "(i32.const 0x110001)");
    let fault = started(&guest, LONG).await.open("x", false, &arguments()).await.unwrap_err();
    assert!(matches!(fault, Fault::Trap { .. }), "{fault:?}");
}

/// It harms nobody but itself.
#[tokio::test]
async fn overlapping_allocations_are_its_own_affair() {
    let guest = Guest::new().with("realloc", "(i32.const 0x10000)");
    let mut instance = opened(&guest, LONG).await;
    instance.open("x", false, &arguments()).await.unwrap().unwrap();
    instance.write(4096, &[7; 4096], false).await.unwrap().unwrap();
    assert_eq!(read_all(&mut instance, 4096, 4096).await, [7; 4096]);
}

#[tokio::test]
async fn payload_that_does_not_fit_into_memory_is_a_fault() {
    let mut instance = opened(&Guest::new(), LONG).await;
    let fault = instance.write(0, &vec![7; 8 << 20], false).await.unwrap_err();
    assert!(matches!(fault, Fault::Trap { .. }), "{fault:?}");
}

#[tokio::test]
async fn error_codes_are_passed_on() {
    let codes = [
        ErrorCode::Perm,
        ErrorCode::Io,
        ErrorCode::NoMem,
        ErrorCode::Inval,
        ErrorCode::NoSpc,
        ErrorCode::Overflow,
        ErrorCode::NotSup,
        ErrorCode::Shutdown,
    ];
    for (number, expected) in codes.into_iter().enumerate() {
        let fail = format!("(call $fail (i32.const {number}))");
        let mut guest = Guest::new();
        let functions = ["read", "write", "zero", "trim", "flush", "extents", "cache"];
        for function in functions {
            guest = guest.with(function, fail.as_str());
        }
        let mut instance = opened(&guest, LONG).await;
        let fast = instance.zero(super::SPAN, false, false, true).await.unwrap();
        assert_eq!(fast, Err(expected.into()));
        for function in functions {
            // It is an answer to `zero` alone, and the device then writes zeroes.
            let slow = match expected {
                ErrorCode::NotSup if function != "zero" => ErrorCode::Inval,
                code => code,
            };
            let answer = super::call(&mut instance, function).await.unwrap();
            assert_eq!(answer, Err(slow), "{function}");
        }
    }
}
