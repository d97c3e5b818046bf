//! Other users of the machine: what they find, and what they have put there before.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::control::{control, controlled, http_as};
use crate::support::{Server, memnbd, probe, run};

/// A directory with a file that nobody may change, and links to it of these names.
fn with_links(names: &[&str]) -> TempDir {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("victim"), "precious").unwrap();
    for name in names {
        symlink("victim", directory.path().join(name)).unwrap();
    }
    directory
}

fn assert_precious(directory: &Path) {
    assert_eq!(fs::read_to_string(directory.join("victim")).unwrap(), "precious");
}

#[test]
fn links_in_place_of_sockets_are_refused_and_stay() {
    let directory = with_links(&["socket", "control", "other"]);
    for (place, arguments) in [
        ("socket", &["-U", "socket", "1M"][..]),
        ("control", &["-p", "0", "--control", "unix:control", "1M"]),
        ("other", &["-p", "0", "--listen", "unix:other", "1M"]),
    ] {
        let error = run(&mut memnbd(directory.path(), arguments)).failure(1);
        assert!(error.contains("the file exists and is not a socket"), "{place}: {error}");
        assert!(directory.path().join(place).is_symlink(), "{place}");
        assert_precious(directory.path());
    }
    // A link that leads nowhere must not make a socket elsewhere.
    symlink("elsewhere", directory.path().join("dangling")).unwrap();
    run(&mut memnbd(directory.path(), ["-U", "dangling", "1M"])).failure(1);
    assert!(!directory.path().join("elsewhere").exists());
}

#[test]
fn links_in_place_of_saved_files_are_replaced() {
    let server = controlled(&["1M"]);
    fs::write(server.path("victim"), "precious").unwrap();
    for (name, format) in [("raw", "raw"), ("image", "qcow2")] {
        let saved = server.path(name);
        symlink("victim", &saved).unwrap();
        let path = saved.to_str().unwrap();
        control(&server, &["save", "disk", path, "--format", format]).success();
        assert!(saved.symlink_metadata().unwrap().is_file());
        assert_precious(&server.path(""));
    }
}

#[test]
fn control_socket_is_private_whatever_the_umask() {
    let directory = TempDir::new().unwrap();
    let program = env!("CARGO_BIN_EXE_memnbd-host");
    let script = format!("umask 0; exec {program} -U socket --control unix:control 1M");
    let mut command = Command::new("sh");
    command.current_dir(directory.path()).args(["-c", &script]);
    let server = Server::spawn(directory, &mut command);
    let socket = server.path("control").symlink_metadata().unwrap();
    assert_eq!(socket.mode() & 0o777, 0o600);
    assert_eq!(socket.uid(), rustix::process::geteuid().as_raw());
}

#[test]
fn another_user_cannot_use_the_control_socket() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped, for only root can become somebody else");
        return;
    }
    let server = controlled(&["1M"]);
    // Everybody may look for it.
    fs::set_permissions(server.path(""), Permissions::from_mode(0o755)).unwrap();
    let connect = |socket: &str| {
        let code = "
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    socket.socket(socket.AF_UNIX).connect(sys.argv[1])
    print('connected')
except PermissionError:
    print('refused')";
        let mut command = Command::new("/usr/bin/python3");
        run(command.args(["-c", code]).arg(server.path(socket))).success()
    };
    assert_eq!(connect("control"), "refused\n");
    assert_eq!(connect("socket"), "refused\n", "nor the other one, as umask has it");
}

#[test]
fn a_link_in_place_of_the_cache_is_refused() {
    let directory = TempDir::new().unwrap();
    let elsewhere = TempDir::new().unwrap();
    symlink(elsewhere.path(), directory.path().join("memnbd")).unwrap();
    let cache = directory.path().to_owned();
    let place = TempDir::new().unwrap();
    crate::support::guest(&place.path().join("guest.wasm"), &[]);
    let mut command = memnbd(place.path(), ["-U", "socket", "./guest.wasm"]);
    let mut server = Server::spawn(place, command.env("XDG_CACHE_HOME", &cache));
    server.expect_log("compiled components are not cached, and none are loaded from ");
    assert!(probe(&server).size > 0);
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
}

#[test]
fn without_options_only_this_machine_can_connect() {
    let server = Server::start_tcp(&["1M"]);
    let port = server.port();
    let pid = server.pid().as_raw_nonzero();
    let mut listening = Vec::new();
    for table in ["tcp", "tcp6"] {
        let table = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap();
        // The columns are a number, the local address, the remote one, and the state: 0A is LISTEN.
        let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
        let own = rows.filter(|row| row[3] == "0A" && row[1].ends_with(&format!(":{port:04X}")));
        listening.extend(own.map(|row| row[1].split(':').next().unwrap().to_owned()));
    }
    assert!(!listening.is_empty());
    let loopback = ["0100007F", "00000000000000000000000001000000"];
    for address in &listening {
        assert!(loopback.contains(&address.as_str()), "{listening:?}");
    }
    // There is no way to control it.
    assert_eq!(fs::read_dir(server.path("")).unwrap().count(), 0);
}

#[test]
fn nothing_is_granted_that_was_not_given() {
    let mut server = controlled(&["1M"]);
    fs::write(server.path("image"), [7; 4096]).unwrap();
    let create = |component: &str, parameter: &str| {
        control(&server, &["create", "d", component, parameter]).failure(1)
    };
    let refused = create("file", "file=image");
    assert!(refused.contains("not the name of a file that the administrator granted"), "{refused}");
    assert!(create("data", "<(id)").contains("for the command line"));
    // Nobody has a token, or is a tenant.
    for path in ["tokens", ""] {
        let path = format!("/v1/tenants/default/{path}");
        assert_eq!(http_as(&server, "", "GET", &path, None).status, 401);
    }
    server.expect_log("this is not Bearer and a token that the server knows");
    let tenants = control(&server, &["tenants"]).success();
    assert_eq!(tenants.lines().count(), 2, "{tenants}");
    assert_eq!(control(&server, &["tokens"]).success().lines().count(), 1);
}
