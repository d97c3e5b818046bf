//! `-P`: the server goes to the background, and its pidfile says when it is ready.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use openssl::ssl::SslVersion;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::{LIMIT, Probe, Server, free_port, memnbd, require, run, shell, wait_until};
use crate::tls::client::{alice, write_keys};
use crate::wire::haggle::{FIXED_NEWSTYLE_NO_ZEROES, Haggle};
use crate::wire::stream::Stream;

/// The process whose ID is in a file; it is told to stop in the end, whatever becomes of the test.
pub(super) struct Background(Pid);

impl Background {
    pub(super) fn of(pidfile: &Path) -> Self {
        let text = fs::read_to_string(pidfile).expect("the pidfile is there");
        let pid = text.strip_suffix('\n').and_then(|pid| pid.parse().ok());
        Self(pid.and_then(Pid::from_raw).unwrap_or_else(|| panic!("{text:?} is no process ID")))
    }

    /// The process that listens on a socket.
    pub(super) fn behind(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).expect("it listens");
        let process = rustix::net::sockopt::socket_peercred(&stream);
        Self(process.expect("a Unix socket tells its peer").pid)
    }

    pub(super) fn runs(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.as_raw_nonzero()));
        // A process that nobody waited for is still listed, as a zombie.
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    }

    pub(super) fn stop(self) {
        kill_process(self.0, Signal::TERM).expect("it runs");
        assert!(wait_until(LIMIT, || !self.runs()), "it does not stop");
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if self.runs() {
            // It may have ended between the two.
            let _ = kill_process(self.0, Signal::KILL);
        }
    }
}

#[test]
fn server_goes_to_the_background_when_it_is_ready() {
    let directory = TempDir::new().unwrap();
    let pidfile = directory.path().join("pid");
    let command = &mut memnbd(directory.path(), ["-P", "pid", "-U", "socket", "1M"]);
    // `run` waits until nobody holds the output any more.
    let finished = run(command);
    assert_eq!(finished.stderr, "");
    assert!(finished.success().starts_with("nbd+unix:///?socket="));
    let server = Background::of(&pidfile);
    assert!(server.runs());
    let stream = UnixStream::connect(directory.path().join("socket")).unwrap();
    assert_eq!(Probe::new(stream, "").size, 1 << 20);

    let process = format!("/proc/{}", server.0.as_raw_nonzero());
    assert_eq!(fs::read_link(format!("{process}/cwd")).unwrap(), Path::new("/"));
    for descriptor in 0..3 {
        let file = fs::read_link(format!("{process}/fd/{descriptor}")).unwrap();
        assert_eq!(file, Path::new("/dev/null"));
    }
    server.stop();
    assert!(!directory.path().join("socket").exists());
    assert!(pidfile.exists(), "as with nbdkit, who reads the file removes it");
}

/// They are read again for each client, when the server has left the directory.
#[test]
fn keys_are_found_from_the_background() {
    let directory = TempDir::new().unwrap();
    write_keys(directory.path());
    let arguments = ["-P", "pid", "-U", "socket", "--tls=require", "--tls-psk=keys.psk", "1M"];
    run(&mut memnbd(directory.path(), arguments)).success();
    let server = Background::of(&directory.path().join("pid"));
    let mut haggle = Haggle::greeted(Stream::connect_unix(&directory.path().join("socket")));
    haggle.stream.put(&FIXED_NEWSTYLE_NO_ZEROES.to_be_bytes());
    haggle.start_tls(alice(SslVersion::TLS1_3)).go("").expect_in_sync();
    server.stop();
}

#[test]
fn old_pidfile_is_overwritten() {
    let directory = TempDir::new().unwrap();
    let pidfile = directory.path().join("pid");
    fs::write(&pidfile, "1234567890 and more\n").unwrap();
    run(&mut memnbd(directory.path(), ["-P", "pid", "-U", "socket", "1M"])).success();
    Background::of(&pidfile).stop();
}

#[test]
fn server_stays_in_the_foreground_when_told_so() {
    let directory = TempDir::new().unwrap();
    let command = &mut memnbd(directory.path(), ["-f", "-P", "pid", "-U", "socket", "1M"]);
    let mut server = Server::spawn(directory, command);
    // Its process ID is the child's, whose end `wait` sees.
    let in_file = Background::of(&server.path("pid"));
    kill_process(in_file.0, Signal::INT).unwrap();
    server.wait();
}

