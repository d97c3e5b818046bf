//! Images of qemu-img through `qcow2`, compared with what qemu reads there.

use std::fs;
use std::path::Path;
use std::process::Command;

use fastrand::Rng;
use tempfile::TempDir;

use super::{compare, content, read_hostile, shell_in};
use crate::backends::served;
use crate::mistakes::complaint;
use crate::support::{Server, client, nbdsh, require, run};

/// The options of qemu-img for images of all sorts.
const OPTIONS: &[&str] = &[
    "compat=0.10",
    "compat=0.10,cluster_size=512",
    "compat=1.1",
    "compression_type=zstd",
    "cluster_size=512",
    "cluster_size=2k,compression_type=zstd",
    "cluster_size=2M",
    "cluster_size=2M,compression_type=zstd",
    "extended_l2=on",
    "extended_l2=on,cluster_size=16k,compression_type=zstd",
    "extended_l2=on,cluster_size=2M",
    "lazy_refcounts=on",
    "refcount_bits=1",
    "preallocation=metadata",
    "preallocation=falloc,cluster_size=4k",
];

/// Prints which ranges are zeroes. Whether those have space depends on the file system as well.
const ZEROES: &str = r#"
import json, sys
runs = []
for extent in json.load(sys.stdin):
    if runs and runs[-1][1] == extent["zero"]:
        runs[-1][0] += extent["length"]
    else:
        runs.append([extent["length"], extent["zero"]])
print(runs)
"#;

/// Checks that a disk is what qemu reads of the image: its size, its content, and its extents.
fn is_what_qemu_reads(directory: &Path, image: &str, arguments: &[&str]) {
    fs::write(directory.join("zeroes.py"), ZEROES).unwrap();
    let command = format!(
        r#"set -e
qemu-img compare -f raw -F qcow2 "$uri" {image} >/dev/null
nbdinfo --size "$uri"
qemu-img map --output=json -f raw "$uri" | /usr/bin/python3 zeroes.py"#
    );
    let ours = served("memnbd", directory, arguments, &command);
    let theirs = format!(
        "qemu-img info --output=json {image} | sed -n 's/^    \"virtual-size\": \\([0-9]*\\).*/\\1/p'
         qemu-img map --output=json -f qcow2 {image} | /usr/bin/python3 zeroes.py"
    );
    assert_eq!(ours, shell_in(directory, &theirs), "{arguments:?}");
}

#[test]
fn images_are_read_as_by_qemu() {
    require!("qemu-img", "nbdinfo");
    let directory = TempDir::new().unwrap();
    let raw = content(12 << 20, &mut Rng::with_seed(1));
    // The last cluster is not complete.
    fs::write(directory.path().join("raw"), &raw[..raw.len() - 3 * 512]).unwrap();
    for options in OPTIONS {
        for compressed in ["", "-c"] {
            if options.contains("preallocation") && compressed == "-c" {
                continue;
            }
            let command = format!(
                "qemu-img convert {compressed} -f raw -O qcow2 -o {options} raw disk.qcow2"
            );
            shell_in(directory.path(), &command);
            let arguments = ["--filter=qcow2", "file", "disk.qcow2"];
            is_what_qemu_reads(directory.path(), "disk.qcow2", &arguments);
        }
    }
}

#[test]
fn nbdkits_name_of_the_filter_is_known() {
    require!("qemu-img", "nbdcopy");
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("raw"), content(1 << 20, &mut Rng::with_seed(2))).unwrap();
    shell_in(directory.path(), "qemu-img convert -c -f raw -O qcow2 raw disk.qcow2");
    let arguments = ["--filter=qcow2dec", "file", "disk.qcow2"];
    served("memnbd", directory.path(), &arguments, r#"nbdcopy "$uri" - | cmp - raw"#);
}

