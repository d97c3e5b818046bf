//! Mistakes are told before anything listens: on stderr, with exit code 2 for what was typed wrongly
//! and 1 for what failed.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use tempfile::TempDir;

use crate::support::{Server, memnbd, run, wasm};

/// Runs the program with a socket it must not come to create; what it complains of.
pub(crate) fn complaint(directory: &Path, code: i32, arguments: &[&str]) -> String {
    let mut command = memnbd(directory, ["-U", "socket"]);
    let finished = run(command.args(arguments));
    assert_eq!(finished.stdout, "", "{finished}");
    assert!(!directory.join("socket").exists(), "{finished}");
    finished.failure(code)
}

/// The complaint must have all these words.
pub(crate) fn complains(code: i32, arguments: &[&str], words: &[&str]) {
    let directory = TempDir::new().unwrap();
    let error = complaint(directory.path(), code, arguments);
    for word in words {
        assert!(error.contains(word), "{arguments:?}: {word:?} is not in {error}");
    }
}

/// As [`complains`], of a component in the text format.
fn complains_of_component(text: &str, words: &[&str]) {
    let directory = TempDir::new().unwrap();
    wasm(&directory.path().join("a.wasm"), text);
    let error = complaint(directory.path(), 1, &["--component", "a.wasm", "size=1M"]);
    for word in ["memnbd-host: load component a.wasm: "].iter().chain(words) {
        assert!(error.contains(word), "{word:?} is not in {error}");
    }
    assert_eq!(error.lines().count(), 1, "{error}");
}

/// A component that exports an instance with one function under this name.
fn exporting(name: &str) -> String {
    format!(
        r#"(component
            (core module $code (func (export "describe")))
            (core instance $code (instantiate $code))
            (func $describe (canon lift (core func $code "describe")))
            (instance $exported (export "describe" (func $describe)))
            (export "{name}" (instance $exported)))"#
    )
}

#[test]
fn unknown_option_is_usage() {
    complains(2, &["--no-such-option", "size=1M"], &["--no-such-option", "Usage: memnbd-host"]);
    complains(2, &["-p", "0", "1M"], &["--unix"]);
    complains(2, &["--deadline", "0", "1M"], &["deadline"]);
    complains(2, &["--deadline", "soon", "1M"], &["deadline"]);
    complains(2, &["--max-memory", "much", "1M"], &["max-memory"]);
}

#[test]
fn port_beyond_65535_is_usage() {
    let directory = TempDir::new().unwrap();
    let error = run(&mut memnbd(directory.path(), ["-p", "65536", "1M"])).failure(2);
    assert!(error.contains("65536"), "{error}");
}

#[test]
fn unknown_component_is_told_with_the_built_in_ones() {
    let words = ["\"no-such.wasm\"", "no such file", "memory, memory-zstd"];
    complains(2, &["--component", "no-such.wasm", "size=1M"], &words);
    complains(2, &["no-such.wasm", "size=1M"], &words);
}

#[test]
fn unknown_parameter_is_told_with_the_known_ones() {
    complains(
        2,
        &["size=1M", "colour=red"],
        &["memory has no parameter \"colour\"", "it has size"],
    );
    complains(2, &["pattern", "1M", "file=x"], &["pattern has no parameter \"file\""]);
}

#[test]
fn missing_parameter_is_told_with_its_meaning() {
    complains(2, &[], &["memory needs the parameter \"size\"", "size of the disk"]);
    complains(2, &["memory"], &["\"size\""]);
    complains(2, &["--component", "pattern"], &["pattern needs the parameter \"size\""]);
}

#[test]
fn parameter_is_not_given_twice() {
    complains(2, &["size=1M", "size=2M"], &["\"size\" is given twice", "\"1M\"", "\"2M\""]);
    complains(2, &["1M", "size=2M"], &["given twice"]);
    complains(2, &["1M", "2M"], &["given twice"]);
}

#[test]
fn misspelt_component_is_told_with_the_nearest_one() {
    let words = [
        "unknown component \"memroy\"; did you mean \"memory\"?",
        "built-in components are badblocks, blocksize, blocksize-policy",
        "as ./memroy.wasm",
    ];
    complains(2, &["memroy", "2G"], &words);
    complains(2, &["memroy"], &words);
    complains(2, &["--component", "memroy", "2G"], &words);
    complains(2, &["--export", "a=memroy,2G"], &words);
    complains(2, &["foo"], &["unknown component \"foo\". The built-in components are"]);
}

