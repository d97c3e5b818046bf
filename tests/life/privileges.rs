//! Another user, locked memory, threads, parents.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::background::Background;
use crate::support::{LIMIT, MEMORY_WASM, Probe, Server, memnbd, probe, run, shell, wait_until};

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped, for only root can become another user");
    }
    root
}

#[test]
fn it_becomes_another_user_with_the_users_groups() {
    if !is_root() {
        return;
    }
    let server = Server::start(&["-u", "nobody", "1M"]);
    assert_eq!(server.status("Uid"), "65534\t65534\t65534\t65534");
    assert_eq!(server.status("Gid"), "65534\t65534\t65534\t65534");
    assert_eq!(server.status("Groups").trim(), "65534");
    assert_eq!(server.status("CapEff"), "0000000000000000");
    assert_eq!(probe(&server).size, 1 << 20);
    // All threads: the kernel knows users by thread.
    for task in fs::read_dir(format!("/proc/{}/task", server.pid().as_raw_nonzero())).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        assert!(status.contains("Uid:\t65534\t65534\t65534\t65534"), "{status}");
    }
}

#[test]
fn group_may_be_given_and_users_be_numbers() {
    if !is_root() {
        return;
    }
    let server = Server::start(&["-u", "12345", "-g", "daemon", "1M"]);
    assert_eq!(server.status("Uid"), "12345\t12345\t12345\t12345");
    assert_eq!(server.status("Groups").trim(), "1");
    let server = Server::start(&["-g", "daemon", "1M"]);
    assert!(server.status("Uid").starts_with("0\t"));
    assert!(server.status("Gid").starts_with("1\t"));
}

#[test]
fn users_and_groups_that_there_are_not_are_told() {
    let directory = TempDir::new().unwrap();
    for (arguments, words) in [
        (["-u", "no-such-user"], "--user no-such-user: there is no such user"),
        (["-g", "no-such-group"], "--group no-such-group: there is no such group"),
    ] {
        let command = &mut memnbd(directory.path(), ["-U", "socket", "1M"]);
        let error = run(command.args(arguments)).failure(2);
        assert!(error.contains(words), "{error}");
        assert!(!directory.path().join("socket").exists());
    }
}

#[test]
fn other_user_removes_the_private_socket() {
    if !is_root() {
        return;
    }
    let directory = TempDir::new().unwrap();
    // Everybody may make files here, as in /tmp.
    fs::set_permissions(directory.path(), Permissions::from_mode(0o1777)).unwrap();
    let command = &mut memnbd(directory.path(), ["-u", "nobody", "1M"]);
    let script = r#"stat -c %U "$unixsocket" && test -S "$unixsocket""#;
    let finished = run(command.env("TMPDIR", directory.path()).args(["--run", script]));
    assert_eq!(finished.success(), "nobody\n");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn pidfile_is_written_where_only_the_former_user_can() {
    if !is_root() {
        return;
    }
    let directory = TempDir::new().unwrap();
    run(&mut memnbd(directory.path(), ["-u", "nobody", "-P", "pid", "-p", "0", "1M"])).success();
    let server = Background::of(&directory.path().join("pid"));
    assert!(server.runs());
    server.stop();
}

#[test]
fn foreign_components_are_compiled_as_the_user_who_serves() {
    if !is_root() {
        return;
    }
    let directory = TempDir::new().unwrap();
    let component = directory.path().join("disk.wasm");
    fs::copy(MEMORY_WASM, &component).unwrap();
    // The former user reads it.
    fs::set_permissions(&component, Permissions::from_mode(0o600)).unwrap();
    let cache = TempDir::new().unwrap();
    fs::set_permissions(cache.path(), Permissions::from_mode(0o700)).unwrap();
    chown(cache.path(), Some(65534), None).unwrap();
    let mut command = memnbd(directory.path(), ["-u", "nobody", "-U", "socket", "disk.wasm", "1M"]);
    let server = Server::spawn(directory, command.env("XDG_CACHE_HOME", cache.path()));
    assert_eq!(probe(&server).size, 1 << 20);
    let kept = fs::read_dir(cache.path().join("memnbd")).unwrap();
    let owners: Vec<u32> = kept.map(|file| file.unwrap().metadata().unwrap().uid()).collect();
    assert_eq!(owners, [65534]);
}

#[test]
fn keys_are_read_as_the_user_who_serves() {
    if !is_root() {
        return;
    }
    for (owner, served) in [(65534, true), (0, false)] {
        let directory = TempDir::new().unwrap();
        // It reads the file, and removes the socket.
        chown(directory.path(), Some(65534), None).unwrap();
        crate::tls::client::write_keys(directory.path());
        chown(directory.path().join("keys.psk"), Some(owner), None).unwrap();
        let arguments = ["-u", "nobody", "-U", "socket", "--tls-psk", "keys.psk", "1M"];
        let mut command = memnbd(directory.path(), arguments);
        if served {
            assert_eq!(probe(&Server::spawn(directory, &mut command)).size, 1 << 20);
        } else {
            let error = run(&mut command).failure(1);
            assert!(error.contains("keys.psk: Permission denied"), "{error}");
            assert!(!directory.path().join("socket").exists());
        }
    }
}

#[test]
fn pidfile_is_not_left_by_a_server_that_fails() {
    let directory = TempDir::new().unwrap();
    crate::support::wasm(&directory.path().join("a.wasm"), "(component)");
    for user in ["root", "nobody"] {
        if user == "nobody" && !is_root() {
            continue;
        }
        // Where nobody may remove it.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
        let arguments = ["-f", "-P", "pid", "-U", "socket", "a.wasm"];
        let mut command = memnbd(directory.path(), arguments);
        if is_root() {
            command.args(["-u", user]);
        }
        run(&mut command).failure(1);
        assert!(!directory.path().join("pid").exists(), "{user}");
    }
}

#[test]
fn memory_is_locked_for_swap() {
    let server = Server::start(&["--swap", "64G"]);
    let locked = server.status("VmLck");
    let kib: u64 = locked.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib > 0, "{locked}");
    // A sparse disk stays sparse.
    assert!(server.resident() < 1 << 30, "{}", server.resident());
    assert_eq!(probe(&server).size, 64 << 30);
}

