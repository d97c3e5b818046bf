//! The devices that stand on the one of an export, and what they need of it.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::parameters::Link;

/// The devices of other exports that stand on a device.
#[derive(Debug, Default)]
pub(super) struct Uppers(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    /// Those that write.
    writing: usize,
    /// Those that rely on a content that nobody changes but themselves.
    relying: usize,
}

/// Why a device cannot stand on another one for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conflict {
    /// This many clients are connected, who may write.
    Clients(usize),
    /// Another device that stands on it writes.
    Writing,
    /// Another device that stands on it relies on its content.
    Relying,
}

impl Uppers {
    /// Adds a device, unless that conflicts with another one, or with clients that may write. `clients`
    /// counts these, under the lock that [`Self::denies_writes`] takes: a client that connects too late to be
    /// counted learns there that it must not write.
    pub(super) fn add(&self, link: Link, clients: impl FnOnce() -> usize) -> Result<(), Conflict> {
        let mut counts = self.counts();
        if link.writes && counts.relying > 0 {
            return Err(Conflict::Relying);
        }
        if link.unshared {
            if counts.writing > 0 {
                return Err(Conflict::Writing);
            }
            let clients = clients();
            if clients > 0 {
                return Err(Conflict::Clients(clients));
            }
        }
        counts.all += 1;
        counts.writing += usize::from(link.writes);
        counts.relying += usize::from(link.unshared);
        Ok(())
    }

    /// Removes a device that was added with the same link.
    pub(super) fn remove(&self, link: Link) {
        let mut counts = self.counts();
        counts.all -= 1;
        counts.writing -= usize::from(link.writes);
        counts.relying -= usize::from(link.unshared);
    }

    /// Returns true if there is any.
    pub(super) fn exist(&self) -> bool {
        self.counts().all > 0
    }

    /// Returns true if clients must not write. A client is counted before it asks.
    pub(super) fn denies_writes(&self) -> bool {
        self.counts().relying > 0
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clients(count) => write!(
                f,
                "{count} clients are connected to it and may write, and this component needs its content \
                 to stay as it is; disconnect them first, or make it read-only"
            ),
            Self::Writing => f.write_str(
                "another component writes to it, and this one needs its content to stay as it is",
            ),
            Self::Relying => f.write_str(
                "another component needs its content to stay as it is, and this one would write to it",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READS: Link = Link { writes: false, unshared: false, scratch: false };
    const WRITES: Link = Link { writes: true, ..READS };
    const RELIES: Link = Link { unshared: true, ..READS };
    const OWNS: Link = Link { unshared: true, ..WRITES };

    #[test]
    fn devices_that_disturb_each_other_are_refused() {
        for (first, second, result) in [
            (READS, RELIES, Ok(())),
            (RELIES, READS, Ok(())),
            (RELIES, RELIES, Ok(())),
            (WRITES, WRITES, Ok(())),
            (WRITES, READS, Ok(())),
            (RELIES, WRITES, Err(Conflict::Relying)),
            (WRITES, RELIES, Err(Conflict::Writing)),
            (OWNS, OWNS, Err(Conflict::Relying)),
            (OWNS, RELIES, Err(Conflict::Writing)),
        ] {
            let uppers = Uppers::default();
            uppers.add(first, || 0).unwrap();
            assert_eq!(uppers.add(second, || 0), result, "{first:?}, then {second:?}");
            uppers.remove(first);
            if result.is_ok() {
                assert!(uppers.exist());
                uppers.remove(second);
            }
            assert!(!uppers.exist() && !uppers.denies_writes());
        }
    }

    #[test]
    fn clients_that_may_write_are_a_conflict_for_those_that_rely_on_the_content() {
        let uppers = Uppers::default();
        assert_eq!(uppers.add(RELIES, || 2), Err(Conflict::Clients(2)));
        assert!(!uppers.denies_writes() && !uppers.exist());
        uppers.add(WRITES, || 2).unwrap();
        uppers.remove(WRITES);
        uppers.add(RELIES, || 0).unwrap();
        assert!(uppers.denies_writes());
    }
}
