//! The command line: every way to say the same.

use std::fs;

use tempfile::TempDir;

use crate::support::{Probe, Server, memnbd, nbdsh, probe, require, run, wasm};

const READ_ONLY: u16 = 1 << 1;

#[test]
fn every_spelling_of_component_and_size_serves_the_same_disk() {
    let spellings: [&[&str]; 11] = [
        &["--component", "memory.wasm", "size=2G"],
        &["--component", "memory", "size=2G"],
        &["--component=memory", "2G"],
        &["memory", "size=2G"],
        &["memory.wasm", "size=2g"],
        &["memory", "2G"],
        &["size=2G"],
        &["2G"],
        &["2147483648"],
        &["size=0x80000000"],
        &["4194304S"],
    ];
    for arguments in spellings {
        let server = Server::start(arguments);
        assert_eq!(probe(&server).size, 2 << 30, "{arguments:?}");
    }
}

#[test]
fn options_may_come_after_parameters() {
    let server = Server::start(&["size=1M", "-r", "--component", "memory"]);
    assert_ne!(probe(&server).flags & READ_ONLY, 0);
}

#[test]
fn largest_disk_is_served() {
    let server = Server::start(&["9223372036854775807"]);
    assert_eq!(probe(&server).size, i64::MAX as u64);
}

#[test]
fn disk_of_no_bytes_is_served() {
    let server = Server::start(&["0"]);
    assert_eq!(probe(&server).size, 0);
}

#[test]
fn file_comes_before_the_built_in_component_of_its_name() {
    let directory = TempDir::new().unwrap();
    wasm(&directory.path().join("memory.wasm"), "(component)");
    let command = &mut memnbd(directory.path(), ["--component", "memory.wasm", "size=1M"]);
    let error = run(command).failure(1);
    assert!(error.contains("exports nothing"), "{error}");
}

#[test]
fn file_that_no_path_names_is_not_meant() {
    let directory = TempDir::new().unwrap();
    wasm(&directory.path().join("memory"), "(component)");
    let command = &mut memnbd(directory.path(), ["-U", "socket", "--component", "memory", "1M"]);
    assert_eq!(probe(&Server::spawn(directory, command)).size, 1 << 20);
    let directory = TempDir::new().unwrap();
    wasm(&directory.path().join("memory"), "(component)");
    let error = run(&mut memnbd(directory.path(), ["./memory", "1M"])).failure(1);
    assert!(error.contains("exports nothing"), "{error}");
}

#[test]
fn directory_does_not_hide_the_built_in_component_of_its_name() {
    for name in ["memory", "memory.wasm"] {
        let directory = TempDir::new().unwrap();
        fs::create_dir(directory.path().join(name)).unwrap();
        let command = &mut memnbd(directory.path(), ["-U", "socket", name, "1M"]);
        let server = Server::spawn(directory, command);
        assert_eq!(probe(&server).size, 1 << 20);
    }
}

#[test]
fn unix_socket_is_told_as_an_absolute_path() {
    let server = Server::start(&["1M"]);
    let socket = fs::canonicalize(server.socket()).unwrap();
    assert_eq!(server.uri(), format!("nbd+unix:///?socket={}", socket.display()));
}

#[test]
fn free_port_is_taken_and_told() {
    let server = Server::start_tcp(&["1M"]);
    assert_eq!(server.uri(), format!("nbd://localhost:{}", server.port()));
    assert_ne!(server.port(), 0);
    assert_eq!(probe(&server).size, 1 << 20);
}

#[test]
fn ip_address_is_told_as_it_was_given() {
    let server = Server::start_tcp(&["-i", "127.0.0.1", "1M"]);
    assert_eq!(server.uri(), format!("nbd://127.0.0.1:{}", server.port()));
    assert_eq!(probe(&server).size, 1 << 20);
}

#[test]
fn ipv6_address_is_told_in_brackets() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("skipped, for this machine has no IPv6");
        return;
    }
    let server = Server::start_tcp(&["--ipaddr", "::1", "1M"]);
    assert_eq!(server.uri(), format!("nbd://[::1]:{}", server.port()));
    let stream = std::net::TcpStream::connect(("::1", server.port())).unwrap();
    assert_eq!(Probe::new(stream, "").size, 1 << 20);
    require!("nbdsh");
    assert_eq!(nbdsh(&server, "print(h.get_size())"), "1048576\n");
}

#[test]
fn localhost_is_served_on_all_its_addresses() {
    let server = Server::start_tcp(&["1M"]);
    for address in std::net::ToSocketAddrs::to_socket_addrs(&("localhost", server.port())).unwrap()
    {
        if std::net::TcpListener::bind((address.ip(), 0)).is_ok() {
            let stream = std::net::TcpStream::connect(address).unwrap();
            assert_eq!(Probe::new(stream, "").size, 1 << 20, "{address}");
        }
    }
}

#[test]
fn read_only_disk_says_so_and_refuses_writes() {
    for option in ["-r", "--read-only", "--readonly"] {
        let server = Server::start(&[option, "1M"]);
        assert_ne!(probe(&server).flags & READ_ONLY, 0);
    }
    assert_eq!(probe(&Server::start(&["1M"])).flags & READ_ONLY, 0);
}

#[test]
fn export_has_the_name_it_was_given_and_answers_to_none() {
    let server = Server::start_tcp(&["-e", "a disk/\u{e4}", "1M"]);
    assert_eq!(server.uri(), format!("nbd://localhost:{}/a%20disk/%C3%A4", server.port()));
    for name in ["", "a disk/\u{e4}"] {
        let stream = std::net::TcpStream::connect(("localhost", server.port())).unwrap();
        assert_eq!(Probe::new(stream, name).size, 1 << 20);
    }
    require!("nbdsh");
    assert_eq!(nbdsh(&server, "print(h.get_export_name())"), "a disk/\u{e4}\n");
}

#[test]
fn verbose_log_tells_of_connections() {
    let mut server = Server::start(&["-v", "1M"]);
    drop(probe(&server));
    server.expect_log("connected");
    let server = Server::start(&["1M"]);
    drop(probe(&server));
    assert_eq!(server.log(), [""; 0]);
}
