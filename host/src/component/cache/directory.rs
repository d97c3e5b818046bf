//! Opens a directory that no other user can change, nor anything on the path to it. This module
//! does not know what the directory contains.
//!
//! The path from `/` is walked once, descriptor by descriptor, and each directory is judged by its
//! descriptor, not by its name. From then on, the directory is only accessed through its
//! descriptor.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{self, AtFlags, CWD, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::process::geteuid;

/// The flags for opening the directory and all directories above it.
const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The permission bits that let anyone but the owner change something.
pub(super) const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Returns whether a file or directory belongs to this user, or to root, who can do anything
/// anyway.
pub(super) fn is_trusted(stat: &Stat) -> bool {
    stat.st_uid == 0 || stat.st_uid == geteuid().as_raw()
}

/// Opens a directory. Creates it, and any missing parent, accessible to its owner only.
///
/// Symbolic links are followed in the path, since a home directory may be reached through some, but
/// not for its last component. What they lead to is judged like everything else.
///
/// # Errors
///
/// Returns an error if another user could change the directory, or if it cannot be opened or
/// created.
pub(super) fn open(path: &Path) -> Result<OwnedFd, Refusal> {
    let name = path.file_name().ok_or(Refusal::Io(path.into(), Errno::INVAL.into()))?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    let (existing, missing) = resolve(parent)?;
    let (mut directory, mut way) = walk(&existing)?;
    for name in missing.iter().map(OsString::as_os_str).chain([name]) {
        make(&directory, name).map_err(|error| Refusal::Io(way.join(name), error))?;
        directory = enter(&directory, name, &mut way)?;
    }
    let stat = fs::fstat(&directory).map_err(|error| Refusal::Io(way.clone(), error.into()))?;
    if stat.st_mode & WRITABLE_BY_OTHERS != 0 {
        return Err(Refusal::Writable(way, stat.st_mode));
    }
    // The descriptor so far is O_PATH, which cannot be used to read the directory.
    let flags = DIRECTORY | OFlags::RDONLY;
    fs::openat(&directory, ".", flags, Mode::empty())
        .map_err(|error| Refusal::Io(way, error.into()))
}

/// Returns the part of a path that exists, with symbolic links resolved, and the names of the
/// missing components below it.
fn resolve(path: &Path) -> Result<(PathBuf, Vec<OsString>), Refusal> {
    let mut missing = Vec::new();
    let mut existing = path;
    loop {
        match std::fs::canonicalize(existing) {
            Ok(found) => {
                missing.reverse();
                return Ok((found, missing));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (Some(parent), Some(name)) = (existing.parent(), existing.file_name()) else {
                    return Err(Refusal::Io(existing.into(), error));
                };
                missing.push(name.to_owned());
                existing = parent;
            }
            Err(error) => return Err(Refusal::Io(existing.into(), error)),
        }
    }
}

/// Walks from the root to a directory.
fn walk(path: &Path) -> Result<(OwnedFd, PathBuf), Refusal> {
    let mut way = PathBuf::from("/");
    let root = fs::openat(CWD, "/", DIRECTORY | OFlags::PATH, Mode::empty());
    let mut directory = root.map_err(|error| Refusal::Io(way.clone(), error.into()))?;
    judge(&directory, &way)?;
    for component in path.components() {
        match component {
            Component::RootDir => {}
            Component::Normal(name) => directory = enter(&directory, name, &mut way)?,
            // A canonical path has no other components.
            _ => return Err(Refusal::Io(path.into(), Errno::INVAL.into())),
        }
    }
    Ok((directory, way))
}

/// Opens and judges the next directory of the path.
fn enter(from: &OwnedFd, name: &OsStr, way: &mut PathBuf) -> Result<OwnedFd, Refusal> {
    way.push(name);
    let entered = match fs::openat(from, name, DIRECTORY | OFlags::PATH, Mode::empty()) {
        Ok(entered) => entered,
        // A symbolic link that is not followed is not a directory.
        Err(Errno::NOTDIR | Errno::LOOP) if is_link(from, name) => {
            return Err(Refusal::Link(way.clone()));
        }
        Err(error) => return Err(Refusal::Io(way.clone(), error.into())),
    };
    judge(&entered, way)?;
    Ok(entered)
}

fn is_link(directory: &OwnedFd, name: &OsStr) -> bool {
    fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| fs::FileType::from_raw_mode(stat.st_mode).is_symlink())
}

/// Checks that others cannot replace the contents of a directory. In a sticky directory such as
/// /tmp, they can neither rename nor remove files that are not theirs, so the next component is
/// safe if it is ours: it is judged next, and it is not a symbolic link.
fn judge(directory: &OwnedFd, way: &Path) -> Result<(), Refusal> {
    let stat = fs::fstat(directory).map_err(|error| Refusal::Io(way.into(), error.into()))?;
    if !is_trusted(&stat) {
        return Err(Refusal::Owner(way.into(), stat.st_uid));
    }
    let sticky = stat.st_mode & Mode::SVTX.as_raw_mode() != 0;
    if stat.st_mode & WRITABLE_BY_OTHERS != 0 && !sticky {
        return Err(Refusal::Writable(way.into(), stat.st_mode));
    }
    Ok(())
}

