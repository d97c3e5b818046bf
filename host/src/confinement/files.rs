//! Which files threads can open, by Landlock (landlock(7)).
//!
//! Files that are open already can be used in any case, and so can sockets. Connections to TCP ports
//! and signals to other processes are refused as well, where the kernel can do that.

use std::collections::BTreeSet;
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, RestrictionStatus, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use super::Extent;

/// The version whose rights are used: that of Linux 6.12. Older kernels restrict less.
const VERSION: ABI = ABI::V6;

/// What may be done with a file, or with all that is beneath a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rights {
    /// Reading files and listing directories.
    Read,
    /// Reading and writing files that exist, which may be devices, and listing directories.
    Write,
    /// Creating files, sockets and directories, removing and renaming them, and reading and writing
    /// files.
    Change,
    /// Creating, removing and renaming files and sockets, and writing to files, but not reading
    /// them.
    Create,
    /// Creating and removing sockets, and directories for them.
    Sockets,
}

impl Rights {
    fn access(self) -> BitFlags<AccessFs> {
        // The size of a block device is asked for by ioctl(2).
        let read = AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::IoctlDev;
        let write = AccessFs::WriteFile | AccessFs::Truncate;
        let create = AccessFs::MakeReg | AccessFs::MakeSock | AccessFs::RemoveFile;
        match self {
            Self::Read => read,
            Self::Write => read | write,
            Self::Change => read | write | create | AccessFs::MakeDir | AccessFs::RemoveDir,
            // A directory that is locked, or listed to find what is in the way, is opened to read.
            Self::Create => write | create | AccessFs::ReadDir,
            Self::Sockets => {
                let directories = AccessFs::MakeDir | AccessFs::RemoveDir | AccessFs::ReadDir;
                directories | AccessFs::MakeSock | AccessFs::RemoveFile
            }
        }
    }
}

/// The files that can be opened; none to begin with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files(BTreeSet<(PathBuf, Rights)>);

impl Files {
    /// Adds a file, or a directory with all that is beneath it. A path at which there is nothing when
    /// the rules are made adds nothing.
    pub fn allow(&mut self, path: impl Into<PathBuf>, rights: Rights) {
        self.0.insert((path.into(), rights));
    }

    /// Returns the paths, each with what may be done there.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, Rights)> {
        self.0.iter().map(|(path, rights)| (&**path, *rights))
    }

    /// Makes the rules.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel refuses them for another reason than that it does not support
    /// them.
    pub fn rules(&self) -> io::Result<Rules> {
        let mut rules = Ruleset::default()
            .handle_access(AccessFs::from_all(VERSION))
            .and_then(|rules| rules.handle_access(AccessNet::ConnectTcp))
            .and_then(|rules| rules.scope(Scope::Signal))
            .and_then(Ruleset::create)
            .map_err(io::Error::other)?;
        for (path, rights) in &self.0 {
            // Nothing there, or it cannot be reached: it could not be opened anyway.
            let Ok(place) = PathFd::new(path) else { continue };
            let mut access = rights.access();
            if !is_directory(&place) {
                access &= AccessFs::from_file(VERSION);
            }
            if access.is_empty() {
                continue;
            }
            match (&mut rules).add_rule(PathBeneath::new(place, access)) {
                Err(error) if !is_in_no_file_system(&error) => return Err(io::Error::other(error)),
                _ => {}
            }
        }
        Ok(Rules(rules))
    }
}

/// Returns true if the rule is for an open pipe, socket or memory file, which needs none.
fn is_in_no_file_system(error: &RulesetError) -> bool {
    let mut cause: Option<&dyn Error> = Some(error);
    while let Some(error) = cause {
        let error_of_system = error.downcast_ref::<io::Error>();
        if error_of_system.is_some_and(|error| error.raw_os_error() == Some(libc::EBADFD)) {
            return true;
        }
        cause = error.source();
    }
    false
}

fn is_directory(place: &PathFd) -> bool {
    let found = rustix::fs::fstat(place);
    found.is_ok_and(|found| rustix::fs::FileType::from_raw_mode(found.st_mode).is_dir())
}

