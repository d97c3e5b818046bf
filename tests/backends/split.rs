//! The backend `split`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use tempfile::TempDir;

use super::served;
use crate::support::{Server, client, memnbd, nbdsh, require, run};

/// Returns bytes that do not repeat soon.
fn bytes(count: usize) -> Vec<u8> {
    (0..count as u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8).collect()
}

/// Makes empty files of these sizes in a directory, and returns their names.
fn files(directory: &Path, sizes: impl IntoIterator<Item = usize>) -> Vec<String> {
    let files = sizes.into_iter().enumerate().map(|(index, size)| {
        let name = format!("part{index}");
        let file = fs::File::create(directory.join(&name)).unwrap();
        file.set_len(size as u64).unwrap();
        name
    });
    files.collect()
}

/// Returns the content of files, one after the other.
fn together(directory: &Path, names: &[String]) -> Vec<u8> {
    names.iter().flat_map(|name| fs::read(directory.join(name)).unwrap()).collect()
}

fn split(names: &[String]) -> Vec<&str> {
    ["split"].into_iter().chain(names.iter().map(String::as_str)).collect()
}

#[test]
fn image_is_divided_among_the_files_and_comes_back() {
    require!("nbdcopy");
    let many = (0..150).map(|n| 1000 + 7 * n).collect();
    for sizes in [vec![3_000_000, 0, 1, 777_777, 2_000_000], many, vec![512, 512, 512]] {
        let directory = TempDir::new().unwrap();
        let image = bytes(sizes.iter().sum());
        let names = files(directory.path(), sizes);
        fs::write(directory.path().join("image"), &image).unwrap();
        let copy = r#"nbdcopy --flush image "$uri" && nbdcopy "$uri" back"#;
        served("memnbd", directory.path(), &split(&names), copy);
        assert!(together(directory.path(), &names) == image);
        assert!(fs::read(directory.path().join("back")).unwrap() == image);
    }
}

#[test]
fn nbdkit_serves_the_same() {
    require!("nbdkit", "nbdinfo", "nbdcopy");
    let directory = TempDir::new().unwrap();
    let sizes = [1_000_001, 5, 300_000];
    let names = files(directory.path(), sizes);
    for (name, size) in names.iter().zip(sizes) {
        fs::write(directory.path().join(name), bytes(size)).unwrap();
    }
    let arguments = ["split", "part2", "file=part0", "part1", "part0"];
    // The extents of nbdkit 1.32 are wrong, and it crashes.
    let content = r#"nbdinfo --size "$uri" && nbdcopy --no-extents "$uri" - | sha256sum"#;
    let ours = served("memnbd", directory.path(), &arguments, content);
    assert_eq!(ours, served("nbdkit", directory.path(), &arguments, content));
}

#[test]
fn file_system_survives_being_divided() {
    require!("nbdcopy", "mkfs.ext4", "debugfs", "fsck.ext4");
    let directory = TempDir::new().unwrap();
    let names = files(directory.path(), [5_000_000, 3_000_000, 386_048]);
    let script = r#"
PATH="$PATH:/usr/sbin:/sbin"
head -c 2000000 /dev/urandom > content
truncate -s 8386048 image && mkfs.ext4 -q -F image
debugfs -w -R 'write content content' image 2> /dev/null
nbdcopy image "$uri"
"#;
    served("memnbd", directory.path(), &split(&names), script);
    fs::remove_file(directory.path().join("image")).unwrap();
    let script = r#"
PATH="$PATH:/usr/sbin:/sbin"
nbdcopy "$uri" back && fsck.ext4 -fn back > /dev/null 2>&1
debugfs -R 'cat content' back 2> /dev/null | cmp - content && echo same
"#;
    assert_eq!(served("memnbd", directory.path(), &split(&names), script), "same\n");
}