/// Creates a directory that only its owner can access, whatever the umask, unless something of that
/// name exists already.
fn make(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match fs::mkdirat(parent, name, Mode::RWXU) {
        Ok(()) => {
            // The umask may have removed some permissions.
            let made = fs::openat(parent, name, DIRECTORY | OFlags::RDONLY, Mode::empty());
            match made {
                Ok(made) => Ok(fs::fchmod(&made, Mode::RWXU)?),
                // The umask may have kept even the owner from opening it.
                Err(_) => Ok(fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty())?),
            }
        }
        Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Why a directory is not used.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Something on the way belongs to another user.
    Owner(PathBuf, u32),
    /// Users other than its owner can change it.
    Writable(PathBuf, u32),
    /// It is a symbolic link.
    Link(PathBuf),
    /// It cannot be opened or created.
    Io(PathBuf, io::Error),
}

impl Refusal {
    /// Returns true if another user could do harm, and false if the directory is merely
    /// unavailable.
    pub(super) fn is_danger(&self) -> bool {
        !matches!(self, Self::Io(..))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = geteuid().as_raw();
        match self {
            Self::Owner(path, owner) => write!(
                f,
                "{} belongs to user {owner}; it must belong to root or to user {user}, which this \
                 process is",
                path.display()
            ),
            Self::Writable(path, mode) => write!(
                f,
                "{} has the mode {:04o}, so others can write there; `chmod go-w` would be right",
                path.display(),
                mode & 0o7777
            ),
            Self::Link(path) => {
                write!(f, "{} is a symbolic link; it must be a directory", path.display())
            }
            Self::Io(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    fn temporary() -> tempfile::TempDir {
        tempfile::TempDir::new().unwrap()
    }

    fn chmod(path: &Path, mode: u32) {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn what_is_missing_is_made_for_its_owner_alone() {
        let base = temporary();
        let path = base.path().join("a/b/memnbd");
        for _ in 0..2 {
            open(&path).unwrap();
        }
        for made in ["a", "a/b", "a/b/memnbd"] {
            assert_eq!(mode(&base.path().join(made)), 0o700, "{made}");
        }
    }

    #[test]
    fn directory_that_others_can_write_is_refused_wherever_it_is() {
        for open_one in ["", "a", "a/memnbd"] {
            let base = temporary();
            let path = base.path().join("a/memnbd");
            open(&path).unwrap();
            for bits in [0o720, 0o702, 0o777] {
                chmod(&base.path().join(open_one), bits);
                let refusal = open(&path).unwrap_err();
                assert!(matches!(refusal, Refusal::Writable(..)), "{open_one:?}: {refusal}");
                assert!(refusal.is_danger() && refusal.to_string().contains("chmod"), "{refusal}");
            }
            chmod(&base.path().join(open_one), 0o755);
            open(&path).unwrap();
        }
    }

    #[test]
    fn sticky_directory_is_passed_but_is_no_cache() {
        let base = temporary();
        chmod(base.path(), 0o1777);
        let path = base.path().join("memnbd");
        open(&path).unwrap();
        chmod(&path, 0o1777);
        assert!(matches!(open(&path).unwrap_err(), Refusal::Writable(..)));
    }

    #[test]
    fn directory_of_another_user_is_refused() {
        if !geteuid().is_root() {
            eprintln!("skipped, for only root can give directories away");
            return;
        }
        for foreign in ["a", "a/memnbd"] {
            let base = temporary();
            let path = base.path().join("a/memnbd");
            open(&path).unwrap();
            chown(base.path().join(foreign), Some(12345), None).unwrap();
            let refusal = open(&path).unwrap_err();
            assert!(matches!(refusal, Refusal::Owner(_, 12345)), "{refusal}");
            assert!(refusal.is_danger() && refusal.to_string().contains("12345"), "{refusal}");
        }
    }

    #[test]
    fn links_are_followed_on_the_way_but_not_at_its_end() {
        let base = temporary();
        let real = base.path().join("real");
        open(&real.join("memnbd")).unwrap();
        symlink(&real, base.path().join("link")).unwrap();
        open(&base.path().join("link/memnbd")).unwrap();
        for target in ["real/memnbd", "nowhere"] {
            let link = base.path().join("end");
            symlink(base.path().join(target), &link).unwrap();
            let refusal = open(&link).unwrap_err();
            assert!(matches!(refusal, Refusal::Link(_)), "{refusal}");
            std::fs::remove_file(link).unwrap();
        }
        // What a link leads to is judged as well.
        chmod(&real, 0o777);
        let refusal = open(&base.path().join("link/memnbd")).unwrap_err();
        assert!(matches!(refusal, Refusal::Writable(..)), "{refusal}");
    }

    #[test]
    fn directory_that_cannot_be_is_no_danger() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for path in [file.path().join("memnbd"), file.path().to_owned(), "/".into()] {
            let refusal = open(&path).unwrap_err();
            assert!(!refusal.is_danger(), "{refusal}");
        }
    }
}
