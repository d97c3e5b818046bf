//! Components that import WASI: it is there, and grants nothing.

use tracing::Level;

use super::guest::Guest;
use super::logs::Logs;
use super::{LONG, SHORT, opened};
use crate::component::{Fault, Instance};

const POLL: (&str, &str) = (
    "wasi:io/poll@0.2.0",
    r#"(export "pollable" (type $p (sub resource)))
       (export "[method]pollable.block" (func (param "self" (borrow $p))))"#,
);
const CLOCK: (&str, &str) = (
    "wasi:clocks/monotonic-clock@0.2.0",
    r#"(alias outer 1 $wasi-pollable (type $o)) (export "pollable" (type $p (eq $o)))
       (export "subscribe-duration" (func (param "when" u64) (result (own $p))))"#,
);
const ERROR: (&str, &str) = ("wasi:io/error@0.2.0", r#"(export "error" (type (sub resource)))"#);
const STREAMS: (&str, &str) = (
    "wasi:io/streams@0.2.0",
    r#"(export "output-stream" (type $out (sub resource)))
       (export "input-stream" (type $in (sub resource)))
       (alias outer 1 $wasi-error (type $o)) (export "error" (type $e (eq $o)))
       (type $s (variant (case "last-operation-failed" (own $e)) (case "closed")))
       (export "stream-error" (type $stream-error (eq $s)))
       (export "[method]output-stream.blocking-write-and-flush" (func
         (param "self" (borrow $out)) (param "contents" (list u8))
         (result (result (error $stream-error)))))
       (export "[method]input-stream.blocking-read" (func
         (param "self" (borrow $in)) (param "len" u64)
         (result (result (list u8) (error $stream-error)))))"#,
);
const STDOUT: (&str, &str) = (
    "wasi:cli/stdout@0.2.0",
    r#"(alias outer 1 $wasi-output-stream (type $o)) (export "output-stream" (type $s (eq $o)))
       (export "get-stdout" (func (result (own $s))))"#,
);
const STDIN: (&str, &str) = (
    "wasi:cli/stdin@0.2.0",
    r#"(alias outer 1 $wasi-input-stream (type $o)) (export "input-stream" (type $s (eq $o)))
       (export "get-stdin" (func (result (own $s))))"#,
);
const ENVIRONMENT: (&str, &str) = (
    "wasi:cli/environment@0.2.0",
    r#"(export "get-environment" (func (result (list (tuple string string)))))
       (export "get-arguments" (func (result (list string))))"#,
);
const EXIT: (&str, &str) =
    ("wasi:cli/exit@0.2.0", r#"(export "exit" (func (param "status" (result))))"#);
const FILES: (&str, &str) =
    ("wasi:filesystem/types@0.2.0", r#"(export "descriptor" (type (sub resource)))"#);
const PREOPENS: (&str, &str) = (
    "wasi:filesystem/preopens@0.2.0",
    r#"(alias outer 1 $wasi-descriptor (type $o)) (export "descriptor" (type $d (eq $o)))
       (export "get-directories" (func (result (list (tuple (own $d) string)))))"#,
);
const NETWORK: (&str, &str) = (
    "wasi:sockets/network@0.2.0",
    r#"(export "network" (type (sub resource)))
       (type $c (enum "unknown" "access-denied" "not-supported" "invalid-argument" "out-of-memory"
         "timeout" "concurrency-conflict" "not-in-progress" "would-block" "invalid-state"
         "new-socket-limit" "address-not-bindable" "address-in-use" "remote-unreachable"
         "connection-refused" "connection-reset" "connection-aborted" "datagram-too-large"
         "name-unresolvable" "temporary-resolver-failure" "permanent-resolver-failure"))
       (export "error-code" (type (eq $c)))
       (type $f (enum "ipv4" "ipv6"))
       (export "ip-address-family" (type (eq $f)))"#,
);
const INSTANCE_NETWORK: (&str, &str) = (
    "wasi:sockets/instance-network@0.2.0",
    r#"(alias outer 1 $wasi-network (type $o)) (export "network" (type $n (eq $o)))
       (export "instance-network" (func (result (own $n))))"#,
);
const TCP: (&str, &str) =
    ("wasi:sockets/tcp@0.2.0", r#"(export "tcp-socket" (type (sub resource)))"#);
const CREATE_TCP: (&str, &str) = (
    "wasi:sockets/tcp-create-socket@0.2.0",
    r#"(alias outer 1 $wasi-tcp-socket (type $t)) (export "tcp-socket" (type $s (eq $t)))
       (alias outer 1 $wasi-error-code (type $oc)) (export "error-code" (type $c (eq $oc)))
       (alias outer 1 $wasi-ip-address-family (type $of)) (export "ip-address-family" (type $f (eq $of)))
       (export "create-tcp-socket" (func (param "address-family" $f)
         (result (result (own $s) (error $c)))))"#,
);
const NAMES: (&str, &str) = (
    "wasi:sockets/ip-name-lookup@0.2.0",
    r#"(alias outer 1 $wasi-network (type $o)) (export "network" (type $n (eq $o)))
       (alias outer 1 $wasi-error-code (type $oc)) (export "error-code" (type $c (eq $oc)))
       (export "resolve-address-stream" (type $s (sub resource)))
       (export "resolve-addresses" (func (param "network" (borrow $n)) (param "name" string)
         (result (result (own $s) (error $c)))))"#,
);

/// A guest with imports. `aliases` are the types that one import has from another: their names and
/// the number of the import. `functions` are what the core module calls by the last part of the
/// name: the number of the import, the name, the core type.
pub(crate) fn guest(
    imports: &[(&str, &str)],
    aliases: &[(usize, &str)],
    functions: &[(usize, &str, &str)],
) -> Guest {
    let (mut declared, mut pass) = (String::new(), String::new());
    for (number, (name, items)) in imports.iter().enumerate() {
        declared += &format!("(import \"{name}\" (instance $wasi{number} {items}))\n");
        for (_, ty) in aliases.iter().filter(|alias| alias.0 == number) {
            declared += &format!("(alias export $wasi{number} \"{ty}\" (type $wasi-{ty}))\n");
        }
        pass += &format!("(with \"{name}\" (instance $wasi{number}))\n");
    }
    let (mut core_imports, mut lowered, mut with) = (String::new(), String::new(), String::new());
    for (number, name, ty) in functions {
        let short = name.rsplit('.').next().unwrap();
        core_imports += &format!("(import \"wasi\" \"{short}\" (func ${short} {ty}))\n");
        lowered += &format!(
            "(core func ${short} (canon lower (func $wasi{number} \"{name}\") (memory $mem)
                (realloc $realloc)))\n"
        );
        with += &format!("(export \"{short}\" (func ${short}))\n");
    }
    Guest::new()
        .with("imports", declared)
        .with("core-imports", core_imports)
        .with("lowered", lowered)
        .with("with", format!("(with \"wasi\" (instance {with}))"))
        .with("pass", pass)
}

/// A guest that can sleep in its `flush` and elsewhere.
pub(crate) fn sleeper(flush: &str) -> Guest {
    let functions = [
        (0, "[method]pollable.block", "(param i32)"),
        (1, "subscribe-duration", "(param i64) (result i32)"),
    ];
    guest(&[POLL, CLOCK], &[(0, "pollable")], &functions).with("flush", flush)
}

#[tokio::test]
async fn sleep_beyond_the_deadline_ends_at_the_deadline() {
    let hour = "(call $block (call $subscribe-duration (i64.const 3600000000000))) (call $done)";
    let fault = opened(&sleeper(hour), SHORT).await.flush().await.unwrap_err();
    assert!(matches!(fault, Fault::Deadline(_, SHORT)), "{fault:?}");
    let moment = "(call $block (call $subscribe-duration (i64.const 1000000))) (call $done)";
    opened(&sleeper(moment), LONG).await.flush().await.unwrap().unwrap();
}

#[tokio::test]
async fn hoarding_resources_is_a_fault() {
    let take = |count: u32| {
        let call = "(drop (call $subscribe-duration (i64.const 1)))";
        sleeper(&format!(
            "(local $count i32)
             (loop $more
               {call}
               (local.set $count (i32.add (local.get $count) (i32.const 1)))
               (br_if $more (i32.lt_u (local.get $count) (i32.const {count}))))
             (call $done)"
        ))
    };
    opened(&take(1000), LONG).await.flush().await.unwrap().unwrap();
    let fault = opened(&take(5000), LONG).await.flush().await.unwrap_err();
    assert!(matches!(fault, Fault::Trap { .. }), "{fault:?}");
}

/// A guest that can [`PRINT`].
pub(crate) fn printer(flush: &str) -> Guest {
    let functions = [
        (1, "[method]output-stream.blocking-write-and-flush", "(param i32 i32 i32 i32)"),
        (2, "get-stdout", "(result i32)"),
    ];
    guest(&[ERROR, STREAMS, STDOUT], &[(0, "error"), (1, "output-stream")], &functions)
        .with("flush", flush)
}

/// Prints what is written at the beginning of the disk, `length` bytes at once.
pub(crate) const PRINT: &str = "(call $blocking-write-and-flush (call $get-stdout)
    (i32.const 0x10000) (i32.const LENGTH) (i32.const 0x3c00))";

async fn print(instance: &mut Instance, text: &[u8]) {
    instance.write(0, text, false).await.unwrap().unwrap();
}

#[tokio::test]
async fn prints_go_to_the_log_without_control_characters() {
    let text = "one\n\u{1b}[2Jtwo \"2\"\r\n\n\nthree\u{0}\n\u{ff}caf\u{e9}".as_bytes();
    let logs = Logs::capture();
    let length = text.len().to_string();
    let flush = format!("{} (unreachable)", PRINT.replace("LENGTH", &length));
    let mut instance = opened(&printer(&flush), LONG).await;
    print(&mut instance, text).await;
    instance.flush().await.unwrap_err();
    drop(instance);
    let lines = logs.take(Level::INFO);
    let expected =
        ["guest: one", "guest:  [2Jtwo \"2\" ", "guest: three ", "guest: \u{ff}caf\u{e9}"];
    assert_eq!(lines, expected, "also what is left when it traps");
}

#[tokio::test]
async fn prints_without_end_are_bounded() {
    let logs = Logs::capture();
    let once = PRINT.replace("LENGTH", "4096");
    let flush = format!("(loop $more {once} (br $more)) (unreachable)");
    let mut instance = opened(&printer(&flush), super::SHORT * 4).await;
    print(&mut instance, &[b"x\n".as_slice(); 2048].concat()).await;
    // A stream for each print is too much before the time is over.
    let fault = instance.flush().await.unwrap_err();
    assert!(matches!(fault, Fault::Trap { .. } | Fault::Deadline(..)), "{fault:?}");
    drop(instance);
    let lines = logs.take(Level::INFO);
    assert!((200..1000).contains(&lines.len()), "{} lines", lines.len());
    assert!(lines.last().unwrap().contains("not logged"), "{:?}", lines.last());
}

#[tokio::test]
async fn instances_of_an_export_are_bounded_together() {
    let logs = Logs::capture();
    let once = PRINT.replace("LENGTH", "4096");
    let guest = printer(&format!("{once} (call $done)"));
    let component = super::load(&guest, LONG).await.unwrap().for_export("db");
    for _ in 0..4 {
        let budget = super::MemoryBudget::new(super::BUDGET);
        let mut instance = component.start(budget).await.unwrap();
        instance.open("db", false, &[]).await.unwrap().unwrap();
        print(&mut instance, &[b"x\n".as_slice(); 2048].concat()).await;
        instance.flush().await.unwrap().unwrap();
    }
    let lines = logs.take(Level::INFO);
    assert!((200..1000).contains(&lines.len()), "{} lines", lines.len());
    assert!(lines.iter().all(|line| line.starts_with("export \"db\": guest: ")), "{lines:?}");
    // Another export has a bound of its own.
    let other = component.for_export("other");
    let budget = super::MemoryBudget::new(super::BUDGET);
    let mut instance = other.start(budget).await.unwrap();
    instance.open("other", false, &[]).await.unwrap().unwrap();
    print(&mut instance, b"seen\n").await;
    instance.flush().await.unwrap().unwrap();
    let lines = logs.take(Level::INFO);
    assert!(lines.contains(&"export \"other\": guest: seen".to_owned()), "{lines:?}");
}

#[tokio::test]
async fn last_lines_are_kept_although_they_are_not_logged() {
    let flush = format!("{} (unreachable)", PRINT.replace("LENGTH", "4096"));
    let component = super::load(&printer(&flush), LONG).await.unwrap().for_export("db");
    let start = async || {
        let budget = super::MemoryBudget::new(super::BUDGET);
        let mut instance = component.start(budget).await.unwrap();
        instance.open("db", false, &[]).await.unwrap().unwrap();
        instance
    };
    let mut instance = start().await;
    let mut text = [b"x\n".as_slice(); 2048].concat();
    text[4096 - 10..].copy_from_slice(b"\nwhy\nwhy 2");
    print(&mut instance, &text).await;
    instance.flush().await.unwrap_err();
    drop(instance);
    let recent = component.recent_output();
    assert_eq!(recent.len(), 10);
    assert_eq!(recent[7..], ["x", "why", "why 2"]);
    // Few long ones.
    let mut instance = start().await;
    print(&mut instance, &[b'y'; 4096]).await;
    instance.flush().await.unwrap_err();
    drop(instance);
    assert_eq!(component.recent_output(), vec!["y".repeat(1024); 4]);
}

#[tokio::test]
async fn line_without_end_is_broken() {
    let logs = Logs::capture();
    let flush = format!("{} (call $done)", PRINT.replace("LENGTH", "4096"));
    let mut instance = opened(&printer(&flush), LONG).await;
    print(&mut instance, &[0x80; 4096]).await;
    instance.flush().await.unwrap().unwrap();
    drop(instance);
    let lines = logs.take(Level::INFO);
    assert_eq!(lines.len(), 4);
    assert!(lines.iter().all(|line| line.len() <= 4096), "bytes that are no text become longer");
}

#[tokio::test]
async fn exit_is_a_fault() {
    let guest = guest(&[EXIT], &[], &[(0, "exit", "(param i32)")])
        .with("flush", "(call $exit (i32.const 0)) (call $done)");
    let fault = opened(&guest, LONG).await.flush().await.unwrap_err();
    assert!(matches!(fault, Fault::Trap { .. }), "{fault:?}");
}

#[tokio::test]
async fn environment_arguments_and_files_are_empty() {
    let imports = [ENVIRONMENT, FILES, PREOPENS];
    let functions = [
        (0, "get-environment", "(param i32)"),
        (0, "get-arguments", "(param i32)"),
        (2, "get-directories", "(param i32)"),
    ];
    // The error code tells which list was not empty.
    let flush: String = ["get-environment", "get-arguments", "get-directories"]
        .iter()
        .enumerate()
        .map(|(code, name)| {
            format!(
                "(call ${name} (i32.const 0x3c00))
                 (if (i32.load (i32.const 0x3c04)) (then (return (call $fail (i32.const {code})))))"
            )
        })
        .collect();
    let guest =
        guest(&imports, &[(1, "descriptor")], &functions).with("flush", flush + "(call $done)");
    opened(&guest, LONG).await.flush().await.unwrap().unwrap();
}

#[tokio::test]
async fn standard_input_is_at_its_end() {
    let functions = [
        (1, "[method]input-stream.blocking-read", "(param i32 i64 i32)"),
        (2, "get-stdin", "(result i32)"),
    ];
    let closed = "(call $blocking-read (call $get-stdin) (i64.const 16) (i32.const 0x3c00))
        ;; An error that is `closed`.
        (if (i32.and (i32.eq (i32.load8_u (i32.const 0x3c00)) (i32.const 1))
            (i32.eq (i32.load8_u (i32.const 0x3c04)) (i32.const 1)))
          (then (return (call $done))))
        (call $fail (i32.const 1))";
    let guest = guest(&[ERROR, STREAMS, STDIN], &[(0, "error"), (1, "input-stream")], &functions)
        .with("flush", closed);
    opened(&guest, LONG).await.flush().await.unwrap().unwrap();
}

#[tokio::test]
async fn sockets_and_names_are_refused() {
    let imports = [NETWORK, INSTANCE_NETWORK, TCP, CREATE_TCP, NAMES];
    let aliases = [(0, "network"), (0, "error-code"), (0, "ip-address-family"), (2, "tcp-socket")];
    let functions = [
        (1, "instance-network", "(result i32)"),
        (3, "create-tcp-socket", "(param i32 i32)"),
        (4, "resolve-addresses", "(param i32 i32 i32 i32)"),
    ];
    let flush = "(call $create-tcp-socket (i32.const 0) (i32.const 0x3c00))
        (if (i32.eqz (i32.load8_u (i32.const 0x3c00))) (then (return (call $fail (i32.const 0)))))
        (i64.store (i32.const 0x3d00) (i64.const 0x736f686c61636f6c)) ;; localhos
        (call $resolve-addresses (call $instance-network) (i32.const 0x3d00) (i32.const 8)
          (i32.const 0x3c00))
        (if (i32.eqz (i32.load8_u (i32.const 0x3c00))) (then (return (call $fail (i32.const 1)))))
        (call $done)";
    let guest = guest(&imports, &aliases, &functions).with("flush", flush);
    opened(&guest, LONG).await.flush().await.unwrap().unwrap();
}
