//! Controlling a server while it runs.

use std::sync::Arc;

use tokio::sync::watch;

use crate::exports::Exports;

/// A handle to a server. It may outlive the server.
#[derive(Clone)]
pub struct Handle {
    exports: Arc<Exports>,
    stop: Arc<watch::Sender<bool>>,
    ended: watch::Receiver<()>,
}

/// The server's end of its handles. Dropping it says that the server has ended.
pub(super) struct Controlled {
    stop: watch::Receiver<bool>,
    _ended: watch::Sender<()>,
}

impl Handle {
    pub(super) fn new(exports: Arc<Exports>) -> (Self, Controlled) {
        let (stop, asked) = watch::channel(false);
        let (sender, ended) = watch::channel(());
        let handle = Self { exports, stop: Arc::new(stop), ended };
        (handle, Controlled { stop: asked, _ended: sender })
    }

    /// The exports of the server, to be listed, or pointed at other devices
    /// ([`Export::replace`](crate::exports::Export::replace)).
    pub fn exports(&self) -> &Exports {
        &self.exports
    }

    /// Asks the server to stop, as if the future passed to [`Server::run`](super::Server::run) had
    /// completed.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits until the server has stopped, and its disks were flushed.
    pub async fn stopped(&self) {
        let mut ended = self.ended.clone();
        // Nothing is ever sent; the sender is dropped in the end.
        while ended.changed().await.is_ok() {}
    }
}

impl Controlled {
    /// Completes when a handle asks the server to stop.
    pub(super) async fn asked_to_stop(&mut self) {
        if self.stop.wait_for(|&stop| stop).await.is_err() {
            // There is no handle any more.
            std::future::pending().await
        }
    }
}