#[test]
fn pidfile_is_not_there_before_the_server_can_be_reached() {
    let directory = TempDir::new().unwrap();
    let pidfile = directory.path().join("pid");
    let mut child = memnbd(directory.path(), ["-P", "pid", "-U", "socket", "1M"]);
    let mut child = child.stdout(std::process::Stdio::null()).spawn().unwrap();
    assert!(wait_until(LIMIT, || pidfile.exists()));
    let server = Background::of(&pidfile);
    let stream = UnixStream::connect(directory.path().join("socket")).unwrap();
    assert_eq!(Probe::new(stream, "").size, 1 << 20);
    assert!(child.wait().unwrap().success());
    server.stop();
}

#[test]
fn reason_and_exit_code_of_a_failed_start_are_told_by_the_first_process() {
    let directory = TempDir::new().unwrap();
    for (code, arguments, reason) in [
        (2, &["colour=red"][..], "memory has no parameter \"colour\""),
        (2, &["--component", "no-such"], "\"no-such\""),
        (2, &["size=2X"], "unknown suffix"),
        (1, &["-i", "192.0.2.1", "1M"], "listen on 192.0.2.1"),
    ] {
        let command = &mut memnbd(directory.path(), ["-P", "pid", "-p", "0"]);
        let finished = run(command.args(arguments));
        assert_eq!(finished.stdout, "");
        let error = finished.failure(code);
        assert!(error.contains(reason), "{error}");
        assert_eq!(error.matches("memnbd-host: ").count(), 1, "{error}");
        assert!(!directory.path().join("pid").exists());
    }
}

#[test]
fn pidfile_that_cannot_be_written_is_told() {
    let directory = TempDir::new().unwrap();
    for arguments in [&["-P", "no/such"][..], &["-f", "-P", "no/such"]] {
        let command = &mut memnbd(directory.path(), ["-U", "socket", "1M"]);
        let error = run(command.args(arguments)).failure(1);
        assert!(error.contains("no/such: "), "{error}");
        assert!(!directory.path().join("socket").exists(), "the socket is still there");
    }
}

#[test]
fn loop_of_nbdkits_manual_works_as_written() {
    let directory = TempDir::new().unwrap();
    let script = r#"
        set -e
        rm -f pid
        "$MEMNBD" -P pid -U socket memory size=1M > out 2> err
        for i in $(seq 1 60); do
            if test -f pid; then
                break
            fi
            sleep 1
        done
        if ! test -f pid; then
            echo "$0: the server did not start up"
            exit 1
        fi
        test -S socket
        kill $(cat pid)
    "#;
    run(&mut shell(directory.path(), &["-c".as_ref(), script.as_ref()])).success();
    let server = Background::of(&directory.path().join("pid"));
    assert!(wait_until(LIMIT, || !server.runs()));
}

#[test]
fn image_is_converted_into_a_server_in_the_background() {
    require!("qemu-img");
    let directory = TempDir::new().unwrap();
    let mut image = vec![0; 3 << 20];
    image[1 << 20..2 << 20].fill(0x5a);
    fs::write(directory.path().join("image"), &image).unwrap();
    let script = r#"
        set -e
        "$MEMNBD" -p $PORT -P pid --component memory.wasm size=4M
        for i in $(seq 60); do test -s pid && break; sleep 1; done
        qemu-img convert -p -n -f raw -O raw image nbd:localhost:$PORT
        qemu-img convert -f raw -O raw nbd:localhost:$PORT copy
        kill $(cat pid)
    "#;
    let command = &mut shell(directory.path(), &["-c".as_ref(), script.as_ref()]);
    let printed = run(command.env("PORT", free_port().to_string())).success();
    assert!(printed.contains("(100.00/100%)"), "{printed}");
    let server = Background::of(&directory.path().join("pid"));
    assert!(wait_until(Duration::from_secs(20), || !server.runs()));
    image.resize(4 << 20, 0);
    assert!(fs::read(directory.path().join("copy")).unwrap() == image);
}

#[test]
fn files_that_are_opened_later_are_those_of_the_directory_of_the_start() {
    for (arguments, export) in [
        (&["--private", "file", "disk"][..], ""),
        (&["--export", "*=file,disk"], "any"),
        (&["file", "dir=.", "--filter=offset"], "disk"),
        (&["--private", "split", "file=disk"], ""),
        (&["--private", "--filter=error", "file", "file=disk"], ""),
    ] {
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join("disk"), [7; 5120]).unwrap();
        let command = &mut memnbd(directory.path(), ["-P", "pid", "-U", "socket"]);
        run(command.args(arguments)).success();
        let server = Background::of(&directory.path().join("pid"));
        let stream = UnixStream::connect(directory.path().join("socket")).unwrap();
        assert_eq!(Probe::new(stream, export).size, 5120, "{arguments:?}");
        server.stop();
    }
}
