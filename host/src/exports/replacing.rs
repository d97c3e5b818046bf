//! Pointing an export at another device while clients use it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Export;
use super::observer::Change;
use super::phase::Phase;
use crate::device::{Device, Drained, InUse, Replacing};

/// Why an export was not pointed at another device.
#[derive(Debug, PartialEq, Eq)]
pub enum NotReplaced {
    /// The export is not open.
    NotOpen,
    /// Each of its clients has a device of its own.
    Private,
    /// Another export stands on it, and would keep the old device.
    StoodOn,
    /// The device differs in this way from what clients were told.
    Geometry(&'static str),
    /// Requests under way did not end in time.
    InUse(InUse),
}

impl fmt::Display for NotReplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOpen => f.write_str("the export is not open"),
            Self::StoodOn => f.write_str("another export stands on it"),
            Self::Private => f.write_str("each client of the export has a device of its own"),
            Self::Geometry(what) => {
                write!(f, "the device {what}, and connected clients were told otherwise")
            }
            Self::InUse(in_use) => in_use.fmt(f),
        }
    }
}

impl std::error::Error for NotReplaced {}

/// An export whose requests are held back: nobody is at work on its device.
pub struct Held<'a> {
    export: &'a Export,
    drained: Drained<'a>,
    present: Arc<dyn Device>,
}

impl Held<'_> {
    /// Returns the device.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.present
    }

    /// Points the export at another device, as [`Export::replace`] does. It may be made of the present one.
    ///
    /// # Errors
    ///
    /// Returns an error, with nothing replaced, if the device is not of the geometry that clients were
    /// told.
    pub fn replace(self, device: Arc<dyn Device>) -> Result<Arc<dyn Device>, NotReplaced> {
        let Self { export, drained, present } = self;
        check_geometry(&present, &device)?;
        let next = Phase::Open(device.clone());
        drained.replace(&device, || {
            export.status.send_modify(|status| status.phase = next);
            export.generation.fetch_add(1, Ordering::Relaxed);
        });
        export.tell(Change::Replaced { generation: export.generation() });
        Ok(present)
    }
}

fn check_geometry(present: &Arc<dyn Device>, next: &Arc<dyn Device>) -> Result<(), NotReplaced> {
    match present.geometry().obstacle_to(next.geometry()) {
        Some(obstacle) => Err(NotReplaced::Geometry(obstacle)),
        None => Ok(()),
    }
}

impl Export {
    /// Points the export at another device, between two requests of each of its clients, who notice
    /// nothing but a short delay. Requests are held back while those under way come to
    /// their end, for at most `limit`. Returns the device that was replaced: nobody uses it any more.
    ///
    /// The caller must carry over what was written. It is safe to drop the future; then nothing
    /// is replaced.
    ///
    /// # Errors
    ///
    /// Returns an error, with nothing replaced, if the export is not open, a request takes longer
    /// than `limit`, or the device is not of the geometry that clients were told: it must have the
    /// same size and block sizes, and offer at least what the present one does.
    pub async fn replace(
        &self,
        device: Arc<dyn Device>,
        limit: Duration,
    ) -> Result<Arc<dyn Device>, NotReplaced> {
        let export = self.with_disk();
        let (replacing, present) = export.replaceable().await?;
        check_geometry(&present, &device)?;
        let drained = replacing.drain(limit).await.map_err(NotReplaced::InUse)?;
        Held { export, drained, present }.replace(device)
    }

    /// Holds back the requests of the export's clients, after those under way have come to their end, for
    /// which they have until `limit`. They go on when the returned value is dropped.
    ///
    /// # Errors
    ///
    /// Returns an error if the export is not open, or a request takes longer than `limit`.
    pub async fn hold(&self, limit: Duration) -> Result<Held<'_>, NotReplaced> {
        let export = self.with_disk();
        let (replacing, present) = export.replaceable().await?;
        let drained = replacing.drain(limit).await.map_err(NotReplaced::InUse)?;
        Ok(Held { export, drained, present })
    }

    /// Returns the exclusive right to replace the device, and the device: it stays open meanwhile.
    async fn replaceable(&self) -> Result<(Replacing<'_>, Arc<dyn Device>), NotReplaced> {
        if self.private {
            return Err(NotReplaced::Private);
        }
        let replacing = self.ports.replacing().await;
        if self.is_stood_on() {
            return Err(NotReplaced::StoodOn);
        }
        let present = self.opened().ok_or(NotReplaced::NotOpen)?;
        Ok((replacing, present))
    }

    /// Waits for the exclusive right to replace the device.
    pub(crate) async fn replacing(&self) -> Replacing<'_> {
        self.ports().replacing().await
    }
}
