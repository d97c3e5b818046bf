//! Components that are files: they are compiled apart from everything else, and those that cannot be
//! served stop nobody.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::support::{MEMORY_WASM, Probe, Server, bomb, memnbd, probe, run, wait_until, wasm};
use crate::wire::haggle::{Haggle, info};
use crate::wire::numbers::{opt, rep};

const MIB: u64 = 1 << 20;

/// What takes far longer to compile than any of these tests.
const LONG: (u32, u32) = (400, 400);

/// A directory with `disk.wasm`, a good component, and `bomb.wasm`.
fn directory() -> TempDir {
    let directory = TempDir::new().unwrap();
    fs::copy(MEMORY_WASM, directory.path().join("disk.wasm")).unwrap();
    bomb(&directory.path().join("bomb.wasm"), LONG);
    directory
}

/// Serves from such a directory, with a cache of its own, which is empty.
fn serve(arguments: &[&str]) -> Server {
    let directory = directory();
    let mut command = command(directory.path(), arguments);
    Server::spawn(directory, &mut command)
}

fn command(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = memnbd(directory, ["-U", "socket"]);
    command.args(arguments).env("XDG_CACHE_HOME", directory.join("cache"));
    command
}

fn size(server: &Server, name: &str) -> u64 {
    let stream = std::os::unix::net::UnixStream::connect(server.socket()).unwrap();
    Probe::new(stream, name).size
}

/// What the list says of an export.
fn description(server: &Server, name: &str) -> String {
    let exports = Haggle::new(server).accept(opt::LIST, b"").exports();
    let found = exports.into_iter().find(|(listed, _)| listed == name);
    found.unwrap_or_else(|| panic!("{name} is not listed")).1
}

/// What the only export of a server is refused with.
fn complaint(arguments: &[&str]) -> String {
    let directory = directory();
    let error = run(&mut command(directory.path(), arguments)).failure(1);
    assert!(!directory.path().join("socket").exists());
    assert_eq!(error.lines().filter(|line| line.starts_with("memnbd-host: ")).count(), 1);
    error
}

#[test]
fn others_are_served_while_a_bomb_is_compiled() {
    let mut server = serve(&[
        "--export",
        "good=memory,1M",
        "--export",
        "bomb=bomb.wasm",
        "--export",
        "b=disk.wasm,2M",
    ]);
    assert_eq!(size(&server, "good"), MIB);
    assert_eq!(description(&server, "bomb"), "compiling");
    // It is compiled beside the bomb, and who asks before that waits.
    assert_eq!(size(&server, "b"), 2 * MIB);
    server.expect_log("compiling bomb.wasm, 6 kB: ");
    assert_eq!(size(&server, "good"), MIB);
}

#[test]
fn bomb_ends_and_its_export_has_failed() {
    let mut server =
        serve(&["--compile-timeout=1", "--export=good=memory,1M", "--export=bomb=bomb.wasm"]);
    let reason = "compiling it takes longer than 1s (--compile-timeout)";
    server.expect_log(&format!("export \"bomb\": load component bomb.wasm: {reason}"));
    let listed = description(&server, "bomb");
    assert!(listed.starts_with("failed: load component bomb.wasm: compiling it takes"), "{listed}");
    let mut haggle = Haggle::new(&server);
    for option in [opt::INFO, opt::GO] {
        // Perhaps after another try.
        let answer = haggle.option(option, &info("bomb", &[]));
        assert_eq!(answer.end, rep::ERR_UNKNOWN);
        assert!(answer.text.contains(reason), "{}", answer.text);
    }
    haggle.expect_in_sync();
    assert_eq!(size(&server, "good"), MIB);
}

