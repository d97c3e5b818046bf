//! Getting the exports ready: all at the same time, and none at the expense of the others.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Failure;
use crate::exports::{Exports, Failed, Problem};

/// How long the server waits, before it says that it is ready, for exports that need no compiling:
/// what is well is ready by then.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is to be served.
pub(super) struct Planned {
    pub(super) exports: Arc<Exports>,
    /// For each, whether it stays open until somebody needs it.
    pub(super) keep_open: Vec<bool>,
}

/// Exports that are getting ready.
pub(super) struct Starting {
    exports: Arc<Exports>,
    /// Comes when it turns out that none of several can be had.
    failure: oneshot::Receiver<Failure>,
}

impl Planned {
    /// Gets all exports ready. Returns when there is something to serve: a single one is open then;
    /// of several, those that need no compiling are.
    ///
    /// # Errors
    ///
    /// Why there is nothing to serve.
    pub(super) async fn start(self) -> Result<Starting, Failure> {
        let Self { exports, keep_open } = self;
        let (sender, failure) = oneshot::channel();
        if keep_open.len() == 1
            && let Some(only) = exports.iter().next()
        {
            only.start(keep_open[0]).await.map_err(|failed| alone(&failed))?;
            return Ok(Starting { exports: exports.clone(), failure });
        }
        let mut starting = JoinSet::new();
        for (export, &keep) in exports.iter().zip(&keep_open) {
            let name = export.name().to_owned();
            let start = export.start(keep);
            starting.spawn(async move {
                start.await.inspect_err(|failed| tracing::error!("export {name:?}: {failed}"))
            });
        }
        tokio::spawn(watch(starting, sender));
        let mut started = Starting { exports: exports.clone(), failure };
        let settled = async {
            for export in exports.iter() {
                export.settled_or_compiling().await;
            }
        };
        // Who takes longer has those who ask for it wait.
        let _ = timeout(PATIENCE, settled).await;
        if exports.iter().all(|export| export.has_failed()) {
            return Err(started.hopeless().await);
        }
        Ok(started)
    }
}

impl Starting {
    /// Waits until it turns out that there is nothing to serve. It never comes if there is something.
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

/// Tells if none of the exports can be had.
async fn watch(mut starting: JoinSet<Result<(), Failed>>, sender: oneshot::Sender<Failure>) {
    let mut last = None;
    while let Some(started) = starting.join_next().await {
        match started {
            Ok(Err(failed)) => last = Some(failed),
            Ok(Ok(())) => return starting.detach_all(),
            // It panicked, which the export knows.
            Err(_) => {}
        }
    }
    let failed = match last {
        Some(failed) => format!("none of the exports can be served; of the last one: {failed}"),
        None => "none of the exports can be served".into(),
    };
    // The server may be past waiting for it.
    let _ = sender.send(Failure::Failed(anyhow::anyhow!(failed)));
}

/// The failure of the only export is that of the program.
fn alone(failed: &Failed) -> Failure {
    match &*failed.problem {
        Problem::Parameters(text) => Failure::Usage(text.clone()),
        problem => Failure::Failed(anyhow::anyhow!("{problem}")),
    }
}