#[test]
fn written_zeroed_and_discarded_clusters_are_read_as_by_qemu() {
    require!("qemu-img", "qemu-io");
    let directory = TempDir::new().unwrap();
    let mut rng = Rng::with_seed(3);
    for options in ["compat=1.1", "extended_l2=on", "compat=0.10", "lazy_refcounts=on"] {
        shell_in(
            directory.path(),
            &format!(
                "qemu-img create -f raw base.raw 3000k
                 qemu-io -f raw -c 'write -P 7 0 3000k' base.raw
                 qemu-img create -f qcow2 -F raw -b base.raw -o {options} disk.qcow2 4M"
            ),
        );
        // Whole clusters can be compressed where there is none yet.
        let cluster = 65536 * rng.u32(0..64);
        let mut commands = format!("-c 'write -c -P 9 {cluster} 64k'");
        for _ in 0..60 {
            let length = 512 * rng.u32(1..400);
            let offset = 512 * rng.u32(0..(4 << 20) / 512 - length / 512);
            let kind = ["write -P 1", "write -z", "write -z -u", "discard", "write -P 2"];
            let kind = kind[rng.usize(..kind.len())];
            commands.push_str(&format!(" -c '{kind} {offset} {length}'"));
        }
        shell_in(directory.path(), &format!("qemu-io -f qcow2 {commands} disk.qcow2"));
        let arguments = [
            "--export",
            "below=file,base.raw",
            "--export",
            "image=file,disk.qcow2",
            "--export",
            "=qcow2,base=image,backing=below",
        ];
        is_what_qemu_reads(directory.path(), "disk.qcow2", &arguments);
    }
}

#[test]
fn chain_of_backing_files_is_a_chain_of_exports() {
    require!("qemu-img", "qemu-io");
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("raw"), content(2 << 20, &mut Rng::with_seed(4))).unwrap();
    shell_in(
        directory.path(),
        "qemu-img convert -c -f raw -O qcow2 raw one.qcow2
         qemu-img create -f qcow2 -F qcow2 -b one.qcow2 two.qcow2 3M
         qemu-io -f qcow2 -c 'write -P 2 100k 500k' -c 'write -P 3 2500k 1k' two.qcow2
         qemu-img create -f qcow2 -F qcow2 -b two.qcow2 three.qcow2
         qemu-io -f qcow2 -c 'write -P 4 300k 1200k' -c 'write -z 0 128k' three.qcow2",
    );
    let arguments = [
        "--export",
        "1=file,filter=qcow2,one.qcow2",
        "--export",
        "2i=file,two.qcow2",
        "--export",
        "2=qcow2,base=2i,backing=1",
        "--export",
        "3i=file,three.qcow2",
        "--export",
        "=qcow2,base=3i,backing=2",
    ];
    is_what_qemu_reads(directory.path(), "three.qcow2", &arguments);
    let refused = ["--filter=qcow2", "file", "three.qcow2"];
    let error = complaint(directory.path(), 1, &refused);
    assert!(
        error.contains("has the backing file \"two.qcow2\" in the format \"qcow2\""),
        "{error}"
    );
}

#[test]
fn snapshots_are_served_as_they_were() {
    require!("qemu-img", "qemu-io", "nbdcopy");
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("raw"), content(1 << 20, &mut Rng::with_seed(5))).unwrap();
    shell_in(
        directory.path(),
        "qemu-img convert -f raw -O qcow2 raw disk.qcow2
         qemu-img snapshot -c before disk.qcow2
         qemu-io -f qcow2 -c 'write -P 2 0 1M' disk.qcow2
         qemu-img snapshot -c 'after it' disk.qcow2
         qemu-io -f qcow2 -c 'write -P 3 0 1M' disk.qcow2",
    );
    for (snapshot, expected) in
        [("before", None), ("1", None), ("after it", Some(2)), ("", Some(3))]
    {
        let expected = match expected {
            None => "cmp - raw".into(),
            Some(byte) => format!("cmp - <(head -c 1048576 /dev/zero | tr '\\0' '\\{byte}')"),
        };
        let snapshot = format!("snapshot={snapshot}");
        let mut arguments = vec!["--filter=qcow2", "file", "disk.qcow2", snapshot.as_str()];
        arguments.truncate(if snapshot == "snapshot=" { 3 } else { 4 });
        let command =
            format!("nbdcopy \"$uri\" - | bash -c \"{}\"", expected.replace('\\', "\\\\"));
        served("memnbd", directory.path(), &arguments, &command);
    }
    let arguments = ["--filter=qcow2", "file", "disk.qcow2", "snapshot=3"];
    let error = complaint(directory.path(), 1, &arguments);
    assert!(error.contains("it has \"before\" (1), \"after it\" (2)"), "{error}");
}

