//! Dropping privileges, and locking memory.

use std::os::unix::fs::lchown;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use nix::unistd::{Gid, Group, Uid, User, initgroups, setgid, setgroups, setuid};
use rustix::mm::{MlockAllFlags, mlockall};

use super::Failure;
use super::args::Life;

/// The user and group that the process is to assume; the default is to stay what it is.
#[derive(Debug, Default)]
pub(super) struct Identity {
    user: Option<User>,
    uid: Option<Uid>,
    gid: Option<Gid>,
}

impl Identity {
    /// Finds the user and the group that the options name.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such user or group.
    pub(super) fn find(life: &Life) -> Result<Self, Failure> {
        let (user, uid) = match &life.user {
            None => (None, None),
            Some(name) => {
                let number = name.parse().ok().map(Uid::from_raw);
                let user = match number {
                    Some(uid) => User::from_uid(uid),
                    None => User::from_name(name),
                };
                let user = user.with_context(|| format!("--user {name}"))?;
                if user.is_none() && number.is_none() {
                    return Err(Failure::Usage(format!("--user {name}: there is no such user")));
                }
                let uid = user.as_ref().map(|user| user.uid).or(number);
                (user, uid)
            }
        };
        let gid = match &life.group {
            None => user.as_ref().map(|user| user.gid),
            Some(name) => match name.parse() {
                Ok(number) => Some(Gid::from_raw(number)),
                Err(_) => {
                    let group = Group::from_name(name);
                    let group = group.with_context(|| format!("--group {name}"))?;
                    let missing =
                        || Failure::Usage(format!("--group {name}: there is no such group"));
                    Some(group.ok_or_else(missing)?.gid)
                }
            },
        };
        Ok(Self { user, uid, gid })
    }

    /// Returns true if the process is to change its user or group.
    pub(super) fn changes(&self) -> bool {
        self.uid.is_some() || self.gid.is_some()
    }

    /// Returns the user that the process is to become, if it is to change.
    pub(super) fn uid(&self) -> Option<u32> {
        self.uid.map(Uid::as_raw)
    }

    /// Returns the group that the process is to have, if it is to change.
    pub(super) fn gid(&self) -> Option<u32> {
        self.gid.map(Gid::as_raw)
    }

    /// Returns the home directory of the user that the process is to become.
    pub(super) fn home(&self) -> Option<PathBuf> {
        self.user.as_ref().map(|user| user.dir.clone())
    }

    /// Changes the owner of a file or directory to the user and group that the process will assume,
    /// so that it can still remove it.
    pub(super) fn own(&self, path: &Path) -> std::io::Result<()> {
        if !self.changes() {
            return Ok(());
        }
        lchown(path, self.uid.map(Uid::as_raw), self.gid.map(Gid::as_raw))
    }

    /// Changes the user and the group of all threads, irrevocably.
    pub(super) fn drop_privileges(&self) -> anyhow::Result<()> {
        if let Some(gid) = self.gid {
            match &self.user {
                // The supplementary groups of the user apply only if no other group was requested.
                Some(user) if user.gid == gid => {
                    let name = std::ffi::CString::new(user.name.as_str())?;
                    initgroups(&name, gid)
                }
                _ => setgroups(&[gid]),
            }
            .and_then(|()| setgid(gid))
            .with_context(|| format!("change to group {gid}"))?;
        }
        if let Some(uid) = self.uid {
            if self.gid.is_none() {
                bail!("user {uid} is not known here, so --group must say which group it has");
            }
            setuid(uid).with_context(|| format!("change to user {uid}"))?;
        }
        Ok(())
    }
}

/// Locks all current and future memory of the process. Memory that is only reserved, such as most
/// of a sparse disk, does not occupy RAM.
pub(super) fn lock_memory() -> anyhow::Result<()> {
    mlockall(MlockAllFlags::CURRENT)
        .and_then(|()| mlockall(MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT))
        .context("--swap: lock the process into memory (it takes root or a higher ulimit -l)")
}