/// The rules for files, to be applied to threads.
#[derive(Debug)]
pub struct Rules(RulesetCreated);

impl Rules {
    /// Applies the rules to the calling thread, and to the threads and processes that it starts from now on.
    /// Other threads go on without them.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel refuses, which one that supports them does not.
    pub fn apply_to_thread(self) -> io::Result<Extent> {
        let RestrictionStatus { ruleset, .. } = self.0.restrict_self().map_err(io::Error::other)?;
        Ok(match ruleset {
            RulesetStatus::FullyEnforced => Extent::Full,
            RulesetStatus::PartiallyEnforced => Extent::Partial,
            RulesetStatus::NotEnforced => Extent::None,
        })
    }

    /// Returns the same rules for another thread.
    ///
    /// # Errors
    ///
    /// Returns an error if no more files can be opened.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::ErrorKind;
    use std::os::fd::AsRawFd;
    use std::thread;

    use tempfile::TempDir;

    use super::*;

    /// Runs something under rules, unless the kernel has none.
    fn under(files: &Files, check: impl FnOnce() + Send) {
        let rules = files.rules().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                if rules.apply_to_thread().unwrap() != Extent::None {
                    check();
                }
            });
        });
    }

    fn denied<T>(result: io::Result<T>) -> bool {
        result.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
    }

    #[test]
    fn only_what_is_allowed_can_be_opened() {
        let directory = TempDir::new().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in ["secret", "base", "disk"] {
            fs::write(path(name), name).unwrap();
        }
        for name in ["in", "out", "cache"] {
            fs::create_dir(path(name)).unwrap();
        }
        fs::write(path("in/a"), "a").unwrap();
        let mut files = Files::default();
        for (name, rights) in [
            ("base", Rights::Read),
            ("disk", Rights::Write),
            ("in", Rights::Read),
            ("out", Rights::Create),
            ("cache", Rights::Change),
            ("absent", Rights::Write),
        ] {
            files.allow(path(name), rights);
        }
        under(&files, || {
            assert!(denied(fs::read(path("secret"))) && denied(File::create(path("new"))));
            assert!(denied(fs::read("/etc/passwd")) && denied(fs::read_dir(directory.path())));
            assert!(denied(fs::remove_file(path("disk"))));
            assert_eq!(fs::read(path("base")).unwrap(), b"base");
            assert!(denied(fs::write(path("base"), "x")));
            fs::write(path("disk"), "new").unwrap();
            assert_eq!(fs::read(path("disk")).unwrap(), b"new");
            assert_eq!(fs::read(path("in/a")).unwrap(), b"a");
            assert!(denied(fs::write(path("in/b"), "b")));
            fs::write(path("out/log"), "line").unwrap();
            assert!(denied(fs::read(path("out/log"))));
            fs::remove_file(path("out/log")).unwrap();
            fs::create_dir(path("cache/d")).unwrap();
            fs::write(path("cache/d/f"), "f").unwrap();
            fs::rename(path("cache/d/f"), path("cache/d/g")).unwrap();
        });
        assert!(fs::read(path("secret")).is_ok());
    }

    #[test]
    fn pipes_need_no_rule() {
        let (reader, _writer) = io::pipe().unwrap();
        let mut files = Files::default();
        files.allow(format!("/proc/self/fd/{}", reader.as_raw_fd()), Rights::Write);
        under(&files, || ());
    }

    #[test]
    fn nothing_is_executed() {
        let mut files = Files::default();
        files.allow("/", Rights::Write);
        under(&files, || {
            assert!(denied(std::process::Command::new("/bin/true").status()));
        });
    }

    #[test]
    fn rules_are_for_threads_that_are_started_later_as_well() {
        let rules = Files::default().rules().unwrap();
        let other = rules.try_clone().unwrap();
        let opened = |rules: Rules| {
            thread::spawn(move || {
                let enforced = rules.apply_to_thread().unwrap() != Extent::None;
                let opened = thread::spawn(|| File::open("/etc/passwd").is_ok()).join().unwrap();
                opened != enforced
            })
        };
        assert!(opened(rules).join().unwrap() && opened(other).join().unwrap());
        assert!(File::open("/etc/passwd").is_ok());
    }
}