#[test]
fn images_that_qemu_knows_and_this_does_not_are_refused() {
    require!("qemu-img", "qemu-io");
    let directory = TempDir::new().unwrap();
    let refused = |prepare: &str, words: &str| {
        let _ = fs::remove_file(directory.path().join("disk.qcow2"));
        shell_in(directory.path(), prepare);
        let error = complaint(directory.path(), 1, &["--filter=qcow2", "file", "disk.qcow2"]);
        assert!(error.contains(words), "{error}");
    };
    refused(
        "qemu-img create --object secret,id=s,data=x -f qcow2 \
         -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 disk.qcow2 1M",
        "encrypted with LUKS",
    );
    refused(
        "qemu-img create -f qcow2 -o data_file=disk.data disk.qcow2 1M",
        "the data of the image is in another file",
    );
    refused("qemu-img create -f raw disk.qcow2 1M", "does not begin with QFI");
    refused(
        "qemu-img create -f qcow2 -o lazy_refcounts=on disk.qcow2 1M
         qemu-io -f qcow2 -c 'write 0 1M' -c 'sigraise 9' disk.qcow2 || true",
        "was not closed",
    );
    refused(
        "qemu-img create -f qcow2 disk.qcow2 1M
         printf '\\2' | dd of=disk.qcow2 bs=1 seek=79 conv=notrunc 2>&1",
        "marked as corrupt",
    );
    refused(
        "qemu-img create -f qcow2 disk.qcow2 1M
         printf '\\200' | dd of=disk.qcow2 bs=1 seek=72 conv=notrunc 2>&1",
        "features that are not supported: number 63, without a name",
    );
}

#[test]
fn disk_is_read_only_and_the_image_stays_as_it_is() {
    require!("qemu-img", "nbdsh");
    let directory = TempDir::new().unwrap();
    let path = directory.path().to_owned();
    shell_in(&path, "qemu-img create -f qcow2 disk.qcow2 1M");
    let before = fs::read(path.join("disk.qcow2")).unwrap();
    let image = path.join("disk.qcow2");
    let server = Server::start(&["--filter=qcow2", "file", image.to_str().unwrap()]);
    nbdsh(
        &server,
        "
assert h.is_read_only()
assert not h.can_trim() and not h.can_zero()
h.set_strict_mode(0)
try:
    h.pwrite(b'x' * 512, 0)
    assert False
except nbd.Error as error:
    assert error.errno == 'EPERM', error
",
    );
    drop(server);
    assert!(fs::read(image).unwrap() == before);
}

#[test]
fn random_reads_are_those_of_the_disk() {
    require!("qemu-img", "fio", "nbdcopy");
    let directory = TempDir::new().unwrap();
    // What fio writes and verifies.
    let job = "[disk]\nioengine=nbd\nuri=${uri}\nrw=randwrite\nbs=4k-64k\nbs_unaligned=1\nsize=24M\nverify=crc32c\n\
               randseed=1\niodepth=8\n";
    fs::write(directory.path().join("job"), job).unwrap();
    let write = r#"export uri; fio --do_verify=0 job >/dev/null && nbdcopy "$uri" raw"#;
    served("memnbd", directory.path(), &["memory", "24M"], write);
    for options in ["-c", "-c -o compression_type=zstd,cluster_size=4k", "-o extended_l2=on"] {
        shell_in(
            directory.path(),
            &format!("qemu-img convert {options} -f raw -O qcow2 raw disk.qcow2"),
        );
        let verify = r#"export uri; fio --verify_only job >/dev/null"#;
        let arguments = ["--filter=qcow2", "file", "disk.qcow2"];
        served("memnbd", directory.path(), &arguments, verify);
    }
}

