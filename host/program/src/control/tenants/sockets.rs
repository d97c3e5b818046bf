//! The sockets of tenants, which come and go with what the configuration file says.

use std::sync::Arc;

use memnbd::server::{Handle, Listener, Listening};
use tokio::runtime;
use tokio::task::block_in_place;

use crate::leftovers::Leftovers;
use crate::listen::listen_for;
use crate::plan::Listen;
use crate::privileges::Identity;

/// The open sockets of a tenant.
#[derive(Default)]
pub(crate) struct Sockets(Vec<Open>);

struct Open {
    listen: Listen,
    listening: Vec<Listening>,
}

impl Sockets {
    /// Adds a socket that is bound. Returns its listeners, which the server is to be started with.
    pub(crate) fn add(&mut self, listen: Listen, bound: Vec<Listener>) -> Vec<Listener> {
        let (listeners, listening) = bound.into_iter().map(Listener::closable).unzip();
        self.0.push(Open { listen, listening });
        listeners
    }

    /// Closes those that are not wanted. Returns them. When this returns, others may take their addresses.
    pub(super) async fn close_others(&mut self, wanted: &[Listen]) -> Vec<Listen> {
        let gone = |open: &mut Open| !wanted.contains(&open.listen);
        let mut closed = Vec::new();
        for Open { listen, listening } in self.0.extract_if(.., gone) {
            for listening in listening {
                listening.close().await;
            }
            closed.push(listen);
        }
        closed
    }

    /// Opens those that are wanted and not open, for the exports of this handle. Returns what became of
    /// them. It may block for a moment.
    pub(super) fn open(
        &mut self,
        wanted: &[Listen],
        server: &Handle,
        leftovers: &Leftovers,
    ) -> Vec<(Listen, anyhow::Result<()>)> {
        let is_open = |listen: &Listen| self.0.iter().any(|open| open.listen == *listen);
        let new: Vec<Listen> = wanted.iter().filter(|listen| !is_open(listen)).cloned().collect();
        let mut opened = Vec::new();
        for listen in new {
            let listening = listen_now(&listen, server, leftovers);
            let done = listening.map(|listening| {
                self.0.push(Open { listen: listen.clone(), listening });
            });
            opened.push((listen, done));
        }
        opened
    }
}

fn listen_now(
    listen: &Listen,
    server: &Handle,
    leftovers: &Leftovers,
) -> anyhow::Result<Vec<Listening>> {
    let exports = Arc::clone(server.registry());
    // The user has been changed by now, if it was to be.
    let identity = Identity::default();
    // It may wait for other servers in the directory of the socket.
    let listeners = block_in_place(|| {
        let listening = listen_for(listen, &exports, &identity, leftovers);
        runtime::Handle::current().block_on(listening)
    })?;
    Ok(listeners.into_iter().map(|listener| server.listen(listener)).collect::<Result<_, _>>()?)
}
