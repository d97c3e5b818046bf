//! Starting the exports: all concurrently, and independently of each other.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Failure;
use super::chain::Chain;
use super::control::{Entries, Founded, FromFile};
use super::host_filters::{ExitWhen, RateFiles};
use super::making::{Layers, Maker};
use super::plan::Listen;
use super::preload::Preload;
use memnbd::exports::{Exports, Failed, Problem};
use memnbd::rate::Limits;

/// How long the server delays its readiness for exports that need no compiling: healthy ones are
/// ready by then.
const PATIENCE: Duration = Duration::from_secs(1);

/// The exports to serve.
pub(super) struct Planned {
    pub(super) exports: Arc<Exports>,
    /// For each export, whether its disk stays open after the start, before any client needs it.
    pub(super) keep_open: Vec<bool>,
    /// Makes further exports.
    pub(super) maker: Maker,
    /// What the exports are made of, by their names.
    pub(super) disks: HashMap<String, (Layers, Arc<Chain>)>,
    pub(super) of_server: OfServer,
    /// The disks of the configuration file, which are among `exports` after those to start.
    pub(super) configured: Option<FromFile>,
    /// What the first export is filled with before the server is ready.
    pub(super) preload: Option<Preload>,
    /// The tenants, with their sockets.
    pub(super) tenants: Vec<(Founded, Vec<Listen>)>,
    /// Whose disks clients get.
    pub(super) entries: Arc<Entries>,
}

/// What the filters that are parts of the server ask of it.
#[derive(Default)]
pub(super) struct OfServer {
    pub(super) exit_last: bool,
    pub(super) exit_when: ExitWhen,
    /// Clients that do not use TLS get a message.
    pub(super) needs_tls: bool,
    /// Files with the rates of exports.
    pub(super) rate_files: Vec<(RateFiles, Arc<Limits>)>,
}

/// Exports that are being started.
pub(super) struct Starting {
    exports: Arc<Exports>,
    /// Receives a failure once none of several exports can be served.
    failure: oneshot::Receiver<Failure>,
}

impl Planned {
    /// Starts all exports and returns when there is something to serve. A single export has started
    /// by then. Of several, those that need no compiling have usually started.
    ///
    /// # Errors
    ///
    /// Returns an error if no export can be served.
    pub(super) async fn start(&self) -> Result<Starting, Failure> {
        let Self { exports, keep_open, .. } = self;
        let exports = exports.clone();
        let (sender, failure) = oneshot::channel();
        if keep_open.is_empty() {
            // All are made on demand.
            return Ok(Starting { exports, failure });
        }
        if keep_open.len() == 1
            && let Some(only) = exports.list().first()
        {
            only.start(keep_open[0]).await.map_err(|failed| alone(&failed))?;
            return Ok(Starting { exports: exports.clone(), failure });
        }
        let mut starting = JoinSet::new();
        for (export, &keep) in exports.list().iter().zip(keep_open) {
            let name = export.name().to_owned();
            let start = export.start(keep);
            starting.spawn(async move {
                start.await.inspect_err(|failed| tracing::error!("export {name:?}: {failed}"))
            });
        }
        tokio::spawn(watch(starting, sender));
        let mut started = Starting { exports: exports.clone(), failure };
        let settled = async {
            for export in exports.list().iter().take(keep_open.len()) {
                export.settled_or_compiling().await;
            }
        };
        // Clients of an export that takes longer wait for it.
        let _ = timeout(PATIENCE, settled).await;
        if exports.list().iter().take(keep_open.len()).all(|export| export.has_failed()) {
            return Err(started.hopeless().await);
        }
        Ok(started)
    }
}

impl Starting {
    /// Waits until all exports have failed. Never completes if at least one can be served.
    pub(super) async fn hopeless(&mut self) -> Failure {
        match (&mut self.failure).await {
            Ok(failure) => failure,
            Err(_) => std::future::pending().await,
        }
    }

    /// The exports.
    pub(super) fn exports(&self) -> &Arc<Exports> {
        &self.exports
    }
}

/// Sends a failure if none of the exports can be served.
async fn watch(mut starting: JoinSet<Result<(), Failed>>, sender: oneshot::Sender<Failure>) {
    let mut last = None;
    while let Some(started) = starting.join_next().await {
        match started {
            Ok(Err(failed)) => last = Some(failed),
            Ok(Ok(())) => return starting.detach_all(),
            // The task panicked; the export has recorded this.
            Err(_) => {}
        }
    }
    let failed = match last {
        Some(failed) => format!("none of the exports can be served; of the last one: {failed}"),
        None => "none of the exports can be served".into(),
    };
    // The server may have stopped waiting for it.
    let _ = sender.send(Failure::Failed(anyhow::anyhow!(failed)));
}

/// Converts the failure of the only export into that of the program.
fn alone(failed: &Failed) -> Failure {
    match &*failed.problem {
        Problem::Parameters(text) => Failure::Usage(text.clone()),
        problem => Failure::Failed(anyhow::anyhow!("{problem}")),
    }
}