#[test]
fn requests_span_files() {
    require!("qemu-io", "nbdsh");
    let directory = TempDir::new().unwrap();
    let path = directory.path().to_owned();
    let names = files(&path, [1 << 20, 100_000, 4096, 1 << 20]);
    let mut command = memnbd(&path, ["-U", "socket"]);
    let server = Server::spawn(directory, command.args(split(&names)));
    let mut qemu = client(&server, "qemu-io");
    qemu.args(["-f", "raw", server.uri()]);
    for command in [
        "write -f -P 0x11 0 2201248",
        "write -P 0x22 1048000 110000",
        "read -P 0x22 1048000 110000",
        "write -z 1148575 100",
        "write -z -u 1048576 50000",
        "discard 1152672 1M",
        "read -P 0x11 0 1048000",
        "read -P 0 1048576 50000",
        "flush",
    ] {
        qemu.args(["-c", command]);
    }
    let printed = run(&mut qemu).success();
    assert!(!printed.contains("failed"), "{printed}");
    nbdsh(
        &server,
        "
size = h.get_size()
assert size == 2201248
def status(offset, length):
    found = []
    h.block_status(length, offset, lambda context, offset, entries, error: found.extend(entries))
    return [(found[i], found[i + 1]) for i in range(0, len(found), 2)]
assert sum(length for length, flags in status(0, size)) <= size
h.pwrite(b'x' * 4098, 1148575, nbd.CMD_FLAG_FUA)
h.cache(size, 0)
h.zero(50, 1148551, nbd.CMD_FLAG_FAST_ZERO)
assert h.pread(52, 1148550) == b'\\x22' + bytes(50) + b'x'
",
    );
    let whole = together(&path, &names);
    assert_eq!(whole.len(), 2_201_248);
    assert!(whole[..1_048_000].iter().all(|byte| *byte == 0x11));
    assert!(whole[1_048_576..1_098_576].iter().all(|byte| *byte == 0));
    assert!(whole[1_148_601..1_152_673].iter().all(|byte| *byte == b'x'));
    let last = fs::metadata(path.join("part3")).unwrap();
    assert!(last.blocks() * 512 <= 64 << 10, "the discarded file is a hole");
}

#[test]
fn holes_of_all_files_are_reported() {
    require!("nbdinfo");
    let directory = TempDir::new().unwrap();
    let names = files(directory.path(), [1 << 20, 1 << 20, 1 << 20]);
    fs::write(directory.path().join("part1"), bytes(1 << 20)).unwrap();
    let map = r#"nbdinfo --map "$uri" && nbdinfo --can multi-conn "$uri" && echo multi-conn"#;
    let printed = served("memnbd", directory.path(), &split(&names), map);
    let words: Vec<Vec<&str>> =
        printed.lines().map(|line| line.split_whitespace().collect()).collect();
    let expected = [
        vec!["0", "1048576", "3", "hole,zero"],
        vec!["1048576", "1048576", "0", "data"],
        vec!["2097152", "1048576", "3", "hole,zero"],
        vec!["multi-conn"],
    ];
    assert_eq!(words, expected);
}

#[test]
fn disks_without_files_or_beyond_the_largest_one_are_refused() {
    require!("nbdinfo");
    let directory = TempDir::new().unwrap();
    let mut command = memnbd(directory.path(), ["-U", "socket", "split"]);
    let error = run(&mut command).failure(2);
    assert!(error.contains(r#"split needs the parameter "file""#), "{error}");
    let mut command = memnbd(directory.path(), ["-U", "socket", "split", "nothing"]);
    let error = run(&mut command).failure(1);
    assert!(error.contains("nothing: No such file"), "{error}");
    files(directory.path(), [512]);
    let read_only = r#"nbdinfo --is read-only "$uri" && nbdinfo --size "$uri""#;
    let printed = served("memnbd", directory.path(), &["-r", "split", "part0", "part0"], read_only);
    assert_eq!(printed, "1024\n");
}
