//! Exports that stand on other exports.
//!
//! A component names another export in a parameter of the type device. Which stands on which is recorded
//! under one lock, before the lower one is opened, so that exports that would wait for each other are
//! refused.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use super::stood_on::{NotStoodOn, StoodOn};
use super::{Exports, Failed};
use crate::component::{Client, Executing};
use crate::device::{Lower, LowerError, LowerSource};
use crate::parameters::Link as Use;

/// Which exports stand on which, by their names.
#[derive(Debug, Default)]
pub(super) struct Links(Mutex<Vec<Edge>>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Edge {
    upper: String,
    lower: String,
}

/// A link, which is forgotten when this is dropped.
struct Link {
    links: Arc<Links>,
    edge: Edge,
}

impl Links {
    /// Adds a link, unless the lower export stands on the upper one, or is it.
    fn add(self: &Arc<Self>, upper: &str, lower: &str) -> Option<Link> {
        let edge = Edge { upper: upper.to_owned(), lower: lower.to_owned() };
        let mut edges = self.edges();
        let mut reached = vec![lower];
        let mut next = 0;
        while let Some(&name) = reached.get(next) {
            if name == upper {
                return None;
            }
            for edge in edges.iter().filter(|edge| edge.upper == name) {
                if !reached.contains(&edge.lower.as_str()) {
                    reached.push(&edge.lower);
                }
            }
            next += 1;
        }
        edges.push(edge.clone());
        drop(edges);
        Some(Link { links: self.clone(), edge })
    }

    fn edges(&self) -> MutexGuard<'_, Vec<Edge>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let mut edges = self.links.edges();
        if let Some(index) = edges.iter().position(|edge| *edge == self.edge) {
            edges.swap_remove(index);
        }
    }
}

/// The exports of a server, shared with those exports that stand on others. The cell is set once, when
/// all exports have been made.
pub type KnownExports = Arc<OnceLock<Weak<Exports>>>;

/// An export as a lower device of another one.
pub struct LowerExport {
    /// Where the lower export is found.
    pub exports: KnownExports,
    /// The name of the export that stands on it.
    pub upper: String,
    /// Its name. The empty name is that of an export which has no other.
    pub name: String,
    /// How it is used.
    pub link: Use,
}

impl fmt::Debug for LowerExport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LowerExport").field(&self.name).finish()
    }
}

impl LowerSource for LowerExport {
    fn open<'a>(&'a self, _: Option<&'a Client>) -> Executing<'a, Result<Lower, LowerError>> {
        Box::pin(self.stand())
    }
}

impl LowerExport {
    async fn stand(&self) -> Result<Lower, LowerError> {
        let permanent = |message| LowerError { message, may_pass: false };
        let name = &self.name;
        let exports = self.exports.get().and_then(Weak::upgrade);
        let exports = exports.ok_or_else(|| permanent("the server is stopping".into()))?;
        let export = exports.named(name).ok_or_else(|| permanent(exports.unknown(name)))?;
        if let Some(main) = export.main() {
            // Links are found by the names of disks.
            let main = exports.local_name(main);
            return Err(permanent(format!(
                "export {name:?} is another name of the disk {main:?}; give that name instead"
            )));
        }
        let link = exports.links().add(&self.upper, name);
        let link = link.ok_or_else(|| {
            permanent(format!(
                "export {name:?} stands on this one, or is it; exports must not stand on each other \
                 in a circle"
            ))
        })?;
        // Or else they would keep each other alive.
        drop(exports);
        match export.stand_on(self.link).await {
            Ok((device, stood_on)) => {
                let link: (Link, StoodOn) = (link, stood_on);
                Ok(Lower { device, link: Some(Arc::new(link)) })
            }
            Err(NotStoodOn::Conflict(conflict)) => {
                Err(LowerError { message: format!("export {name:?}: {conflict}"), may_pass: true })
            }
            Err(NotStoodOn::Failed(Failed { problem, .. })) => Err(LowerError {
                message: format!("export {name:?} failed: {problem}"),
                may_pass: problem.may_pass(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circles_are_refused_however_long_they_are() {
        let links = Arc::new(Links::default());
        assert!(links.add("a", "a").is_none());
        let first = links.add("a", "b").expect("nothing stands on a");
        let _second = links.add("b", "c").unwrap();
        let _third = links.add("a", "c").expect("c has two that stand on it");
        assert!(links.add("c", "a").is_none());
        assert!(links.add("b", "a").is_none());
        let again = links.add("a", "b").expect("once more, for another disk of the same export");
        drop(first);
        assert!(links.add("c", "a").is_none());
        drop(again);
        assert!(links.add("b", "a").is_some(), "only c is beneath them now");
    }
}
