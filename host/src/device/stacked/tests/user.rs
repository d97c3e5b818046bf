//! A guest that uses its lower devices by itself, through the import `lower`.

use std::time::Duration;

use super::*;
use crate::component::tests::guest::can;

const TYPES: &str = r#"
    (type $c' (flags "writable" "flush" "fua" "trim" "zero" "fast-zero" "cache" "extents"
      "multi-conn" "rotational" "interchangeable"))
    (export "capabilities" (type $c (eq $c')))
    (type $k' (variant (case "data" (list u8)) (case "hole" u32)))
    (export "chunk" (type $k (eq $k')))
    (type $n' (enum "eperm" "eio" "enomem" "einval" "enospc" "eoverflow" "enotsup" "eshutdown"))
    (export "error-code" (type $n (eq $n')))
    (type $e' (record (field "code" $n) (field "message" (option string))))
    (export "error" (type $e (eq $e')))
    (type $s' (flags "hole" "zero"))
    (export "status" (type $s (eq $s')))
    (type $x' (record (field "length" u64) (field "status" $s)))
    (export "extent" (type $x (eq $x')))
    (type $z' (flags "fua" "keep-allocated" "fast"))
    (export "zero-options" (type $z (eq $z')))
    (type $o' (flags "read" "write" "zero" "trim" "cache" "extents"))
    (export "operations" (type $o (eq $o')))
    (type $g' (record (field "size" u64) (field "minimum-block" u32)
      (field "preferred-block" u32) (field "capabilities" $c)))
    (export "geometry" (type $g (eq $g')))"#;

/// The functions of `lower`: the name, the type in the contract, the type in the core module, where
/// the last parameter is the address of the answer.
const FUNCTIONS: [(&str, &str, &str); 12] = [
    ("describe", r#"(param "device" u32) (result $g)"#, "i32 i32"),
    (
        "read",
        r#"(param "device" u32) (param "offset" u64) (param "length" u32)
           (result (result (list $k) (error $e)))"#,
        "i32 i64 i32 i32",
    ),
    (
        "write",
        r#"(param "device" u32) (param "offset" u64) (param "data" (list u8)) (param "fua" bool)
           (result (result (error $e)))"#,
        "i32 i64 i32 i32 i32 i32",
    ),
    (
        "zero",
        r#"(param "device" u32) (param "offset" u64) (param "length" u64) (param "options" $z)
           (result (result (error $e)))"#,
        "i32 i64 i64 i32 i32",
    ),
    (
        "trim",
        r#"(param "device" u32) (param "offset" u64) (param "length" u64) (param "fua" bool)
           (result (result (error $e)))"#,
        "i32 i64 i64 i32 i32",
    ),
    ("flush", r#"(param "device" u32) (result (result (error $e)))"#, "i32 i32"),
    (
        "extents",
        r#"(param "device" u32) (param "offset" u64) (param "length" u64)
           (result (result (list $x) (error $e)))"#,
        "i32 i64 i64 i32",
    ),
    (
        "cache",
        r#"(param "device" u32) (param "offset" u64) (param "length" u64)
           (result (result (error $e)))"#,
        "i32 i64 i64 i32",
    ),
    ("withdraw-routes", "", ""),
    ("reopen", r#"(param "device" u32) (result (result (error $e)))"#, "i32 i32"),
    ("release", r#"(param "hold" u64)"#, "i64"),
    (
        "set-route",
        r#"(param "operations" $o) (param "offset" u64) (param "length" u64)
           (param "device" (option u32)) (param "to" u64)"#,
        "i32 i64 i64 i32 i32 i64",
    ),
];

/// A guest that can call `$lower-read` and so on.
pub(super) fn user() -> Guest {
    importing(|_| true)
}

/// As [`user`], but the guest cannot withdraw routes, so that requests on those are not counted.
pub(super) fn user_for_good() -> Guest {
    importing(|name| name != "withdraw-routes")
}

/// A guest that can call those functions of `lower` for which `imports` returns true.
fn importing(imports: impl Fn(&str) -> bool) -> Guest {
    let (mut imported, mut core_imports) = (String::new(), String::new());
    let (mut lowered, mut with) = (String::new(), String::new());
    for (name, ty, core) in FUNCTIONS.into_iter().filter(|(name, ..)| imports(name)) {
        imported += &format!("(export \"{name}\" (func {ty}))\n");
        core_imports +=
            &format!("(import \"lower\" \"{name}\" (func $lower-{name} (param {core})))\n");
        lowered += &format!(
            "(core func $lower-{name} (canon lower (func $lower \"{name}\") (memory $mem)
               (realloc $realloc)))\n"
        );
        with += &format!("(export \"{name}\" (func $lower-{name}))\n");
    }
    let lower = "memnbd:block/lower@0.2.0";
    Guest::new()
        .with("imports", format!("(import \"{lower}\" (instance $lower {TYPES} {imported}))"))
        .with("core-imports", core_imports)
        .with("lowered", lowered)
        .with("with", format!("(with \"lower\" (instance {with}))"))
        .with("pass", format!("(with \"{lower}\" (instance $lower))"))
}

/// What ends a function: its answer is that of `lower`, which has the same layout.
const ANSWER: &str = "(i32.const 0x100))
    (global.set $free (i32.const 0x110000))
    (i32.const 0x100)";

/// A guest all of whose functions call their namesakes on lower device 0, with the same arguments.
pub(super) fn passing() -> Guest {
    let pass =
        |name, arguments: &str| format!("(call $lower-{name} (i32.const 0) {arguments} {ANSWER}");
    let range = "(local.get $offset) (local.get $length)";
    user()
        .with("read", pass("read", range))
        .with(
            "write",
            pass(
                "write",
                "(local.get $offset) (local.get $data) (local.get $length) (local.get $fua)",
            ),
        )
        .with("zero", pass("zero", &format!("{range} (local.get $options)")))
        .with("trim", pass("trim", &format!("{range} (local.get $fua)")))
        .with("flush", pass("flush", ""))
        .with("extents", pass("extents", range))
        .with("cache", pass("cache", range))
}

/// As [`passing`], with interchangeable instances.
pub(super) fn passing_at_once() -> Guest {
    passing().opened(|disk| disk.capabilities |= can::INTERCHANGEABLE)
}

/// A guest whose `flush` is this call of `lower`, without the address of the answer.
pub(super) fn flushing(call: &str) -> Guest {
    user().with("flush", format!("({call} {ANSWER}"))
}

/// Opens a guest with a deadline and a memory limit.
pub(super) async fn open_within(
    guest: &Guest,
    deadline: Duration,
    max_memory: u64,
    lowers: &[Arc<dyn Device>],
) -> Client {
    let component = Engine::new(deadline).load("guest", &guest.wasm()).await.unwrap();
    open_component(component, max_memory, lowers).await.unwrap()
}