#[test]
fn lock_that_is_not_allowed_is_told() {
    let directory = TempDir::new().unwrap();
    let script = r#"ulimit -l 0; exec setpriv --bounding-set=-all --inh-caps=-all \
        --reuid=65534 --regid=65534 --clear-groups "$MEMNBD" --swap -p 0 1M"#;
    if !is_root() {
        return;
    }
    let mut command = shell(directory.path(), &["-c".as_ref(), script.as_ref()]);
    let error = run(command.env("XDG_CACHE_HOME", "/nonexistent")).failure(1);
    assert!(error.contains("--swap"), "{error}");
}

#[test]
fn number_of_threads_is_the_one_given() {
    let few = Server::start(&["-t", "1", "1M"]);
    let many = Server::start(&["--threads", "9", "1M"]);
    // The thread that had the component ready may not be gone yet.
    assert!(wait_until(LIMIT, || many.threads() == few.threads() + 8), "{}", many.threads());
    let directory = TempDir::new().unwrap();
    run(&mut memnbd(directory.path(), ["-t", "0", "1M"])).failure(2);
}

#[test]
fn it_ends_with_its_parent() {
    let directory = TempDir::new().unwrap();
    let script = r#""$MEMNBD" --exit-with-parent -P pid -U socket 1M > /dev/null & 
        while ! test -e pid; do sleep 0.01; done; sleep 100 & echo $! > sleep; wait"#;
    let mut command = shell(directory.path(), &["-c".as_ref(), script.as_ref()]);
    let mut parent = command.stdin(Stdio::null()).spawn().unwrap();
    assert!(wait_until(LIMIT, || directory.path().join("sleep").exists()));
    let server = Background::of(&directory.path().join("pid"));
    let socket = directory.path().join("socket");
    assert_eq!(Probe::new(UnixStream::connect(&socket).unwrap(), "").size, 1 << 20);
    kill_process(Pid::from_child(&parent), Signal::KILL).unwrap();
    parent.wait().unwrap();
    assert!(wait_until(LIMIT, || !server.runs()), "it still runs");
    assert!(!socket.exists());
    stop_sleep(directory.path());
}

fn stop_sleep(directory: &Path) {
    let pid = fs::read_to_string(directory.join("sleep")).unwrap();
    if let Some(pid) = pid.trim().parse().ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::TERM);
    }
}

#[test]
fn background_and_parent_exclude_each_other() {
    let directory = TempDir::new().unwrap();
    for arguments in
        [["--fork", "--exit-with-parent"], ["--fork", "--foreground"], ["--fork", "--run=true"]]
    {
        let error = run(memnbd(directory.path(), arguments).arg("1M")).failure(2);
        assert!(error.contains("cannot be used with"), "{error}");
    }
}

#[test]
fn systemd_is_told_when_it_is_ready() {
    let directory = TempDir::new().unwrap();
    let notify = std::os::unix::net::UnixDatagram::bind(directory.path().join("notify")).unwrap();
    notify.set_read_timeout(Some(LIMIT)).unwrap();
    let mut command = memnbd(directory.path(), ["-U", "socket", "1M"]);
    command.env("NOTIFY_SOCKET", directory.path().join("notify"));
    let server = Server::spawn(directory, &mut command);
    let mut message = [0; 4096];
    let length = notify.recv(&mut message).unwrap();
    let message = String::from_utf8_lossy(&message[..length]).into_owned();
    assert!(message.contains("READY=1\n"), "{message}");
    assert!(message.contains(&format!("MAINPID={}\n", server.pid().as_raw_nonzero())), "{message}");
    assert!(message.contains("STATUS=Serving nbd+unix://"), "{message}");
    assert_eq!(probe(&server).size, 1 << 20);
}
