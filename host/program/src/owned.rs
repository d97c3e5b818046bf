//! Whose a disk is, by its name.

/// The tenant of all disks.
const TENANT: &str = "default";

/// A disk of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owned<'a> {
    pub(super) tenant: &'a str,
    pub(super) disk: &'a str,
}

impl<'a> Owned<'a> {
    /// Returns the tenant of an export of this name, and the name that the disk has for the tenant.
    pub(super) fn of(export: &'a str) -> Self {
        Self { tenant: TENANT, disk: export }
    }
}