#[test]
fn component_of_a_file_is_told_when_the_path_is_missing() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("disk"), "").unwrap();
    for arguments in [&["disk", "2G"][..], &["--component", "disk"], &["--export", "a=disk"]] {
        let error = complaint(directory.path(), 2, arguments);
        let words = "unknown component \"disk\"; did you mean the file \"./disk\"?";
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn unknown_component_is_told_by_whatever_would_not_serve_it() {
    for option in [
        &["--dump-component"][..],
        &["--dump-plugin"],
        &["--dump-config"],
        &["--version"],
        &["--help"],
        &["--man"],
        &["--completion", "bash"],
    ] {
        for component in [&["memroy"][..], &["--component", "memroy"]] {
            let arguments = [component, option].concat();
            complains(2, &arguments, &["unknown component \"memroy\""]);
        }
    }
    for option in ["--dump-component", "--dump-plugin", "--help", "--man"] {
        complains(2, &["./no-such", option], &["\"./no-such\": no such file"]);
    }
}

#[test]
fn first_word_that_is_no_name_is_a_value() {
    for (value, words) in [(".5G", "not a number"), ("2G2", "one-letter suffix")] {
        complains(2, &[value], &["memory: size: ", words]);
    }
    complains(2, &["file=./a.wasm"], &["memory has no parameter \"file\""]);
}

#[test]
fn information_is_not_asked_for_along_with_a_server() {
    let directory = TempDir::new().unwrap();
    for option in ["--dump-plugin", "--dump-component", "--dump-config", "--man"] {
        for serving in [&["-s"][..], &["--run", "true"], &["--fork"], &["--print-uri"]] {
            let command = &mut memnbd(directory.path(), ["memory", option]);
            let finished = run(command.args(serving));
            assert_eq!(finished.stdout, "", "{option} {serving:?}");
            let error = finished.failure(2);
            let words = format!("{} cannot be used together with ", serving[0]);
            assert!(error.contains(&words), "{option} {serving:?}: {error}");
        }
        // As nbdkit has it, where a server would be says nothing.
        let command = &mut memnbd(directory.path(), ["memory", option, "-U", "-", "-f"]);
        run(command).success();
    }
}

#[test]
fn bad_sizes_are_told_with_what_would_be_right() {
    for (size, words) in [
        ("", &["empty"][..]),
        ("010", &["\"010\" begins with 0", "octal"]),
        ("00", &["begins with 0"]),
        ("-1", &["negative"]),
        ("1.5G", &["\"1.5G\" is not a whole number", "1536M"]),
        ("2X", &["\"2X\" has an unknown suffix", "b k m g t p e s"]),
        ("2GiB", &["one-letter suffix"]),
        ("2 G", &["unknown suffix"]),
        ("0x", &["no digits after 0x"]),
        ("9223372036854775808", &["too large", "2^63-1"]),
        ("8e", &["too large"]),
        ("99999999999999999999", &["too large"]),
    ] {
        let argument = format!("size={size}");
        let directory = TempDir::new().unwrap();
        let error = complaint(directory.path(), 2, &[&argument]);
        assert!(error.starts_with("memnbd-host: memory: size: "), "{error}");
        for word in words {
            assert!(error.contains(word), "{size}: {word:?} is not in {error}");
        }
    }
}

#[test]
fn size_with_a_sign_is_not_mistaken_for_an_option() {
    complains(2, &["-1"], &["-1"]);
    complains(2, &["--", "-1"], &["negative"]);
}

#[test]
fn file_that_is_no_webassembly_is_told() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("a.wasm"), "#!/bin/sh\n").unwrap();
    fs::write(directory.path().join("empty.wasm"), "").unwrap();
    for file in ["a.wasm", "empty.wasm"] {
        let error = complaint(directory.path(), 1, &["--component", file, "1M"]);
        let start = format!("memnbd-host: load component {file}: not a WebAssembly component");
        assert!(error.starts_with(&start), "{error}");
    }
}

#[test]
fn component_that_cannot_be_read_is_told() {
    let directory = TempDir::new().unwrap();
    fs::create_dir(directory.path().join("a.wasm")).unwrap();
    let error = complaint(directory.path(), 2, &["--component", "a.wasm", "1M"]);
    assert!(error.contains("\"a.wasm\"") && error.contains("directory"), "{error}");
}

