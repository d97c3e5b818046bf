//! Sockets that the server is started with: by libnbd, systemd's way, or as stdin and stdout.

use std::os::unix::net::UnixStream;
use std::process::Stdio;

use tempfile::TempDir;

use crate::support::{Finished, Probe, memnbd, require, run, shell};

/// Runs Python code in nbdsh, which finds the program in `$MEMNBD`.
fn python(code: &str) -> Finished {
    let directory = TempDir::new().unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = shell(directory.path(), &["-c".as_ref(), r#"nbdsh -c "$CODE""#.as_ref()]);
    let prelude = "import os\nM = os.environ['MEMNBD']\n";
    command.env("PATH", format!("/usr/bin:{path}")).env("CODE", format!("{prelude}{code}"));
    run(&mut command)
}

/// Has Python pass listening sockets on, as systemd does, and prints what `after` finds out.
fn activated(sockets: &str, arguments: &str, after: &str) -> Finished {
    python(&format!(
        "
import socket, subprocess, sys, signal
def unix(path):
    s = socket.socket(socket.AF_UNIX)
    s.bind(path)
    s.listen()
    return s
def tcp():
    s = socket.socket()
    s.bind(('127.0.0.1', 0))
    s.listen()
    return s
sockets, names = {sockets}
def prepare():
    # Above where they belong, so that none is overwritten before it is moved.
    fds = [os.dup2(s.fileno(), 100 + i) for i, s in enumerate(sockets)]
    for i, fd in enumerate(fds):
        os.dup2(fd, 3 + i)
        os.close(fd)
    os.environ['LISTEN_PID'] = str(os.getpid())
    os.environ['LISTEN_FDS'] = str(len(sockets))
    os.environ['LISTEN_FDNAMES'] = ':'.join(names)
    os.execvp(M, [M] + {arguments})
server = subprocess.Popen(['true'], preexec_fn=prepare, close_fds=False, stdout=subprocess.PIPE,
    text=True)
def size(s, name=''):
    h = nbd.NBD()
    h.set_export_name(name)
    try:
        if s.family == socket.AF_UNIX:
            h.connect_unix(s.getsockname())
        else:
            h.connect_tcp('127.0.0.1', str(s.getsockname()[1]))
        return h.get_size()
    except nbd.Error as e:
        return e.errno
{after}
server.terminate()
assert server.wait() == 0
"
    ))
}

#[test]
fn libnbd_activates_it() {
    require!("nbdsh");
    let finished = python(
        "
h.connect_systemd_socket_activation([M, 'memory', '3M'])
h.pwrite(b'x' * 512, 512)
print(h.get_size(), h.pread(1, 512))
",
    );
    assert_eq!(finished.success(), "3145728 bytearray(b'x')\n");
}

#[test]
fn sockets_of_both_kinds_are_served() {
    require!("nbdsh");
    let finished = activated(
        "[unix('a'), tcp()], []",
        "['--print-uri', 'memory', '1M']",
        "
print(server.stdout.readline().split('?')[0], server.stdout.readline()[:16])
print(size(sockets[0]), size(sockets[1]))
",
    );
    assert_eq!(finished.success(), "nbd+unix:/// nbd://127.0.0.1:\n1048576 1048576\n");
}

#[test]
fn socket_with_the_name_of_an_export_is_for_it_alone() {
    require!("nbdsh");
    let finished = activated(
        "[unix('a'), unix('b'), unix('c')], ['one', 'two', 'unknown']",
        "['--export', 'one=memory,1M', '--export', 'two=memory,2M']",
        "
for s in sockets:
    print([size(s, name) for name in ['', 'one', 'two']])
",
    );
    let (one, two) = (1 << 20, 2 << 20);
    let expected =
        format!("[{one}, {one}, 'ENOENT']\n[{two}, 'ENOENT', {two}]\n[{one}, {one}, {two}]\n");
    assert_eq!(finished.success(), expected);
}

#[test]
fn sockets_made_by_others_are_left_there() {
    require!("nbdsh");
    let finished = activated("[unix('a')], []", "['1M']", "size(sockets[0])");
    finished.success();
    let finished = activated("[unix('a')], []", "['-P', 'pid', '1M']", "print(size(sockets[0]))\n");
    assert_eq!(finished.success(), "1048576\n", "with -P it stays in the foreground");
}

#[test]
fn what_is_no_listening_socket_is_told() {
    let directory = TempDir::new().unwrap();
    for redirection in ["3</dev/null", "3<&-"] {
        let script = format!(r#"LISTEN_FDS=1 LISTEN_PID=$$ exec "$MEMNBD" 1M {redirection}"#);
        let command = &mut shell(directory.path(), &["-c".as_ref(), script.as_ref()]);
        let error = run(command).failure(1);
        assert!(error.contains("file descriptor 3") && error.contains("listening"), "{error}");
    }
}

#[test]
fn number_that_makes_no_sense_is_told() {
    let directory = TempDir::new().unwrap();
    for count in ["0", "-1", "x", "", "99999999999999999999"] {
        let script = format!(r#"LISTEN_FDS={count} LISTEN_PID=$$ exec "$MEMNBD" 1M"#);
        let command = &mut shell(directory.path(), &["-c".as_ref(), script.as_ref()]);
        let error = run(command).failure(1);
        assert!(error.contains("LISTEN_FDS"), "{error}");
    }
}

#[test]
fn sockets_for_another_process_are_not_touched() {
    let directory = TempDir::new().unwrap();
    let mut command = memnbd(directory.path(), ["-U", "socket", "1M"]);
    command.env("LISTEN_FDS", "1").env("LISTEN_PID", "1");
    let server = crate::support::Server::spawn(directory, &mut command);
    assert_eq!(crate::support::probe(&server).size, 1 << 20);
}

#[test]
fn one_client_is_served_on_stdin_and_stdout() {
    require!("nbdsh");
    let finished = python(
        "
h.connect_command([M, '-s', 'memory', '5M'])
h.pwrite(b'abc', 7)
print(h.get_size(), bytes(h.pread(3, 7)))
h.shutdown()
",
    );
    assert_eq!(finished.stderr, "");
    assert_eq!(finished.success(), "5242880 b'abc'\n");
}

#[test]
fn stdin_and_stdout_may_be_pipes() {
    require!("nbdsh");
    let finished = python(
        "
import socket, subprocess, threading
server = subprocess.Popen([M, '-s', '1M'], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
ours, theirs = socket.socketpair()
def copy(read, write, close):
    while data := read():
        write(data)
    close()
threads = [
    threading.Thread(target=copy, args=(lambda: theirs.recv(65536),
        lambda d: (server.stdin.write(d), server.stdin.flush()), server.stdin.close)),
    threading.Thread(target=copy, args=(lambda: server.stdout.read1(65536), theirs.sendall,
        theirs.close)),
]
for t in threads:
    t.start()
h.connect_socket(os.dup(ours.fileno()))
ours.close()
data = os.urandom(1 << 20)
h.pwrite(data, 0)
print(h.pread(1 << 20, 0) == data)
h.shutdown()
del h
for t in threads:
    t.join()
print(server.wait())
",
    );
    assert_eq!(finished.success(), "True\n0\n");
}

#[test]
fn it_ends_with_its_only_client() {
    let directory = TempDir::new().unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut command = memnbd(directory.path(), ["--single", "1M"]);
    command.stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs.try_clone().unwrap())));
    command.stdout(Stdio::from(std::os::fd::OwnedFd::from(theirs)));
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    // The command holds the other end as well.
    drop(command);
    let probe = Probe::new(ours, "");
    assert_eq!(probe.size, 1 << 20);
    drop(probe);
    let status = crate::support::finish_within(&mut child, crate::support::LIMIT).unwrap();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn single_and_sockets_exclude_each_other() {
    let directory = TempDir::new().unwrap();
    for arguments in [&["-s", "-p", "0"][..], &["-s", "-U", "s"], &["-s", "--run", "true"]] {
        let error = run(memnbd(directory.path(), arguments).arg("1M")).failure(2);
        assert!(error.contains("cannot be used with"), "{error}");
    }
}
