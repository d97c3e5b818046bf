//! The backend `file`.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::served;
use crate::mistakes::complains;
use crate::support::{Server, client, memnbd, nbdsh, require, run};

#[test]
fn image_goes_into_a_file_and_comes_back() {
    require!("nbdcopy", "qemu-img");
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    let image: Vec<u8> = (0..10_000_019_u32).map(|n| (n % 251) as u8).collect();
    fs::write(path("image"), &image).unwrap();
    fs::File::create(path("disk")).unwrap().set_len(image.len() as u64).unwrap();
    let copy = r#"nbdcopy image "$uri" && nbdcopy "$uri" back && qemu-img info "$uri" | head -3"#;
    for arguments in [&["file", "disk"][..], &["file=disk", "cache=none", "fadvise=sequential"]] {
        let arguments = if arguments[0] == "file" {
            arguments.to_vec()
        } else {
            [&["file"], arguments].concat()
        };
        let printed = served("memnbd", directory.path(), &arguments, copy);
        assert!(printed.contains("file format: raw"), "{printed}");
        assert!(
            fs::read(path("disk")).unwrap() == image && fs::read(path("back")).unwrap() == image
        );
        fs::File::create(path("disk")).unwrap().set_len(image.len() as u64).unwrap();
    }
}

/// Long requests over a Unix socket get pages of the file, others copies.
#[test]
fn image_is_the_same_by_requests_of_any_length_over_any_socket() {
    require!("nbdcopy", "qemu-img");
    let directory = TempDir::new().unwrap();
    let image: Vec<u8> = (0..10_000_019_u32).flat_map(|n| n.to_be_bytes()).collect();
    fs::write(directory.path().join("disk"), &image).unwrap();
    for listen in ["-U", "-p"] {
        let script = r#"
for size in 65536 262144 1048576 4194304 33554432; do
    nbdcopy --request-size=$size "$uri" copy && cmp copy disk || exit 1
    nbdcopy --requests=3 --connections=2 "$uri" copy && cmp copy disk || exit 1
done
qemu-img compare -f raw -F raw disk "$uri"
"#;
        let address = if listen == "-U" { "-" } else { "0" };
        let mut command = memnbd(directory.path(), [listen, address, "file", "disk", "--run"]);
        let printed = run(command.arg(script)).success();
        assert!(printed.contains("Images are identical."), "{printed}");
    }
}

/// A disk that no memory could hold, of which few blocks are taken.
#[test]
fn holes_are_kept_and_made() {
    require!("nbdsh");
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("disk");
    let file = fs::File::create(&path).unwrap();
    file.set_len(1 << 42).unwrap();
    file.write_all_at(&[5; 1 << 20], 1 << 41).unwrap();
    let server = Server::start(&["file", path.to_str().unwrap()]);
    nbdsh(
        &server,
        "
assert h.get_size() == 1 << 42
assert h.pread(4096, 1 << 41) == bytes([5]) * 4096
h.trim(1 << 19, 1 << 41)
h.zero(4096, 100 << 20)
h.pwrite(b'durable', 7, nbd.CMD_FLAG_FUA)
h.flush()
assert h.pread(9, 6) == b'\\0durable\\0'
assert h.pread(1 << 20, 1 << 41) == bytes(1 << 19) + bytes([5]) * (1 << 19)
",
    );
    assert!(fs::metadata(&path).unwrap().blocks() * 512 < 4 << 20, "it is sparse");
    let mut start = [0; 14];
    file.write_all_at(b"x", 0).unwrap();
    fs::File::open(&path).unwrap().read_exact_at(&mut start, 0).unwrap();
    assert_eq!(&start, b"x\0\0\0\0\0\0durable");
}

#[test]
fn only_regular_files_and_block_devices_are_served() {
    let directory = TempDir::new().unwrap();
    for (arguments, code, words) in [
        (&["file", "."][..], 1, "directory; only regular files and block devices"),
        (&["file", "/dev/zero"], 1, "character device"),
        (&["file", "nothing"], 1, "nothing: No such file"),
        (&["file"], 2, "give its path"),
        (&["file", "a", "fd=3"], 2, "give one of them"),
        (
            &["file", "a", "fadvise=quick"],
            2,
            "is not a choice; right would be normal, random, sequential",
        ),
    ] {
        let mut command = memnbd(directory.path(), ["-U", "socket"]);
        let error = run(command.args(arguments)).failure(code);
        assert!(error.contains(words), "{error}");
        assert!(!directory.path().join("socket").exists());
    }
}

#[test]
fn file_that_is_missing_leaves_the_other_exports_alone() {
    let directory = TempDir::new().unwrap();
    let arguments = ["-U", "socket", "--export=a=memory,1M", "--export=b=file,later"];
    let path = directory.path().join("later");
    let mut server = Server::spawn(directory, &mut memnbd(path.parent().unwrap(), arguments));
    server.expect_log("export \"b\": file ");
    // It is looked for again when a client asks.
    fs::write(&path, vec![7; 512]).unwrap();
    let found = crate::support::wait_until(crate::support::LIMIT, || {
        let mut haggle = crate::wire::haggle::Haggle::new(&server);
        let go = crate::wire::numbers::opt::GO;
        let answer = haggle.option(go, &crate::wire::haggle::info("b", &[]));
        answer.end == crate::wire::numbers::rep::ACK
    });
    assert!(found);
}

