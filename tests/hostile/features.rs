//! What of WebAssembly is on: what components of the supported languages need, and nothing else.

use tempfile::TempDir;

use super::tenants::{Tenants, block, component};
use crate::support::{Finished, memnbd, run};

/// A module of its own in the component, which need not be instantiated to be checked.
fn module(fields: &str) -> String {
    block("modules", &format!("(core module {fields})"))
}

/// Features that are off: their name, a part of the component that needs them, and a word of what is
/// said of it.
fn off() -> Vec<(&'static str, String, &'static str)> {
    vec![
        ("64-bit memory", module("(memory i64 1)"), "memory64"),
        ("64-bit memory with a maximum", module("(memory i64 1 100000)"), "memory64"),
        ("64-bit imported memory", module(r#"(import "a" "b" (memory i64 1))"#), "memory64"),
        ("64-bit table", module("(table i64 1 funcref)"), "memory64"),
        ("shared memory", module("(memory 1 1 shared)"), "threads"),
        (
            "atomic instruction",
            module("(memory 1) (func (drop (i32.atomic.load (i32.const 0))))"),
            "threads",
        ),
        ("structure", module("(type (struct (field i32)))"), "gc"),
        ("array", module("(type (array i32))"), "gc"),
        ("reference to i31", module("(func (param i31ref))"), "gc"),
        (
            "typed function reference",
            module("(type $t (func)) (func (param (ref null $t)) (call_ref $t (local.get 0)))"),
            "function references",
        ),
        ("exception", module("(tag (param i32))"), "exceptions"),
        ("exception handler", module("(func (try_table (nop)))"), "exceptions"),
        ("tail call", module("(func $f (return_call $f))"), "tail call"),
        ("page of one byte", module("(memory 1 1 (pagesize 1))"), "custom page sizes"),
        (
            "wide arithmetic",
            module(
                "(func (param i64 i64 i64 i64) (result i64 i64)
                   (i64.add128 (local.get 0) (local.get 1) (local.get 2) (local.get 3)))",
            ),
            "wide arithmetic",
        ),
        ("continuation", module("(type $f (func)) (type $c (cont $f))"), "stack switching"),
        (
            "relaxed SIMD",
            module(
                "(func (param v128 v128) (result v128)
                   (i8x16.relaxed_swizzle (local.get 0) (local.get 1)))",
            ),
            "relaxed simd",
        ),
        (
            "asynchronous function",
            block("modules", "(core func (canon waitable-set.new))"),
            "async",
        ),
        (
            "error context",
            block("modules", "(type (func (param \"e\" error-context)))"),
            "error-context",
        ),
    ]
}

/// Features that components of Rust, C, Go and Python need, each in use while the
/// component starts.
const ON: [(&str, &str); 9] = [
    (
        "SIMD",
        "(func $f (drop (i32x4.add (v128.const i32x4 1 2 3 4) (v128.const i32x4 5 6 7 8))))
         (start $f)",
    ),
    (
        "bulk memory",
        "(memory 1) (data $d \"data\")
         (func $f
           (memory.init $d (i32.const 0) (i32.const 0) (i32.const 4))
           (data.drop $d)
           (memory.copy (i32.const 8) (i32.const 0) (i32.const 4))
           (memory.fill (i32.const 16) (i32.const 1) (i32.const 4)))
         (start $f)",
    ),
    (
        "multiple values",
        "(func $two (result i32 i64) (i32.const 1) (i64.const 2))
         (func $f (call $two) (drop) (drop))
         (start $f)",
    ),
    (
        "reference types",
        "(table $some 1 funcref) (table $others 1 funcref)
         (func $f
           (table.set $some (i32.const 0) (ref.func $f))
           (drop (table.grow $others (ref.null func) (i32.const 1)))
           (drop (ref.is_null (table.get $others (i32.const 0)))))
         (elem declare func $f)
         (start $f)",
    ),
    ("sign extension", "(func $f (drop (i64.extend32_s (i64.const 1)))) (start $f)"),
    (
        "saturating conversion",
        "(func $f (drop (i32.trunc_sat_f64_u (f64.const 1e300)))) (start $f)",
    ),
    ("mutable global", "(global (export \"g\") (mut i32) (i32.const 1))"),
    ("extended constant expression", "(global i32 (i32.add (i32.const 1) (i32.const 2)))"),
    ("floating point", "(func $f (drop (f64.sqrt (f64.const 2)))) (start $f)"),
];

/// What the program says of the component in a file.
fn inspect(overlays: &[&str]) -> Finished {
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("a.wasm"), component(overlays)).unwrap();
    run(&mut memnbd(directory.path(), ["--dump-component", "./a.wasm"]))
}

#[test]
fn features_that_no_supported_language_needs_are_refused_at_load() {
    let mut accepted = Vec::new();
    for (feature, part, word) in off() {
        let finished = inspect(&[&part]);
        if finished.exit_status() == "exit status: 0" {
            accepted.push(feature);
            continue;
        }
        let error = finished.failure(1);
        assert!(error.contains("a.wasm: not a valid component: "), "{feature}: {error}");
        assert!(error.to_lowercase().contains(word), "{feature}: {word:?} is not in {error}");
    }
    assert!(accepted.is_empty(), "these are on: {accepted:?}");
}

#[test]
fn features_that_compilers_use_are_served() {
    for (feature, fields) in ON {
        let part = format!("(core module $m {fields}) (core instance (instantiate $m))");
        let finished = inspect(&[&block("modules", &part)]);
        assert_eq!(finished.exit_status(), "exit status: 0", "{feature}: {finished}");
    }
    let all: String = ON
        .iter()
        .enumerate()
        .map(|(number, (_, fields))| {
            format!("(core module $m{number} {fields}) (core instance (instantiate $m{number}))\n")
        })
        .collect();
    let tenants = Tenants::with_component(&[&block("modules", &all)], &[]);
    assert_eq!(tenants.attacker().read(0, 4096), [0; 4096]);
}

/// The attack of 64-bit memories itself: no byte of the neighbour changes, and the process lives on.
#[test]
fn a_64_bit_memory_overwrites_nothing() {
    for overlays in [&["memory64"][..], &["direct", "memory64"]] {
        let finished = inspect(overlays);
        let served = finished.exit_status() == "exit status: 0";
        assert!(!served, "it is loaded: {finished}");
        assert!(finished.stderr.contains("memory64 must be enabled"), "{finished}");
    }
}

/// A component that is refused is no reason to refuse the others.
#[test]
fn a_refused_component_stops_nobody() {
    let tenants = Tenants::with_component(&["direct", "memory64"], &[]);
    tenants.expect_neighbour_intact();
    let refusal = tenants.refusal("a");
    assert!(refusal.contains("memory64"), "{refusal}");
    tenants.expect_neighbour_intact();
}
