//! The backend `partitioning`.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::{same, served};
use crate::support::{memnbd, require, run};

/// A prefix that makes the names of files too long for names of partitions: nbdkit stores shorter
/// ones in a GPT.
const PREFIX: &str = "a-name-with-more-than-thirty-six-characters-";

/// The length of a sector.
const SECTOR: usize = 512;

/// Makes six files of different sizes.
fn files(directory: &Path) {
    for (index, size) in [70_001, 512, 1_500_000, 1, 4096, 1_048_577_usize].iter().enumerate() {
        let content: Vec<u8> = (0..*size).map(|n| (n % 251) as u8 ^ index as u8).collect();
        fs::write(directory.join(format!("{PREFIX}{index}")), content).unwrap();
    }
}

/// Returns the words of a command line; a single digit stands for one of the files.
fn words(arguments: &str) -> Vec<String> {
    let words = arguments.split(' ').map(|word| match word.parse::<u8>() {
        Ok(index) => format!("{PREFIX}{index}"),
        Err(_) => word.to_owned(),
    });
    ["partitioning".to_owned()].into_iter().chain(words).collect()
}

/// Returns the disks that this program and nbdkit serve for the same arguments.
fn disks(directory: &Path, arguments: &str) -> [Vec<u8>; 2] {
    let words = words(arguments);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    ["memnbd", "nbdkit"].map(|program| {
        served(program, directory, &words, r#"nbdcopy "$uri" disk"#);
        fs::read(directory.join("disk")).unwrap()
    })
}

/// Clears what is random in a GPT, and the checksums that depend on it.
fn clear_random(disk: &mut [u8], partitions: usize) {
    let sectors = disk.len() / SECTOR;
    let array_length = partitions.next_multiple_of(128) * 128;
    let last_array = disk.len() - SECTOR - array_length;
    for (header, array) in [(SECTOR, 2 * SECTOR), ((sectors - 1) * SECTOR, last_array)] {
        assert_eq!(&disk[header..header + 8], b"EFI PART");
        disk[header + 16..header + 20].fill(0);
        disk[header + 88..header + 92].fill(0);
        for entry in disk[array..array + array_length].chunks_mut(128) {
            entry[16..32].fill(0);
        }
    }
}

#[test]
fn disks_are_those_of_nbdkit() {
    require!("nbdkit", "nbdcopy");
    let directory = TempDir::new().unwrap();
    files(directory.path());
    let many = ["1"; 130].join(" ");
    for arguments in [
        "0",
        "0 1 2 3",
        "0 mbr-id=0x82 2 mbr-id=default alignment=4096 3 5",
        "partition-type=dos 0 1 2 3 4",
        "0 1 alignment=512 2 3 mbr-id=7 4 5 partition-type=mbr",
        &format!("partition-type=mbr {many}"),
    ] {
        let [ours, theirs] = disks(directory.path(), arguments);
        assert!(ours == theirs, "{arguments}");
    }
    for arguments in [
        "partition-type=gpt 0",
        "0 1 2 3 4 5",
        "alignment=512 0 type-guid=c12a7328-F81F-11d2-ba4b-00A0C93EC93B 1 2 type-guid=default 3 5 \
         4",
        "alignment=64k 5 4 0 partition-type=gpt type-guid={00112233-4455-6677-8899-aabbccddeeff} 1",
        &format!("alignment=4096 0 {many}"),
    ] {
        let count = arguments.split(' ').filter(|word| word.parse::<u8>().is_ok()).count();
        let [mut ours, mut theirs] = disks(directory.path(), arguments);
        clear_random(&mut ours, count);
        clear_random(&mut theirs, count);
        assert!(ours == theirs, "{arguments}");
    }
}

#[test]
fn names_of_a_gpt_are_where_nbdkit_has_those_of_files() {
    require!("nbdkit", "nbdcopy", "sfdisk");
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    for (name, length) in [("boot", 5000), ("the root", 70_000)] {
        fs::write(path.join(name), vec![1; length]).unwrap();
    }
    let disk = |program, names: &[&str]| {
        let words = [&["partitioning", "partition-type=gpt"], names].concat();
        served(program, path, &words, r#"nbdcopy "$uri" disk"#);
        let mut disk = fs::read(path.join("disk")).unwrap();
        let listed = shell(path, "sfdisk --json disk");
        clear_random(&mut disk, 2);
        (disk, listed)
    };
    let (ours, listed) =
        disk("memnbd", &["partition-name=boot", "boot", "partition-name=the root", "the root"]);
    let (theirs, _) = disk("nbdkit", &["boot", "the root"]);
    assert!(ours == theirs);
    assert!(listed.contains(r#""name": "boot""#) && listed.contains(r#""name": "the root""#));
}

/// util-linux verifies the checksums of a GPT.
#[test]
fn partitions_are_found_by_others() {
    require!("nbdkit", "nbdcopy", "partx");
    let directory = TempDir::new().unwrap();
    files(directory.path());
    for (table, arguments, numbers) in [
        // The fourth one is the extended partition.
        ("dos", "partition-type=mbr 0 1 2 3 4 5", &[1, 2, 3, 5, 6, 7][..]),
        ("gpt", "0 1 2 3 4 5", &[1, 2, 3, 4, 5, 6]),
        ("dos", "alignment=512 2 5", &[1, 2]),
        ("gpt", "partition-type=gpt alignment=2k 5 2", &[1, 2]),
    ] {
        let words = words(arguments);
        let files: Vec<&String> = words.iter().filter(|word| word.starts_with(PREFIX)).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        served("memnbd", directory.path(), &words, r#"nbdcopy "$uri" disk"#);
        let expected: String =
            (1..=numbers[numbers.len() - 1]).map(|number| format!("{number} {table}\n")).collect();
        let list = "partx --noheadings --raw --output NR,SCHEME disk";
        assert_eq!(shell(directory.path(), list), expected, "{arguments}");
        for (number, file) in numbers.iter().zip(files) {
            let partition = format!("partition={number}");
            let arguments = ["--filter=partition", "file", "disk", &partition];
            served("nbdkit", directory.path(), &arguments, r#"nbdcopy "$uri" partition"#);
            let partition = fs::read(directory.path().join("partition")).unwrap();
            let content = fs::read(directory.path().join(file)).unwrap();
            assert_eq!(partition.len(), content.len().next_multiple_of(SECTOR), "{number}");
            assert!(partition[..content.len()] == content, "{arguments:?}");
        }
        if table == "gpt" {
            // Without the first header, the last one is used.
            let damage = "dd if=/dev/zero of=disk bs=512 seek=1 count=1 conv=notrunc 2> /dev/null";
            let found = shell(directory.path(), &format!("{damage}; {list}"));
            assert_eq!(found, expected, "{arguments}");
        }
    }
}

fn shell(directory: &Path, script: &str) -> String {
    run(&mut crate::support::shell(directory, &["-c".as_ref(), script.as_ref()])).success()
}

/// The same requests succeed and fail as with nbdkit, and the files have the same content then.
#[test]
fn tables_and_gaps_are_protected() {
    require!("nbdkit", "nbdsh");
    for table in ["mbr", "gpt"] {
        let directory = TempDir::new().unwrap();
        let script = r#"
nbdsh -u "$uri" -c - <<'END'
def attempt(what, change):
    try:
        change()
        print(what, 'succeeds')
    except nbd.Error as error:
        print(what, error.errno)

mib = 1 << 20
first = h.pread(34 * 512, 0)
attempt('same table', lambda: h.pwrite(first, 0))
attempt('other table', lambda: h.pwrite(b'boot' + first[4:512], 0))
attempt('zeroed table', lambda: h.zero(512, 0))
attempt('zeroes of the table', lambda: h.zero(446, 0))
attempt('gap', lambda: h.pwrite(bytes(4096), 100000))
attempt('data in the gap', lambda: h.pwrite(bytes(4095) + b'x', 100000))
attempt('zeroed gap', lambda: h.zero(4096, 100000))
attempt('allocated gap', lambda: h.zero(4096, 100000, nbd.CMD_FLAG_NO_HOLE))
attempt('partition', lambda: h.pwrite(b'x' * 100, mib))
attempt('zeroed partition', lambda: h.zero(100, mib + 200))
attempt('gap and partition', lambda: h.pwrite(bytes(100) + b'y' * 100, 2 * mib - 100))
attempt('partition and gap', lambda: h.pwrite(b'z' * 10 + bytes(100), 2 * mib + 4990))
attempt('partition and data', lambda: h.pwrite(b'Z' * 10 + b'0' * 100, 3 * mib + 4990))
attempt('zeroed gap and partition', lambda: h.zero(100, 4 * mib - 50))
attempt('end', lambda: h.pwrite(b'1' * 512, h.get_size() - 512))
h.flush()
END
cat f0 f1 f2 f3 f4 | sha256sum
"#;
        let kind = format!("partition-type={table}");
        let arguments = ["partitioning", &kind, "f0", "f1", "f2", "f3", "f4"];
        let make = "for i in 0 1 2 3 4; do head -c 5000 /dev/urandom > f$i; done; mkdir kept";
        shell(directory.path(), &format!("{make}; cp f? kept"));
        let ours = served("memnbd", directory.path(), &arguments, script);
        shell(directory.path(), "cp kept/* .");
        let theirs = served("nbdkit", directory.path(), &arguments, script);
        assert_eq!(ours, theirs);
        assert!(ours.contains("other table EIO\n"), "{ours}");
    }
}

#[test]
fn file_systems_are_served_as_partitions() {
    require!("nbdcopy", "nbdsh", "mkfs.ext4", "debugfs", "fsck.ext4");
    let directory = TempDir::new().unwrap();
    let make = r#"
PATH="$PATH:/usr/sbin:/sbin"
for file in one two; do truncate -s 4M $file && mkfs.ext4 -q -F $file; done
head -c 100000 /dev/urandom > content
debugfs -w -R 'write content content' one 2> /dev/null
"#;
    shell(directory.path(), make);
    // The first file system is copied into the second partition.
    let copy = r#"
nbdsh -u "$uri" -c 'h.pwrite(h.pread(4 << 20, 1 << 20), 5 << 20)' -c 'h.flush()'
nbdinfo --map "$uri" | awk '$4 == "hole,zero" { holes++ } END { print (holes > 2) }'
"#;
    let arguments = ["partitioning", "one", "two"];
    assert_eq!(served("memnbd", directory.path(), &arguments, copy), "1\n");
    let check = r#"
PATH="$PATH:/usr/sbin:/sbin"
fsck.ext4 -fn two > /dev/null 2>&1 && debugfs -R 'cat content' two 2> /dev/null | cmp - content
"#;
    shell(directory.path(), check);
}

/// Sparse files, some of which together are larger than what an MBR describes.
#[test]
fn large_disks_are_those_of_nbdkit() {
    require!("nbdkit", "nbdsh");
    let script = r#"
truncate -s 1T a; truncate -s 1536G b; truncate -s 3T c; echo made
"#;
    let directory = TempDir::new().unwrap();
    shell(directory.path(), script);
    let read = r#"nbdsh -u "$uri" -c 'print(h.get_size(), h.pread(512, 0).hex())'"#;
    for arguments in [&["a"][..], &["b"], &["a", "b"], &["c"], &["a", "partition-type=gpt"]] {
        let arguments = [&["partitioning"], arguments].concat();
        let ours = served("memnbd", directory.path(), &arguments, read);
        assert_eq!(ours, served("nbdkit", directory.path(), &arguments, read), "{arguments:?}");
    }
}

#[test]
fn mistakes_are_told() {
    let directory = TempDir::new().unwrap();
    shell(directory.path(), "truncate -s 512 a; truncate -s 0 empty; truncate -s 3T large");
    for (arguments, code, words) in [
        (&[][..], 2, r#"partitioning needs the parameter "file""#),
        (&["a", "empty"], 1, "file 2 is empty"),
        (&["large", "partition-type=mbr"], 1, "use partition-type=gpt"),
        (&["alignment=1536", "a"], 1, "alignment=1536 must be a power of two"),
        (&["alignment=2M", "a"], 2, "alignment: \"2M\""),
        (&["mbr-id=x", "a"], 1, "mbr-id=x is not a type byte"),
        (&["type-guid=x", "a"], 1, "type-guid=x is not a GUID"),
        (&["partition-type=apm", "a"], 2, "right would be mbr, dos, gpt"),
    ] {
        let mut command = memnbd(directory.path(), ["-U", "socket", "partitioning"]);
        let error = run(command.args(arguments)).failure(code);
        assert!(error.contains(words), "{error}");
    }
}

/// The first example of nbdkit-partitioning-plugin(1).
#[test]
fn alone_a_file_begins_at_the_first_mebibyte() {
    require!("nbdkit", "nbdinfo");
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("ext4fs.img");
    fs::write(&file, vec![0; 1 << 20]).unwrap();
    let arguments = ["partitioning", file.to_str().unwrap()];
    assert_eq!(same(&arguments, r#"nbdinfo --size "$uri""#), "2097152\n");
}