/// A hostile image costs its own disk at most.
#[test]
fn damaged_images_neither_end_the_server_nor_stop_other_disks() {
    require!("qemu-img", "nbdsh");
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let mut rng = Rng::with_seed(6);
    fs::write(path.join("raw"), content(600 << 10, &mut rng)).unwrap();
    fs::create_dir(path.join("images")).unwrap();
    let mut names = Vec::new();
    for options in ["-o cluster_size=4k", "-c", "-c -o compression_type=zstd", "-o extended_l2=on"]
    {
        shell_in(path, &format!("qemu-img convert {options} -f raw -O qcow2 raw disk.qcow2"));
        let image = fs::read(path.join("disk.qcow2")).unwrap();
        for round in 0..40 {
            let mut damaged = image.clone();
            if round % 4 == 0 {
                damaged.truncate(rng.usize(..damaged.len()));
            }
            for _ in 0..rng.usize(1..40) {
                // Mostly in the tables, which are at the beginning.
                let limit = if rng.bool() { 400.min(damaged.len()) } else { damaged.len() };
                if limit > 0 {
                    let at = if rng.bool() { rng.usize(..limit) } else { rng.usize(..limit) & !7 };
                    damaged[at] ^= 1 << rng.u8(..8);
                }
            }
            let name = format!("{}", names.len());
            fs::write(path.join("images").join(&name), damaged).unwrap();
            names.push(name);
        }
    }
    let images = format!("*=file,filter=qcow2,dir={}", path.join("images").display());
    let mut server = Server::start(&["--export", &images, "--export", "good=memory,1M"]);
    server.allow_log("");
    let counts = read_hostile(&server, names.len(), 4 << 20);
    let counts: Vec<u32> = counts.split_whitespace().map(|word| word.parse().unwrap()).collect();
    assert!(counts[0] > 100 && counts[1] > 20, "{counts:?}");
    // No image made its component break the contract, or trap.
    let log = server.log();
    let died = log.iter().any(|line| line.contains("trapped") || line.contains("contract"));
    assert!(!died, "{log:#?}");
}

#[test]
fn hostile_names_in_images_are_harmless_in_messages() {
    require!("qemu-img");
    let directory = TempDir::new().unwrap();
    shell_in(
        directory.path(),
        "qemu-img create -f raw base.raw 1M
         qemu-img create -f qcow2 -F raw -b base.raw disk.qcow2",
    );
    let path = directory.path().join("disk.qcow2");
    let mut image = fs::read(&path).unwrap();
    let at = image.windows(8).position(|bytes| bytes == b"base.raw").unwrap();
    image[at..at + 8].copy_from_slice(b"a\n\x1b[31mb");
    fs::write(&path, image).unwrap();
    let error = complaint(directory.path(), 1, &["--filter=qcow2", "file", "disk.qcow2"]);
    assert!(error.contains("\"a??[31mb\""), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn clients_compare_and_convert_the_disk() {
    require!("qemu-img", "qemu-io");
    let directory = TempDir::new().unwrap();
    let raw = content(8 << 20, &mut Rng::with_seed(7));
    fs::write(directory.path().join("raw"), raw).unwrap();
    shell_in(directory.path(), "qemu-img convert -c -f raw -O qcow2 raw disk.qcow2");
    let image = directory.path().join("disk.qcow2");
    let server = Server::start(&["--filter=qcow2", "file", image.to_str().unwrap()]);
    let raw = directory.path().join("raw");
    compare(&server, &raw);
    let mut convert = client(&server, "qemu-img");
    run(convert.args(["convert", "-f", "raw", "-O", "qcow2", server.uri(), "again.qcow2"]))
        .success();
    let mut compare = Command::new("qemu-img");
    compare.current_dir(server.path(""));
    run(compare.args(["compare", "-F", "raw", "-f", "qcow2", "again.qcow2"]).arg(&raw)).success();
}
