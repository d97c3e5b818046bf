//! What is kept is what is found, unless anything about it is wrong.

use std::fs;
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::PathBuf;
use std::thread;

use tempfile::TempDir;

use super::super::artifact;
use super::*;

struct Fixture {
    base: TempDir,
    cache: Cache,
}

impl Fixture {
    fn new() -> Self {
        let base = TempDir::new().unwrap();
        let cache = Cache::open(&base.path().join("memnbd")).unwrap();
        Self { base, cache }
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.base.path().join("memnbd").join(name(key))
    }

    /// Stores code under a key; where it is.
    fn store(&self, key: &Key, code: &[u8]) -> PathBuf {
        self.cache.store(key, &artifact(key, code)).unwrap();
        self.path(key)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.base.path().join("memnbd")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn key(number: u8) -> Key {
    Key::from_hex(&format!("{number:02x}").repeat(32)).unwrap()
}

fn artifact(key: &Key, code: &[u8]) -> Artifact {
    let mut frame = Vec::new();
    artifact::write(&mut frame, key, code).unwrap();
    Artifact::parse(frame, key).unwrap()
}

#[test]
fn what_is_kept_is_found_by_its_key_alone() {
    let fixture = Fixture::new();
    assert!(fixture.cache.read(&key(1)).is_none());
    let path = fixture.store(&key(1), b"code");
    assert_eq!(fixture.cache.read(&key(1)).unwrap().code(), b"code");
    assert!(fixture.cache.read(&key(2)).is_none());
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o600);
    fixture.store(&key(1), b"other code");
    assert_eq!(fixture.cache.read(&key(1)).unwrap().code(), b"other code");
    assert_eq!(fixture.names().len(), 1);
    // The file of one key under the name of another.
    fs::rename(&path, fixture.path(&key(3))).unwrap();
    assert!(fixture.cache.read(&key(3)).is_none());
    assert_eq!(fixture.names(), [""; 0]);
}

/// Whatever is done to a file, it is not loaded, and it is removed.
fn refuses(change: impl FnOnce(&Path)) {
    let fixture = Fixture::new();
    let path = fixture.store(&key(1), b"code");
    change(&path);
    assert!(fixture.cache.read(&key(1)).is_none());
    assert!(fs::symlink_metadata(&path).is_err(), "it is still there");
    fixture.store(&key(1), b"code");
    assert_eq!(fixture.cache.read(&key(1)).unwrap().code(), b"code");
}

#[test]
fn damaged_files_are_removed() {
    for bit in [0, 130, 500, 700, 710] {
        refuses(|path| {
            let mut bytes = fs::read(path).unwrap();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(path, bytes).unwrap();
        });
    }
    for length in [0, 1, 87, 88, 90] {
        refuses(|path| {
            File::options().write(true).open(path).unwrap().set_len(length).unwrap();
        });
    }
    refuses(|path| fs::write(path, b"\x28\xb5\x2f\xfd and so on").unwrap());
    // Sparse, so that it takes no room here; neither must it in memory.
    refuses(|path| {
        File::options().write(true).open(path).unwrap().set_len(MAX_FRAME + 1).unwrap();
    });
}

#[test]
fn files_that_others_can_write_are_removed() {
    for mode in [0o620, 0o602, 0o666] {
        refuses(|path| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap());
    }
}

#[test]
fn files_with_other_names_are_removed() {
    let elsewhere = TempDir::new_in(std::env::temp_dir()).unwrap();
    refuses(|path| fs::hard_link(path, elsewhere.path().join("link")).unwrap());
    assert!(elsewhere.path().join("link").exists());
}

#[test]
fn what_is_no_file_is_removed() {
    let elsewhere = TempDir::new().unwrap();
    refuses(|path| {
        let target = elsewhere.path().join("target");
        fs::rename(path, &target).unwrap();
        symlink(target, path).unwrap();
    });
    assert!(elsewhere.path().join("target").exists());
    refuses(|path| {
        fs::remove_file(path).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, path, FileType::Fifo, Mode::RWXU, 0).unwrap();
    });
}

#[test]
fn files_of_another_user_are_removed() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped, for only root can give files away");
        return;
    }
    refuses(|path| chown(path, Some(12345), None).unwrap());
}

#[test]
fn what_was_used_least_recently_makes_room() {
    let mut fixture = Fixture::new();
    let one = artifact(&key(0), &[0; 1000]).frame().len() as u64;
    fixture.cache.max_total = 3 * one;
    for number in 0..3 {
        let path = fixture.store(&key(number), &[number; 1000]);
        let old = SystemTime::now() - Duration::from_secs(100 - u64::from(number));
        File::open(path).unwrap().set_modified(old).unwrap();
    }
    // Used, and so the newest.
    fixture.cache.read(&key(0)).unwrap();
    fixture.store(&key(3), &[3; 1000]);
    let found = [0, 1, 2, 3].map(|number| fixture.cache.read(&key(number)).is_some());
    assert_eq!(found, [true, false, true, true]);
    // More than there is room for at all is not kept, and nothing is removed for it.
    fixture.cache.store(&key(4), &artifact(&key(4), &[4; 4000])).unwrap();
    assert!(fixture.cache.read(&key(4)).is_none());
    assert_eq!(fixture.names().len(), 3);
}

#[test]
fn files_that_were_left_half_written_are_removed() {
    let fixture = Fixture::new();
    let directory = fixture.base.path().join("memnbd");
    for (name, seconds) in [("new-1-0", 1000), ("new-2-0", 10), ("mine", 1000)] {
        let old = SystemTime::now() - Duration::from_secs(seconds);
        File::create(directory.join(name)).unwrap().set_modified(old).unwrap();
    }
    fixture.store(&key(1), b"code");
    let mut names = fixture.names();
    names.sort();
    assert_eq!(names, [name(&key(1)).as_str(), "mine", "new-2-0"]);
}

#[test]
fn readers_and_writers_at_once_see_whole_files() {
    let fixture = Fixture::new();
    let path = fixture.base.path().join("memnbd");
    thread::scope(|scope| {
        for number in 0..8_u8 {
            let path = &path;
            scope.spawn(move || {
                let cache = Cache::open(path).unwrap();
                for _ in 0..50 {
                    cache.store(&key(1), &artifact(&key(1), &[number; 10_000])).unwrap();
                    let found = cache.read(&key(1)).unwrap();
                    assert_eq!(found.code().len(), 10_000);
                    assert!(found.code().iter().all(|byte| *byte == found.code()[0]));
                }
            });
        }
    });
    assert_eq!(fixture.names().len(), 1);
    assert_eq!(fs::metadata(fixture.path(&key(1))).unwrap().nlink(), 1);
}
