//! The resource limits of the process.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the soft limit on file descriptors to the hard limit: each connection uses one, and the
/// usual soft limit is 1024. Child processes inherit the raised limit.
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
