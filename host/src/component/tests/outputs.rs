//! The import `output`.

use std::fs;

use tempfile::TempDir;

use super::guest::{Described, Guest};
use super::{BUDGET, LONG};
use crate::block::{ErrorCode, Span};
use crate::component::{Component, Engine, Fault, Instance, MemoryBudget};
use crate::output::Outputs;
use crate::parameters::{Argument, ParameterType, assign_outputs};

const TYPES: &str = r#"
    (type $n' (enum "eperm" "eio" "enomem" "einval" "enospc" "eoverflow" "enotsup" "eshutdown"))
    (export "error-code" (type $n (eq $n')))
    (type $e' (record (field "code" $n) (field "message" (option string))))
    (export "error" (type $e (eq $e')))"#;

/// A guest whose `cache` appends so many bytes of its disk to the output whose number is the offset.
fn appending() -> Guest {
    let output = "memnbd:block/output@0.2.0";
    let append = r#"(export "append" (func (param "output" u32) (param "data" (list u8))
        (result (result (error $e)))))"#;
    Guest::new()
        .with("imports", format!("(import \"{output}\" (instance $output {TYPES} {append}))"))
        .with(
            "core-imports",
            r#"(import "output" "append" (func $append (param i32 i32 i32 i32)))"#,
        )
        .with(
            "lowered",
            r#"(core func $append-lowered (canon lower (func $output "append") (memory $mem)
                 (realloc $realloc)))"#,
        )
        .with("with", r#"(with "output" (instance (export "append" (func $append-lowered))))"#)
        .with("pass", format!("(with \"{output}\" (instance $output))"))
        .with(
            "cache",
            "(call $append (i32.wrap_i64 (local.get $offset)) (i32.const 0x10000)
               (i32.wrap_i64 (local.get $length)) (i32.const 0x100))
             (global.set $free (i32.const 0x110000))
             (i32.const 0x100)",
        )
}

async fn load(guest: &Guest) -> Component {
    Engine::new(LONG).load("guest", &guest.wasm()).await.unwrap()
}

/// An open disk with these outputs in a directory.
async fn open(guest: &Guest, names: &[&str], directory: &TempDir, limit: u64) -> Instance {
    let argument = |name: &&str| Argument {
        name: (*name).into(),
        value: ParameterType::Output(None).parse(name).unwrap(),
    };
    let mut arguments: Vec<Argument> = names.iter().map(argument).collect();
    assign_outputs(&mut arguments, &Outputs::new(limit), directory.path());
    for output in crate::parameters::outputs(&arguments) {
        output.open().unwrap();
    }
    let mut instance = load(guest).await.start(MemoryBudget::new(BUDGET)).await.unwrap();
    instance.open("", false, &arguments).await.unwrap().unwrap();
    instance.write(0, b"line\n", false).await.unwrap().unwrap();
    instance
}

async fn append(instance: &mut Instance, number: u64, length: u64) -> Result<(), ErrorCode> {
    let span = Span { offset: number, length };
    instance.cache(span).await.unwrap().map_err(|error| error.code)
}

#[tokio::test]
async fn outputs_have_numbers_in_the_order_of_the_arguments() {
    let directory = TempDir::new().unwrap();
    let names = ["first", "second"];
    let mut instance = open(&appending(), &names, &directory, 1000).await;
    append(&mut instance, 1, 5).await.unwrap();
    append(&mut instance, 0, 4).await.unwrap();
    append(&mut instance, 1, 5).await.unwrap();
    append(&mut instance, 1, 0).await.unwrap();
    let read = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
    while read("first").len() + read("second").len() < 14 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    assert_eq!((read("first"), read("second")), ("line".into(), "line\nline\n".into()));
}

#[tokio::test]
async fn another_number_traps() {
    let directory = TempDir::new().unwrap();
    for (names, number) in [(&[][..], 0), (&["log"], 1), (&["log"], u64::from(u32::MAX))] {
        let mut instance = open(&appending(), names, &directory, 1000).await;
        let fault = instance.cache(Span { offset: number, length: 1 }).await.unwrap_err();
        assert!(matches!(fault, Fault::Trap { .. }), "{fault:?}");
        let words = format!("it used the output {number}, which was not among its arguments");
        assert!(fault.to_string().contains(&words), "{fault}");
    }
}

#[tokio::test]
async fn appends_are_bounded_one_by_one_and_in_all() {
    let directory = TempDir::new().unwrap();
    let mut instance = open(&appending(), &["log"], &directory, 70_000).await;
    assert_eq!(append(&mut instance, 0, 65_537).await, Err(ErrorCode::Inval));
    assert_eq!(append(&mut instance, 0, 65_536).await, Ok(()));
    assert_eq!(append(&mut instance, 0, 65_536).await, Err(ErrorCode::NoSpc));
    assert_eq!(append(&mut instance, 0, 4464).await, Ok(()));
    assert_eq!(append(&mut instance, 0, 1).await, Err(ErrorCode::NoSpc));
    // What is not in its memory is its own fault.
    let fault = instance.cache(Span { offset: 0, length: 1 << 31 }).await.unwrap_err();
    assert!(matches!(fault, Fault::Trap { .. }), "{fault:?}");
}

#[tokio::test]
async fn component_without_outputs_gets_none() {
    let described = Described { parameters: vec!["size"], ..Described::default() };
    let component = load(&appending().described(described)).await;
    assert_eq!(component.imports(), ["memnbd:block/output@0.2.0"]);
    assert!(component.description().parse_arguments(&["log=x".to_owned()]).is_err());
}