#[test]
fn core_module_is_told_from_a_component() {
    complains_of_component("(module)", &["core module", "wasm-tools component new"]);
}

#[test]
fn damaged_component_is_told() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("a.wasm");
    wasm(&path, &exporting("memnbd:block/block-store@0.2.0"));
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let error = complaint(directory.path(), 1, &["a.wasm", "1M"]);
    assert!(error.contains("load component a.wasm: not a valid component"), "{error}");
}

#[test]
fn component_of_another_world_is_told_with_what_it_exports() {
    complains_of_component("(component)", &["exports nothing", "memnbd:block/block-store@0.2.0"]);
    complains_of_component(
        &exporting("wasi:http/incoming-handler@0.2.0"),
        &["not a backend", "wasi:http/incoming-handler@0.2.0"],
    );
}

#[test]
fn component_of_another_version_is_told_with_both_versions() {
    for version in ["0.1.0", "1.0.0", "0.0.9"] {
        let text = exporting(&format!("memnbd:block/block-store@{version}"));
        complains_of_component(&text, &[version, "serves version 0.2.0"]);
    }
    let old = exporting("memnbd:block/block-store@0.1.0");
    complains_of_component(&old, &["changed since 0.1", "`sharding`", "memnbd-host --wit"]);
}

#[test]
fn component_without_the_functions_of_the_contract_is_told() {
    complains_of_component(
        &exporting("memnbd:block/block-store@0.2.0"),
        &["block-store has no function open"],
    );
}

#[test]
fn component_that_imports_what_there_is_not_is_told() {
    let exporting = exporting("memnbd:block/block-store@0.2.0");
    let rest = exporting.trim_start().strip_prefix("(component").unwrap();
    let text = format!(
        "(component (import \"acme:radio/tuner@1.0.0\" (instance (export \"f\" (func)))) {rest}"
    );
    complains_of_component(&text, &["imports what there is not", "acme:radio/tuner@1.0.0"]);
}

#[test]
fn port_in_use_is_told() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let directory = TempDir::new().unwrap();
    for host in ["localhost", "127.0.0.1"] {
        let port = port.to_string();
        let command = &mut memnbd(directory.path(), ["-i", host, "-p", &port, "1M"]);
        let error = run(command).failure(1);
        assert!(error.contains(&format!("listen on {host} port {port}: ")), "{error}");
        assert!(error.contains("in use"), "{error}");
    }
}

#[test]
fn address_that_is_not_ours_is_told() {
    let directory = TempDir::new().unwrap();
    // Documentation's own network (RFC 5737): no machine has it.
    let command = &mut memnbd(directory.path(), ["-i", "192.0.2.1", "-p", "0", "1M"]);
    let error = run(command).failure(1);
    assert!(error.contains("listen on 192.0.2.1 port 0: "), "{error}");
}

#[test]
fn socket_path_that_is_too_long_is_told() {
    let directory = TempDir::new().unwrap();
    let long = "s".repeat(120);
    let error = run(&mut memnbd(directory.path(), ["-U", &long, "1M"])).failure(1);
    assert!(error.contains("listen on ") && error.contains(&long), "{error}");
}

#[test]
fn socket_in_no_directory_is_told() {
    let directory = TempDir::new().unwrap();
    let error = run(&mut memnbd(directory.path(), ["-U", "no/such", "1M"])).failure(1);
    assert!(error.contains("no/such: ") && error.contains("No such file"), "{error}");
}

#[test]
fn file_where_the_socket_should_be_is_left_alone() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("precious");
    fs::write(&path, "data").unwrap();
    let error = run(&mut memnbd(directory.path(), ["-U", "precious", "1M"])).failure(1);
    assert!(error.contains("not a socket"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "data");
}

#[test]
fn socket_of_a_living_server_is_left_to_it() {
    let server = Server::start(&["1M"]);
    let error = run(&mut memnbd(&server.path(""), ["-U", "socket", "2M"])).failure(1);
    assert!(error.contains("another server listens there"), "{error}");
    assert_eq!(crate::support::probe(&server).size, 1 << 20);
}

#[test]
fn memory_too_small_for_the_disk_is_told() {
    complains(1, &["--max-memory", "256K", "size=1M"], &["memnbd-host: memory: "]);
}
