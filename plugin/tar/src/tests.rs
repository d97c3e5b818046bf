use memnbd_guest::{Value, testing};

use super::*;

/// Returns a header with its checksum.
fn header(name: &str, kind: u8, size: &[u8]) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[124..124 + size.len()].copy_from_slice(size);
    block[156] = kind;
    block[257..263].copy_from_slice(b"ustar\0");
    seal(&mut block);
    block
}

fn seal(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

fn member(name: &str, kind: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = header(name, kind, format!("{:011o}\0", content.len()).as_bytes());
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn request(archive: &[u8]) -> OpenRequest {
    let device = testing::device(archive.len() as u64, Capabilities::WRITABLE);
    device.write(0, archive, false).unwrap();
    OpenRequest::default().with("base", Value::Device(device))
}

fn open(archive: &[u8], name: &str) -> Result<Tar, Error> {
    Tar::open(&request(archive).with("tar-entry", Value::Text(name.into())))
}

fn content(archive: &[u8], name: &str) -> Vec<u8> {
    let mut disk = open(archive, name).unwrap();
    let mut bytes = vec![0; disk.disk().size as usize];
    let request = Request::new(Operation::Read, 0, bytes.len() as u64);
    testing::serve(&mut disk, &request, &mut bytes).unwrap();
    bytes
}

fn refusal(archive: &[u8], name: &str) -> String {
    open(archive, name).unwrap_err().message.unwrap().into_owned()
}

#[test]
fn files_are_found_among_other_members() {
    let archive = [
        member("dir/", b'5', b""),
        member("dir/a", b'0', &[1; 700]),
        header("dir/link", b'1', b"00000001274\0"),
        member("b", 0, &[2; 512]),
        member("old/", 0, b""),
        member("c", b'7', &[3; 5]),
        vec![0; 1024],
        member("after the end", b'0', b"x"),
    ]
    .concat();
    assert_eq!(content(&archive, "dir/a"), [1; 700]);
    assert_eq!(content(&archive, "b"), [2; 512]);
    assert_eq!(content(&archive, "c"), [3; 5]);
    assert!(refusal(&archive, "dir/link").contains("is not a regular file"));
    assert!(refusal(&archive, "old/").contains("is not a regular file"));
    let known = r#"the archive has no file "d"; it has "dir/a", "b", "c""#;
    assert_eq!(refusal(&archive, "d"), known);
    assert!(open(&archive, "after the end").is_err());
    let limited = request(&archive).with("tar-limit", Value::Size(512));
    let limited = limited.with("tar-entry", Value::Text("dir/a".into()));
    assert!(Tar::open(&limited).is_err());
    // The padding may be missing at the end.
    assert_eq!(content(&member("a", b'0', &[4; 600])[..1112], "a"), [4; 600]);
}

#[test]
fn names_and_sizes_can_come_from_records_before_the_member() {
    let long = "x/".repeat(300) + "disk";
    let pax = format!("{} path={long}\n10 size=3\n", long.len() + 10);
    let mut prefixed = header("name", b'0', b"3 ");
    prefixed[345..348].copy_from_slice(b"a/b");
    seal(&mut prefixed);
    let mut binary = vec![0; 12];
    binary[0] = 0x80;
    binary[11] = 3;
    let body = [b"abc".as_slice(), &[0; 509]].concat();
    let archive = [
        member("g", b'g', b"20 comment=anything\n"),
        member("x", b'x', pax.as_bytes()),
        header("short", b'0', b"77777777777\0"),
        body.clone(),
        member("././@LongLink", b'L', format!("{long}2\0").as_bytes()),
        member("short", b'0', b"abc"),
        prefixed,
        body.clone(),
        header("binary", b'0', &binary),
        body,
    ]
    .concat();
    for name in [&long, &format!("{long}2"), "a/b/name", "binary"] {
        assert_eq!(content(&archive, name), b"abc", "{name}");
    }
    assert!(open(&archive, "short").is_err());
}

#[test]
fn sparse_files_are_refused_and_skipped() {
    let mut old = header("old", b'S', b"00000001000\0");
    old[482] = 1;
    seal(&mut old);
    let mut more = vec![0; 512];
    more[504] = 1;
    let archive = [
        old,
        more,
        vec![0; 512],
        vec![1; 512],
        member("x", b'x', b"25 GNU.sparse.name=new-1\n22 GNU.sparse.major=1\n"),
        member("GNUSparseFile.1/new", b'0', &[2; 512]),
        member("plain", b'0', &[3; 10]),
    ]
    .concat();
    for name in ["old", "new-1"] {
        assert!(refusal(&archive, name).contains("stored as sparse"));
    }
    assert_eq!(content(&archive, "plain"), [3; 10]);
}

#[test]
fn damage_is_told_with_its_place() {
    let good = member("a", b'0', &[1; 700]);
    for (archive, words) in [
        (vec![7; 4096], "damaged at byte 0: this is no tar archive"),
        ([&good[..], &[7; 512]].concat(), "damaged at byte 1536: no header"),
        (good[..1000].to_vec(), "a member has 700 bytes, which ends beyond"),
        (header("a", b'0', b"8"), "no size of a member"),
        (header("a", b'0', b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), "no size"),
        (header("a", b'0', b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff"), "ends beyond"),
        (member("a", b'x', b"9 path=\n"), "an extended attribute"),
        (member("a", b'x', b"8 path=\n5 =a\n9 size=x\n"), "the size of a member"),
        (member("a", b'L', &[b'x'; 5000]), "with 5000 bytes, more than 4096"),
        (header("a", b'x', b"00100000000\0"), "ends beyond"),
        (vec![0; 4096], "the archive has no file \"b\"; it has no files"),
        (vec![1; 100], "this is no tar archive"),
    ] {
        let refusal = refusal(&archive, "b");
        assert!(refusal.contains(words), "{refusal}");
    }
}

#[test]
fn writes_go_to_the_archive() {
    let archive = [member("a", b'0', &[1; 700]), member("b", b'0', &[2; 512])].concat();
    let request = request(&archive).with("tar-entry", Value::Text("b".into()));
    let mut disk = Tar::open(&request).unwrap();
    assert_eq!((disk.disk().size, disk.disk().minimum_block), (512, 1));
    let write = Request::new(Operation::Write, 10, 3);
    testing::serve(&mut disk, &write, &mut [7, 8, 9]).unwrap();
    let mut bytes = [0; 5];
    disk.base.read(512 + 1024 + 512 + 9, &mut bytes).unwrap();
    assert_eq!(bytes, [2, 7, 8, 9, 2]);
}

#[test]
fn files_are_listed_once() {
    let archive = [
        member("d/", b'5', b""),
        member("a", b'0', b"1"),
        member("b", b'0', b"22"),
        member("a", b'0', b"333"),
    ]
    .concat();
    let listed = Tar::exports(&request(&archive)).unwrap();
    let names: Vec<&str> = listed.exports.iter().map(|export| export.name.as_str()).collect();
    assert_eq!((names, listed.default.as_deref()), (vec!["a", "b"], Some("a")));
    let named = OpenRequest { export_name: "b".into(), ..request(&archive) };
    assert_eq!(Tar::open(&named).unwrap().member.size, 2);
    assert_eq!(Tar::open(&request(&archive)).unwrap().member.size, 1);
}
