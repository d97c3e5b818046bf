//! Opening an export's disk.

use std::sync::Arc;
use std::time::Instant;

use super::export::{Export, Supplied};
use super::observer::Change;
use super::phase::Phase;
use super::{Backoff, Failed, Problem, Stage};
use crate::device::guest::DiskConfig;
use crate::device::{self, Device};
use crate::throttle::{Limit, Throttle, Verdict};

/// Bounds what is logged of failures: where exports are made for clients, each client causes one.
static FAILURES: Throttle = Throttle::new(
    Limit { burst: 100, per_second: 5 },
    Limit { burst: 64 << 10, per_second: 4 << 10 },
);

/// An attempt to open an export. Dropping it always ends the export's busy phase.
pub(super) struct Attempt {
    pub(super) export: Arc<Export>,
    /// The previous failure, if the last attempt failed.
    pub(super) before: Option<Failed>,
    pub(super) ended: bool,
}

/// A device that was opened.
struct Opened {
    device: Arc<dyn Device>,
    /// It cannot be opened again.
    keep: bool,
}

impl Attempt {
    pub(super) async fn open(mut self, keep: bool) -> Result<(), Failed> {
        let opened = self.load_and_open().await.and_then(|opened| {
            self.export.charge(&*opened.device)?;
            Ok(opened)
        });
        let opened = opened.map_err(|problem| self.fail(problem))?;
        let phase = if keep || opened.keep {
            Phase::Open(opened.device)
        } else {
            // Before anybody can open it again, who may need the lower devices for itself alone.
            drop(opened);
            Phase::Closed
        };
        self.end(phase);
        Ok(())
    }

    /// Like [`Self::open`], but logs a failure. One with the same message as the previous attempt's
    /// is logged at debug level only.
    pub(super) async fn open_and_log(self) {
        let name = self.export.name().to_owned();
        let before = self.before.as_ref().map(|failed| failed.problem.to_string());
        let Err(failed) = self.open(true).await else { return };
        let line = format!("export {name:?}: {failed}");
        if before.is_some_and(|before| before == failed.problem.to_string()) {
            tracing::debug!("{line}");
        } else if let Verdict::Admitted { refused } = FAILURES.admit(line.len()) {
            if refused > 0 {
                tracing::error!("({refused} more failures to open exports were not logged)");
            }
            tracing::error!("{line}");
        }
    }

    async fn load_and_open(&self) -> Result<Opened, Problem> {
        let loaded = self.export.status.borrow().config.clone();
        let mut config = match (loaded, &self.export.source) {
            (Some(config), _) => config,
            (None, Some(source)) => match source.load(&|stage| self.reach(stage)).await? {
                Supplied::Guest(config) => {
                    let component = config.component.for_export(self.export.name());
                    DiskConfig { component, ..*config }
                }
                Supplied::Device(device) => return Ok(Opened { device, keep: true }),
            },
            (None, None) => unreachable!("there is a config or a source of one"),
        };
        config.client = self.export.client().cloned();
        self.export.status.send_modify(|status| {
            status.config = Some(config.clone());
            status.phase = Phase::Busy(Stage::Opening);
        });
        let device = device::open(config).await.map_err(|error| {
            let source = self.export.source.as_deref();
            let what = source.map_or(self.export.name(), |source| source.label());
            Problem::Open { what: what.to_owned(), error }
        })?;
        Ok(Opened { device, keep: false })
    }

    fn reach(&self, stage: Stage) {
        self.export.status.send_if_modified(|status| {
            let reached = status.stage() != Some(stage);
            status.phase = Phase::Busy(stage);
            reached
        });
    }

    fn fail(&mut self, problem: Problem) -> Failed {
        let before = self.before.as_ref().and_then(|failed| failed.backoff);
        let backoff = problem.may_pass().then(|| Backoff::after(before, Instant::now()));
        let failed = Failed { problem: Arc::new(problem), backoff };
        self.end(Phase::Failed(failed.clone()));
        failed
    }

    fn end(&mut self, phase: Phase) {
        self.ended = true;
        let state = phase.state();
        self.export.status.send_modify(|status| status.phase = phase);
        self.export.tell(Change::State(state));
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.ended {
            self.fail(Problem::Panicked);
        }
    }
}
