//! The limits that the system puts on the process.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the limit on file descriptors as far as the process may: each connection has one, and the
/// usual soft limit is 1024. Processes that this one starts inherit it.
pub(super) fn raise_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    let soft = limit.current;
    if soft == limit.maximum {
        return;
    }
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!("the limit of {soft:?} file descriptors cannot be raised: {error}");
    }
}
