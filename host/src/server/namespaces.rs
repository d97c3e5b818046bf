//! The namespaces of a server: sets of exports that do not know of each other.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::exports::{Export, Exports};

/// All exports of a server.
#[derive(Clone)]
pub(super) struct Namespaces(Arc<All>);

struct All {
    /// Those without a namespace.
    first: Arc<Exports>,
    others: Mutex<HashMap<String, Arc<Exports>>>,
}

/// A namespace of a server, which forgets it when this is dropped. Its exports should be removed before.
#[must_use]
pub struct Namespace {
    namespaces: Namespaces,
    name: String,
}

impl Namespaces {
    pub(super) fn new(first: Arc<Exports>) -> Self {
        Self(Arc::new(All { first, others: Mutex::default() }))
    }

    /// Adds a namespace whose exports have at most `most` connections together.
    pub(super) fn add(
        &self,
        exports: Arc<Exports>,
        most: u64,
    ) -> Result<Namespace, DuplicateNamespace> {
        let name = exports.namespace().to_owned();
        let mut others = self.others();
        if name.is_empty() || others.contains_key(&name) {
            return Err(DuplicateNamespace(name));
        }
        exports.set_places(self.0.first.places().share(most));
        others.insert(name.clone(), exports);
        drop(others);
        Ok(Namespace { namespaces: self.clone(), name })
    }

    /// Returns all exports, with those that are being removed.
    pub(super) fn all_exports(&self) -> Vec<Arc<Export>> {
        let mut all = self.0.first.all();
        all.extend(self.others().values().flat_map(|exports| exports.all()));
        all
    }

    fn others(&self) -> MutexGuard<'_, HashMap<String, Arc<Exports>>> {
        self.0.others.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.namespaces.others().remove(&self.name);
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Namespace").field(&self.name).finish()
    }
}

/// Two namespaces have this name; or it is empty, which stands for none.
#[derive(Debug, PartialEq, Eq)]
pub struct DuplicateNamespace(pub String);

impl fmt::Display for DuplicateNamespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "two namespaces have the name {:?}", self.0)
    }
}

impl std::error::Error for DuplicateNamespace {}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{UnixListener, UnixStream};

    use super::super::tests::options;
    use super::super::{Handle, Listener, Options, Server, Socket};
    use super::*;
    use crate::access::Origin;
    use crate::connection::{Entrance, Identity};
    use crate::device::Text;

    /// Whoever comes to the socket gets these exports, and whoever knows the secret, others.
    struct Door(Arc<Exports>, Arc<Exports>);

    impl Entrance for Door {
        fn exports(&self, client: &Identity<'_>) -> Option<Arc<Exports>> {
            assert!(matches!(client.origin, Origin::Unix(Some(_))) && client.tls.is_none());
            Some(self.0.clone())
        }

        fn exports_by_name<'a>(&self, name: &'a str) -> Option<(Arc<Exports>, &'a str)> {
            Some((self.1.clone(), name.strip_prefix("secret/")?))
        }
    }

    #[tokio::test]
    async fn namespaces_do_not_know_of_each_other() {
        let first = Exports::new([Export::of_device("disk", Text::sector("first"))]).unwrap();
        let of = |name: &str, disk: &str| {
            let exports = Arc::new(Exports::in_namespace(name));
            let export = Export::of_device(&exports.full_name(disk), Text::sector(name));
            exports.add(export).unwrap();
            exports
        };
        let (one, other) = (of("one", "disk"), of("other", "hidden"));
        let entrance: Arc<dyn Entrance> = Arc::new(Door(one.clone(), other.clone()));
        let options = Options { entrance: Some(entrance), max_connections: None, ..options() };
        let server = Server::new(Arc::new(first), options);
        let handle = server.handle();
        let (_one, one) = handle.add_namespace(one.clone(), 1).unwrap();
        let (_other, other) = handle.add_namespace(other.clone(), 1).unwrap();
        assert!(handle.add_namespace(Arc::new(Exports::in_namespace("one")), 1).is_err());
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("socket");
        let socket = Socket::Unix(None, UnixListener::bind(&path).unwrap());
        let listeners = vec![Listener::new(socket, None)];
        let running = tokio::spawn(server.run(listeners, std::future::pending()));
        let ask = async |name: &str| {
            let mut client = UnixStream::connect(&path).await.unwrap();
            let mut request = [&[0, 0, 0, 3], &b"IHAVEOPT"[..], &[0, 0, 0, 1]].concat();
            request.extend((name.len() as u32).to_be_bytes());
            request.extend(name.as_bytes());
            client.write_all(&request).await.unwrap();
            let answered = client.read_exact(&mut [0; 28]).await.is_ok();
            answered.then_some(client)
        };
        let disk = ask("disk").await.expect("it is there");
        assert!(ask("disk").await.is_none(), "one connection is all it may have");
        for name in ["one/disk", "hidden", "other/hidden", "secret/disk", "secret/other/hidden"] {
            assert!(ask(name).await.is_none(), "{name}");
        }
        let hidden = ask("secret/hidden").await.expect("by the secret");
        let names = |handle: &Handle| -> Vec<String> {
            handle.clients().iter().map(|client| client.export.to_string()).collect()
        };
        assert_eq!((names(&one), names(&other)), (vec!["disk".into()], vec!["hidden".into()]));
        assert!(names(&handle).is_empty() && handle.export("disk").is_some());
        let id = one.clients()[0].id;
        assert!(!handle.disconnect(id) && !other.disconnect(id) && one.disconnect(id));
        drop((disk, hidden));
        handle.stop();
        running.await.unwrap().unwrap();
    }
}
