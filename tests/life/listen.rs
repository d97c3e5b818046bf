//! Where a server listens.

use std::fs;
use std::net::{IpAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::background::Background;
use crate::support::{Probe, Server, free_port, memnbd, probe, require, run};

/// A server in a directory of its own, with nothing but these arguments.
fn start(arguments: &[&str]) -> Server {
    let directory = TempDir::new().unwrap();
    let mut command = memnbd(directory.path(), arguments);
    command.env("TMPDIR", directory.path());
    Server::spawn(directory, &mut command)
}

/// The path of the socket in a URI that needs no decoding.
fn socket(uri: &str) -> PathBuf {
    uri.split_once("?socket=").unwrap_or_else(|| panic!("{uri}")).1.into()
}

fn unix_probe(path: &Path, export: &str) -> Probe {
    Probe::new(UnixStream::connect(path).unwrap(), export)
}

/// What a server does not tell a client that asks for this name.
fn is_unknown(path: &Path, name: &str) -> bool {
    let uri = format!("nbd+unix:///{name}?socket={}", path.display());
    !std::process::Command::new("nbdinfo").arg(uri).output().unwrap().status.success()
}

#[test]
fn private_socket_is_for_this_user_and_vanishes() {
    let mut server = start(&["-U", "-", "1M"]);
    let path = socket(server.uri());
    let directory = path.parent().unwrap().to_owned();
    assert_eq!(directory.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(unix_probe(&path, "").size, 1 << 20);
    server.signal(rustix::process::Signal::TERM);
    server.wait();
    assert!(!directory.exists());
}

#[test]
fn addresses_of_one_family_are_listened_on() {
    for (option, works, fails) in [("-4", "127.0.0.1", "::1"), ("-6", "::1", "127.0.0.1")] {
        let server = start(&[option, "-p", "0", "1M"]);
        let connect =
            |address: &str| TcpStream::connect((address.parse::<IpAddr>().unwrap(), server.port()));
        assert_eq!(Probe::new(connect(works).unwrap(), "").size, 1 << 20);
        assert!(connect(fails).is_err(), "{option}");
    }
    let directory = TempDir::new().unwrap();
    let error = run(&mut memnbd(directory.path(), ["-6", "-i", "127.0.0.1", "1M"])).failure(1);
    assert!(error.contains("listen on 127.0.0.1") && error.contains("no such address"), "{error}");
}

#[test]
fn last_of_both_families_counts() {
    let server = start(&["-6", "-4", "-p", "0", "1M"]);
    assert!(TcpStream::connect(("127.0.0.1", server.port())).is_ok());
    assert!(TcpStream::connect(("::1", server.port())).is_err());
}

#[test]
fn several_sockets_serve_one_disk() {
    require!("nbdsh");
    let port = free_port();
    let tcp = format!("127.0.0.1:{port}");
    let server = start(&["--listen", "unix:a", "--listen", &tcp, "-U", "b", "1M"]);
    assert!(server.uri().ends_with("/b"), "the main option comes first: {}", server.uri());
    let code = format!(
        "
a, b, c = nbd.NBD(), nbd.NBD(), nbd.NBD()
a.connect_unix('a')
b.connect_unix('b')
c.connect_tcp('127.0.0.1', '{port}')
a.pwrite(b'x' * 512, 0)
assert b.pread(512, 0) == c.pread(512, 0) == b'x' * 512
"
    );
    crate::support::nbdsh(&server, &code);
}

#[test]
fn every_uri_is_printed_by_a_server_that_goes_to_the_background() {
    let directory = TempDir::new().unwrap();
    let sockets = ["--listen", "unix:a", "--listen", "[::1]:0", "--listen", "unix:-"];
    let mut command = memnbd(directory.path(), sockets);
    let command = command.args(["--fork", "1M"]).env("TMPDIR", directory.path());
    let printed = run(command).success();
    let server = Background::behind(&directory.path().join("a"));
    let uris: Vec<_> = printed.lines().collect();
    assert_eq!(uris.len(), 3, "{printed}");
    assert!(uris[0].starts_with("nbd+unix:///?socket=/") && uris[0].ends_with("/a"), "{printed}");
    assert!(uris[1].starts_with("nbd://[::1]:") && !uris[1].ends_with(":0"), "{printed}");
    assert_eq!(unix_probe(&socket(uris[2]), "").size, 1 << 20);
    server.stop();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn socket_of_one_export_shows_no_other() {
    require!("nbdinfo");
    let server = start(&[
        "--export",
        "a=memory,1M",
        "--export",
        "b=memory,2M",
        "--listen",
        "unix:all",
        "--listen",
        "unix:only-b,export=b",
    ]);
    let (all, only) = (server.path("all"), server.path("only-b"));
    assert_eq!(unix_probe(&all, "").size, 1 << 20);
    assert_eq!(unix_probe(&all, "b").size, 2 << 20);
    assert_eq!(unix_probe(&only, "").size, 2 << 20);
    assert_eq!(unix_probe(&only, "b").size, 2 << 20);
    assert!(!is_unknown(&all, "a") && is_unknown(&only, "a"));
    let list = format!("nbd+unix:///?socket={}", only.display());
    let list = run(std::process::Command::new("nbdinfo").args(["--list", "--json", &list]));
    let list: serde_json::Value = serde_json::from_str(&list.success()).unwrap();
    assert_eq!(list["exports"].as_array().unwrap().len(), 1);
}

#[test]
fn socket_of_an_export_that_there_is_not_is_told() {
    let directory = TempDir::new().unwrap();
    let command = &mut memnbd(directory.path(), ["-e", "a", "1M", "--listen", "unix:s,export=b"]);
    let error = run(command).failure(1);
    assert!(error.contains("no export \"b\", only [\"a\"]"), "{error}");
    assert!(!directory.path().join("s").exists());
}

#[test]
fn live_socket_is_refused_and_stale_one_replaced() {
    let server = Server::start(&["1M"]);
    let command = &mut memnbd(&server.path(""), ["-U", "socket", "2M"]);
    let error = run(command).failure(1);
    assert!(error.contains("another server listens there"), "{error}");
    assert_eq!(probe(&server).size, 1 << 20);

    let directory = TempDir::new().unwrap();
    drop(UnixListener::bind(directory.path().join("socket")).unwrap());
    let command = &mut memnbd(directory.path(), ["-U", "socket", "1M"]);
    assert_eq!(probe(&Server::spawn(directory, command)).size, 1 << 20);

    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("socket"), "precious").unwrap();
    let error = run(&mut memnbd(directory.path(), ["-U", "socket", "1M"])).failure(1);
    assert!(error.contains("not a socket"), "{error}");
    assert_eq!(fs::read(directory.path().join("socket")).unwrap(), b"precious");
}

#[test]
fn second_server_on_a_port_is_refused() {
    let first = start(&["-i", "127.0.0.1", "-p", "0", "1M"]);
    let directory = TempDir::new().unwrap();
    let port = first.port().to_string();
    let error = run(&mut memnbd(directory.path(), ["-i", "127.0.0.1", "-p", &port, "1M"]));
    let error = error.failure(1);
    assert!(error.contains(&port) && error.contains("in use"), "{error}");
}

#[test]
fn virtual_machines_are_listened_to() {
    if !Path::new("/dev/vsock").exists() {
        eprintln!("skipped, for this kernel has no AF_VSOCK");
        return;
    }
    // Whether a machine can reach itself by vsock depends on a kernel module; that it listens does not.
    for arguments in [&["--vsock", "-p", "0", "1M"][..], &["--listen", "vsock:0", "1M"]] {
        let server = start(arguments);
        let port = server.uri().strip_prefix("nbd+vsock://1:").expect("it is a vsock URI");
        assert_ne!(port.parse::<u32>().unwrap(), 0);
    }
}
