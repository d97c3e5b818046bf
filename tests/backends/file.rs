//! The backend `file`.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};

use tempfile::TempDir;

use super::served;
use crate::support::{Server, memnbd, nbdsh, require, run};

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