#[test]
fn limits_on_compiling_are_told_with_their_options() {
    for (arguments, words) in [
        (["--compile-timeout", "1"], "longer than 1s (--compile-timeout)"),
        (["--compile-cpu", "1"], "more than 1 s of CPU time (--compile-cpu)"),
        (["--compile-memory", "64M"], "more than 67108864 bytes of memory (--compile-memory)"),
    ] {
        let error = complaint(&[&["bomb.wasm"], &arguments[..]].concat());
        assert!(error.contains("memnbd-host: load component bomb.wasm: compiling it takes"));
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn limits_on_compiling_are_numbers() {
    let directory = TempDir::new().unwrap();
    for option in ["--compile-timeout=0", "--compile-cpu=0", "--compile-memory=much"] {
        let error = run(&mut memnbd(directory.path(), [option, "1M"])).failure(2);
        assert!(error.contains(option.split('=').next().unwrap()), "{error}");
    }
}

#[test]
fn compiler_is_confined_and_ends_with_the_server() {
    let directory = directory();
    let mut server = command(directory.path(), &["bomb.wasm"]).spawn().unwrap();
    let pid = server.id();
    let children = |process: &str| {
        let Ok(tasks) = fs::read_dir(format!("/proc/{process}/task")) else { return Vec::new() };
        let children = |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).ok();
        let children: String = tasks.flatten().filter_map(children).collect();
        children.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    // A child of the process that starts compilers for the server.
    let compilers = || children(&pid.to_string()).iter().flat_map(|it| children(it)).next();
    let limit = Duration::from_secs(60);
    let mut compiler = String::new();
    let status = |compiler: &str| fs::read_to_string(format!("/proc/{compiler}/status"));
    // The child confines itself first of all, but not before it is there.
    let confined = wait_until(limit, || {
        compiler = compilers().unwrap_or_default();
        status(&compiler).is_ok_and(|status| status.contains("NoNewPrivs:\t1"))
    });
    assert!(confined);
    let limits = || fs::read_to_string(format!("/proc/{compiler}/limits")).unwrap_or_default();
    let has = |name: &str, most: &str| {
        limits().lines().any(|line| line.starts_with(name) && line.contains(most))
    };
    assert!(wait_until(limit, || has("Max cpu time", " 240 ")), "{}", limits());
    assert!(has("Max data size", &(2_u64 << 30).to_string()), "{}", limits());
    assert!(has("Max address space", &(3_u64 << 30).to_string()), "{}", limits());
    assert!(has("Max core file size", " 0 "), "{}", limits());
    let environment = fs::read(format!("/proc/{compiler}/environ")).unwrap();
    assert!(environment.starts_with(b"RAYON_NUM_THREADS=") && environment.len() < 32);
    server.kill().unwrap();
    server.wait().unwrap();
    // Its process ID may be another's by now.
    let runs = || {
        status(&compiler).is_ok_and(|it| it.contains("NoNewPrivs:\t1") && !it.contains("State:\tZ"))
    };
    assert!(wait_until(limit, || !runs()), "it still runs");
}

#[test]
fn export_that_cannot_be_loaded_is_listed_with_the_reason() {
    let directory = directory();
    wasm(&directory.path().join("core.wasm"), "(module)");
    let exports =
        ["--export=good=memory,1M", "--export=core=core.wasm", "--export=big=disk.wasm,2X"];
    let mut command = command(directory.path(), &exports);
    let mut server = Server::spawn(directory, &mut command);
    for (name, reason) in [
        ("core", "load component core.wasm: a WebAssembly core module, not a component"),
        ("big", "memory: size: \"2X\" has an unknown suffix"),
    ] {
        server.expect_log(&format!("export {name:?}: {reason}"));
        let listed = description(&server, name);
        assert!(listed.starts_with(&format!("failed: {reason}")), "{listed}");
        let mut haggle = Haggle::new(&server);
        let answer = haggle.option(opt::GO, &info(name, &[]));
        assert_eq!(answer.end, rep::ERR_UNKNOWN);
        assert!(answer.text.starts_with(reason), "{}", answer.text);
        haggle.expect_in_sync();
    }
    assert_eq!(size(&server, "good"), MIB);
    // Once each, however many ask.
    let errors = server.log().into_iter().filter(|line| line.contains("ERROR")).count();
    assert_eq!(errors, 2);
}

#[test]
fn component_that_never_starts_stops_nobody() {
    let directory = directory();
    let text = r#"(component
        (core module $code
            (func $loop (loop (br 0))) (start $loop)
            (func (export "describe")))
        (core instance $code (instantiate $code))
        (func $describe (canon lift (core func $code "describe")))
        (instance $exported (export "describe" (func $describe)))
        (export "memnbd:block/block-store@0.2.0" (instance $exported)))"#;
    wasm(&directory.path().join("loop.wasm"), text);
    let exports = ["--deadline=2", "--export=good=memory,1M", "--export=loop=loop.wasm"];
    let mut command = command(directory.path(), &exports);
    let mut server = Server::spawn(directory, &mut command);
    assert_eq!(size(&server, "good"), MIB);
    server.expect_log("export \"loop\": load component loop.wasm: the component did not return");
    assert_eq!(size(&server, "good"), MIB);
}

#[test]
fn server_without_any_export_fails() {
    let directory = directory();
    wasm(&directory.path().join("core.wasm"), "(module)");
    let exports = ["--export=a=core.wasm", "--export=b=core.wasm"];
    let error = run(&mut command(directory.path(), &exports)).failure(1);
    assert!(error.contains("none of the exports can be served"), "{error}");
    assert!(error.contains("core module"), "{error}");
    // One that is found out only after the server was ready ends it as well.
    let arguments = ["--compile-timeout=2", "--export=a=bomb.wasm", "--export=b=core.wasm"];
    let error = run(&mut command(directory.path(), &arguments)).failure(1);
    assert!(error.contains("none of the exports can be served"), "{error}");
    assert!(!directory.path().join("socket").exists());
}

#[test]
fn parameters_of_a_foreign_component_are_judged_when_it_is_loaded() {
    let directory = directory();
    let alone = ["disk.wasm", "1M", "colour=red"];
    let error = run(&mut command(directory.path(), &alone)).failure(2);
    assert!(error.contains("memory has no parameter \"colour\""), "{error}");
    let exports = ["--export=good=memory,1M", "--export=a=disk.wasm,1M,colour=red"];
    let mut command = command(directory.path(), &exports);
    let mut server = Server::spawn(directory, &mut command);
    server.expect_log("export \"a\": memory has no parameter \"colour\"");
    assert_eq!(size(&server, "good"), MIB);
}

#[test]
fn component_is_told_of_without_being_served() {
    let directory = directory();
    let text = run(&mut command(directory.path(), &["disk.wasm", "--dump-component"])).success();
    assert!(text.contains("name=memory\n"), "{text}");
    let mut limited = command(directory.path(), &["--compile-cpu=1", "bomb.wasm", "--help"]);
    let error = run(&mut limited).failure(1);
    assert!(error.contains("(--compile-cpu)"), "{error}");
}

#[test]
fn stopping_does_not_wait_for_the_compiler() {
    let directory = directory();
    let mut child = command(directory.path(), &["bomb.wasm"]).spawn().unwrap();
    let socket = directory.path().join("socket");
    assert!(wait_until(Duration::from_secs(60), || socket.exists()));
    // So that the signal is handled by now: the socket came first.
    std::thread::sleep(Duration::from_millis(500));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = crate::support::finish_within(&mut child, Duration::from_secs(60));
    // There was nothing to serve yet: it ends at once, by the signal.
    assert_eq!(status.and_then(|status| status.code()), Some(128 + 15), "{status:?}");
    assert!(!socket.exists());
}

#[test]
fn one_export_may_be_read_only() {
    const READ_ONLY: u16 = 1 << 1;
    let server = serve(&[
        "--export=rw=memory,1M",
        "--export=ro=memory,1M,read-only",
        "--export=no=memory,read-only=false,1M",
        "--export=file=disk.wasm,read-only=true,1M",
    ]);
    for (name, read_only) in [("rw", false), ("ro", true), ("no", false), ("file", true)] {
        let stream = std::os::unix::net::UnixStream::connect(server.socket()).unwrap();
        let flags = Probe::new(stream, name).flags;
        assert_eq!(flags & READ_ONLY != 0, read_only, "{name}");
    }
    let all = serve(&["-r", "--export=no=memory,read-only=false,1M"]);
    assert_ne!(probe(&all).flags & READ_ONLY, 0, "-r is for all");
    let directory = TempDir::new().unwrap();
    for (item, words) in [("read-only=perhaps", "true or false"), ("read-only,read-only", "twice")]
    {
        let export = format!("a=memory,1M,{item}");
        let error = run(&mut memnbd(directory.path(), ["--export", &export])).failure(2);
        assert!(error.contains(words), "{error}");
    }
}
