//! What can be opened, and what it is then.

use std::fs::{self, File};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

use super::*;

fn refused(source: Source) -> String {
    match FileDevice::open(options(source)) {
        Ok(_) => panic!("it was opened"),
        Err(error) => error.to_string(),
    }
}

fn refused_at(path: &Path) -> String {
    refused(Source::Path(path.into()))
}

#[test]
fn only_files_and_block_devices_are_opened() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name| directory.path().join(name);
    mknodat(CWD, at("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let _listener = UnixListener::bind(at("socket")).unwrap();
    std::os::unix::fs::symlink(at("fifo"), at("link")).unwrap();
    for (path, kind) in [
        (at("fifo"), "it is a FIFO"),
        (at("link"), "it is a FIFO"),
        (at("socket"), "it is a socket"),
        (directory.path().into(), "it is a directory"),
        ("/dev/zero".into(), "it is a character device"),
    ] {
        let text = refused_at(&path);
        assert!(text.starts_with(kind), "{text}");
        assert!(text.ends_with("; only regular files and block devices can be served"), "{text}");
    }
    assert!(refused_at(&at("absent")).starts_with("No such file"));
    assert!(!at("absent").exists());
}

#[test]
fn descriptors_must_suit() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, [0; 4096]).unwrap();
    let open = |flags| rustix::fs::open(&path, flags | OFlags::CLOEXEC, Mode::empty()).unwrap();
    for (flags, name) in [
        (OFlags::WRONLY, "O_WRONLY"),
        (OFlags::RDWR | OFlags::APPEND, "O_APPEND"),
        (OFlags::PATH, "O_PATH"),
    ] {
        let text = refused(Source::Descriptor(open(flags)));
        assert_eq!(text, format!("files opened with {name} cannot be served"));
    }
    let (reader, _writer) = std::io::pipe().unwrap();
    assert!(refused(Source::Descriptor(reader.into())).starts_with("it is a FIFO"));

    let device = FileDevice::open(options(Source::Descriptor(open(OFlags::RDONLY)))).unwrap();
    assert!(!device.geometry().capabilities.writable);
    assert!(device.write_refusal().is_none());
}

#[test]
fn geometry_is_that_of_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    File::create(&path).unwrap().set_len(12345).unwrap();
    let wishes = || options(Source::Path(path.clone()));
    let device = FileDevice::open(wishes()).unwrap();
    let geometry = device.geometry();
    assert_eq!(geometry.size, 12345);
    assert_eq!(geometry.block_sizes.minimum, 1);
    assert!(geometry.block_sizes.preferred.is_power_of_two());
    let offers = geometry.capabilities;
    assert!(offers.writable && offers.trim && offers.zero && offers.fast_zero && offers.cache);
    assert!(offers.flush && offers.fua && offers.multi_conn);

    let device = FileDevice::open(FileOptions { read_only: true, ..wishes() }).unwrap();
    let offers = device.geometry().capabilities;
    assert!(!offers.writable && !offers.trim && !offers.zero && !offers.fast_zero);
    assert!(device.write_refusal().is_none(), "it was not tried");
    assert_eq!(fs::metadata(&path).unwrap().len(), 12345, "nothing is truncated");

    let options = FileOptions { page_cache: PageCache::None, ..wishes() };
    assert!(!FileDevice::open(options).unwrap().geometry().capabilities.cache);
}

#[test]
fn file_on_a_read_only_file_system_is_read_only() {
    let Some(mount) = Mount::tmpfs("size=1m") else {
        return eprintln!("skipped: tmpfs cannot be mounted");
    };
    let path = mount.path().join("disk");
    fs::write(&path, [0; 4096]).unwrap();
    let remounted = std::process::Command::new("mount")
        .args(["-o", "remount,ro"])
        .arg(mount.path())
        .status()
        .unwrap();
    assert!(remounted.success());
    let device = FileDevice::open(options(Source::Path(path))).unwrap();
    assert!(!device.geometry().capabilities.writable);
    let refusal = device.write_refusal().unwrap();
    assert_eq!(refusal.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
}