#[test]
fn descriptor_is_served_and_read_only_is() {
    require!("nbdinfo");
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("disk"), vec![1; 4096]).unwrap();
    let script = r#"exec 7<>disk; rm disk; "$MEMNBD" -r file fd=7 --run 'nbdinfo --size "$uri"; nbdinfo --is read-only "$uri" && echo read-only'"#;
    let printed =
        run(&mut crate::support::shell(directory.path(), &["-c".as_ref(), script.as_ref()]));
    assert_eq!(printed.success(), "4096\nread-only\n");
}

/// In nbdsh: connects to an export.
const CONNECT: &str = "
def connect(name):
    c = nbd.NBD()
    c.set_export_name(name)
    c.connect_unix('socket')
    return c
def fails(name):
    try:
        connect(name)
        return False
    except nbd.Error:
        return True
def names():
    c = nbd.NBD()
    c.set_opt_mode(True)
    c.connect_unix('socket')
    found = []
    c.opt_list(lambda name, description: found.append(name))
    c.opt_abort()
    return found
";

/// Runs Python code in the directory of a server whose exports have no common name.
fn python(server: &Server, code: &str) -> String {
    let mut command = client(server, "nbdsh");
    command.env("PATH", format!("/usr/bin:{}", std::env::var("PATH").unwrap_or_default()));
    run(command.args(["-c", &format!("{CONNECT}{code}")])).success()
}

/// A server of the directory `images` beside its socket, of which a function makes the content.
fn serve_directory(arguments: &[&str], make: impl FnOnce(&Path)) -> Server {
    let directory = TempDir::new().unwrap();
    let images = directory.path().join("images");
    fs::create_dir(&images).unwrap();
    make(&images);
    let mut command = memnbd(directory.path(), ["-U", "socket"]);
    command.args(arguments);
    Server::spawn(directory, &mut command)
}

#[test]
fn files_of_a_directory_are_exports_and_nothing_else_is() {
    require!("nbdsh");
    let mut server = serve_directory(&["file", "dir=images"], |images| {
        fs::write(images.join("a"), "content of a").unwrap();
        fs::write(images.join("with space"), "x").unwrap();
        fs::write(images.join("../outside"), "secret").unwrap();
        fs::create_dir(images.join("sub")).unwrap();
        fs::write(images.join("sub/inner"), "x").unwrap();
        for (name, target) in [
            ("alias", "a"),
            ("out", "../outside"),
            ("absolute", "/etc/passwd"),
            ("up", "sub/../.."),
        ] {
            symlink(target, images.join(name)).unwrap();
        }
        run(Command::new("mkfifo").arg(images.join("fifo"))).success();
    });
    python(
        &server,
        "
assert names() == ['a', 'alias', 'with space'], names()
assert connect('a').pread(12, 0) == b'content of a'
assert connect('alias').pread(12, 0) == b'content of a'
assert connect('with space').get_size() == 1
for name in ['', '.', '..', 'sub', 'sub/inner', '../outside', '/etc/passwd', 'out', 'absolute', 'up',
             'fifo', 'missing', 'a/', './a', 'images/../../outside', chr(0x2215).join(['..', 'outside'])]:
    assert fails(name), name
assert names() == ['a', 'alias', 'with space'], names()
connect('a').pwrite(b'C', 0)
",
    );
    assert_eq!(fs::read_to_string(server.path("images/a")).unwrap(), "Content of a");
    for reason in
        ["leads out of the directory", "it is a directory", "has no slash", "it is a FIFO"]
    {
        server.expect_log(reason);
    }
    server.allow_log("No such file or directory");
}

#[test]
fn directory_is_listed_and_served_as_it_is_now() {
    require!("nbdsh");
    let server =
        serve_directory(&["--filter=offset", "file", "dir=images", "offset=1"], |images| {
            fs::write(images.join("a"), "1 first").unwrap();
        });
    python(
        &server,
        "
import os, time
assert connect('a').pread(6, 0) == b' first'
with open('images/new', 'w') as file:
    file.write('1 second, longer')
os.rename('images/new', 'images/a')
assert connect('a').pread(15, 0) == b' second, longer'
kept = connect('a')
with open('images/b', 'w') as file:
    file.write('12')
os.remove('images/a')
assert kept.pread(7, 0) == b' second', 'whoever has it keeps it'
assert connect('b').get_size() == 1
time.sleep(1.1)
assert names() == ['a', 'b'], 'a client has the one that was removed'
del kept
",
    );
}

#[test]
fn directory_of_ten_thousand_files_is_listed() {
    require!("nbdsh");
    let server = serve_directory(&["file", "dir=images"], |images| {
        for number in 0..10_000 {
            fs::write(images.join(format!("disk-{number:05}")), number.to_string()).unwrap();
        }
    });
    python(
        &server,
        "
found = names()
assert found == [f'disk-{n:05}' for n in range(10000)]
for n in range(0, 10000, 29):
    text = str(n).encode()
    assert connect(f'disk-{n:05}').pread(len(text), 0) == text
",
    );
}

#[test]
fn mistakes_about_directories_are_told() {
    complains(1, &["file", "dir=/nonexistent"], &["the directory /nonexistent: No such file"]);
    complains(1, &["file", "dir=/etc/passwd"], &["/etc/passwd: it is not a directory"]);
    complains(2, &["file", "a", "dir=b"], &["two of file=, dir=, fd= and dirfd="]);
    complains(2, &["-e", "name", "file", "dir=/tmp"], &["exports of their own names"]);
    complains(2, &["--export", "a=file,dir=/tmp"], &["exports of their own names", "'*=file,dir="]);
    complains(2, &["file", "dir=/tmp", "--export", "*=memory,1M"], &["together with a directory"]);
}
