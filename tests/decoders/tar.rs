//! Files in archives of GNU tar and of Python, beside nbdkit's filter.

use std::fs;

use fastrand::Rng;
use tempfile::TempDir;

use super::{content, shell_in};
use crate::backends::served;
use crate::mistakes::complaint;
use crate::support::{Server, nbdsh, require, run};

/// Prints the size of the disk and a checksum of its content.
const CONTENT: &str = r#"nbdinfo --size "$uri" && nbdcopy "$uri" - | sha256sum"#;

#[test]
fn files_are_those_of_nbdkit_in_all_formats() {
    require!("nbdkit", "nbdinfo", "nbdcopy", "tar");
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let mut rng = Rng::with_seed(1);
    let long = format!("{}/disk", ["a-directory-with-a-name"; 7].join("/"));
    fs::create_dir_all(path.join(&long).parent().unwrap()).unwrap();
    fs::write(path.join(&long), content(300_001, &mut rng)).unwrap();
    fs::write(path.join("disk"), content(1 << 20, &mut rng)).unwrap();
    fs::write(path.join("empty"), "").unwrap();
    for format in ["v7", "oldgnu", "gnu", "ustar", "pax"] {
        let names =
            if format == "v7" { "empty disk" } else { "empty a-directory-with-a-name disk" };
        shell_in(path, &format!("tar --format={format} -cf archive.tar {names}"));
        for name in names.split(' ').filter(|name| *name != "empty") {
            let name = if name == "disk" { name } else { long.as_str() };
            let entry = format!("tar-entry={name}");
            let arguments = ["-r", "--filter=tar", "file", "archive.tar", &entry];
            let ours = served("memnbd", path, &arguments, CONTENT);
            // nbdkit 1.32 takes what tells a long name for the content of the file.
            if name == "disk" || format == "ustar" {
                assert_eq!(ours, served("nbdkit", path, &arguments, CONTENT), "{format}");
            }
            let compared = format!("nbdcopy \"$uri\" - | cmp - {name}");
            served("memnbd", path, &arguments, &compared);
        }
    }
}

#[test]
fn members_can_be_larger_than_the_archive_needs_space() {
    require!("nbdkit", "nbdsh", "nbdinfo");
    let directory = TempDir::new().unwrap();
    let script = r#"
import tarfile, sys
for name, kind in [("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT)]:
    with open(name, "wb") as f:
        info = tarfile.TarInfo("disk")
        info.size = 9 << 30
        f.write(info.tobuf(kind))
        f.seek(5 << 30, 1)
        f.write(b"here")
        f.truncate(f.tell() + (4 << 30) - 4 + 1024)
"#;
    fs::write(directory.path().join("make.py"), script).unwrap();
    shell_in(directory.path(), "/usr/bin/python3 make.py");
    for archive in ["gnu", "pax"] {
        let arguments = ["-r", "--filter=tar", "file", archive, "tar-entry=disk"];
        let command =
            r#"nbdinfo --size "$uri" && nbdsh -u "$uri" -c 'print(h.pread(6, (5<<30)-1))'"#;
        let ours = served("memnbd", directory.path(), &arguments, command);
        assert_eq!(ours, served("nbdkit", directory.path(), &arguments, command));
        assert_eq!(ours, "9663676416\nbytearray(b'\\x00here\\x00')\n");
    }
}

#[test]
fn all_files_are_exports_and_can_be_written() {
    require!("nbdsh", "tar");
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    for (name, byte) in [("one", b"1"), ("two", b"2")] {
        fs::write(path.join(name), byte.repeat(5000)).unwrap();
    }
    shell_in(path, "tar -cf archive.tar one two");
    let archive = path.join("archive.tar");
    let export = format!("*=file,filter=tar,{}", archive.display());
    let server = Server::start(&["--export", &export]);
    let printed = nbdsh(
        &server,
        "
import subprocess
l = nbd.NBD()
l.set_opt_mode(True)
l.connect_unix('socket')
l.opt_list(lambda name, description: print(name, '-', description))
l.opt_abort()
for name, byte in [('one', b'1'), ('two', b'2')]:
    c = nbd.NBD()
    c.set_export_name(name)
    c.connect_unix('socket')
    assert c.get_size() == 5000
    assert c.pread(5000, 0) == byte * 5000
    c.pwrite(b'new', 4000)
    c.flush()
",
    );
    drop(server);
    let listed = "one - a file of 5000 bytes in a tar archive\ntwo - a file of 5000 bytes in a tar \
                  archive\n";
    assert_eq!(printed, listed);
    shell_in(path, "mkdir out && tar -C out -xf archive.tar");
    let two = fs::read(path.join("out/two")).unwrap();
    assert_eq!(two[3999..4004], *b"2new2");
}

#[test]
fn what_cannot_be_served_is_told() {
    require!("tar");
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    shell_in(
        path,
        "truncate -s 1M holes && echo x >> holes && mkdir dir && ln -s holes link
         tar --sparse --format=gnu -cf gnu.tar holes dir link
         tar --sparse --format=pax -cf pax.tar holes dir link
         gzip -k gnu.tar",
    );
    for (archive, name, words) in [
        ("gnu.tar", "holes", "\"holes\" in the archive is stored as sparse"),
        ("pax.tar", "holes", "\"holes\" in the archive is stored as sparse"),
        ("gnu.tar", "dir/", "is not a regular file"),
        ("pax.tar", "link", "is not a regular file"),
        ("pax.tar", "other", "the archive has no file \"other\"; it has no files"),
        ("gnu.tar.gz", "other", "this is no tar archive"),
    ] {
        let entry = format!("tar-entry={name}");
        let error = complaint(path, 1, &["--filter=tar", "file", archive, &entry]);
        assert!(error.contains(words), "{archive}: {error}");
    }
}

#[test]
fn clients_write_and_read_a_file_in_an_archive() {
    require!("fio", "tar");
    let directory = TempDir::new().unwrap();
    shell_in(directory.path(), "truncate -s 16M disk && tar -cf archive.tar disk");
    let archive = directory.path().join("archive.tar");
    let archive = archive.to_str().unwrap();
    let server = Server::start(&["--filter=tar", "file", archive, "tar-entry=disk"]);
    let mut fio = crate::support::client(&server, "fio");
    fio.args(["--name=job", "--ioengine=nbd", "--verify_fatal=1", "--verify_state_save=0"]);
    fio.args(["--rw=randwrite", "--bsrange=512-64k", "--verify=crc32c", "--size=16M"]);
    run(fio.arg(format!("--uri={}", server.uri()))).success();
}
