//! Filling the main disk from an image before the server is ready (`--preload`).
//!
//! The image is opened after privileges are dropped, unless its size is needed for that of the disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, anyhow};

use super::Failure;
use super::args::Args;
use super::image::{self, Format};
use super::loading::Loader;
use super::progress::Progress;
use super::wish::Wish;
use memnbd::device::guest::Budgets;
use memnbd::device::{Cancelled, Device, copy};
use memnbd::exports::Export;

/// An image with which the main disk is to be filled.
pub(super) struct Preload {
    path: PathBuf,
    format: Option<Format>,
    budgets: Budgets,
    /// The image, if it is open.
    opened: Option<Arc<dyn Device>>,
}

impl Preload {
    /// Creates the preload of an image. It is opened later.
    pub(super) fn new(path: &Path, format: Option<Format>, wish: Wish) -> Self {
        Self { path: wish.directory.join(path), format, budgets: wish.budgets, opened: None }
    }

    /// Opens the image, and returns its size in bytes.
    pub(super) async fn size(&mut self, args: &Args) -> Result<u64, Failure> {
        Ok(self.open(args).await?.geometry().size)
    }

    /// Fills a disk.
    ///
    /// # Errors
    ///
    /// Returns an error if the image cannot be opened or read, or does not fit into the disk.
    pub(super) async fn fill(mut self, args: &Args, disk: &Arc<Export>) -> Result<(), Failure> {
        let source = self.open(args).await?;
        let disk = disk.disk().await.map_err(|failed| anyhow!("open the disk: {failed}"))?;
        let size = source.geometry().size;
        let print = |line: std::fmt::Arguments<'_>| tracing::info!("{line}");
        let mut progress = Progress::new("preload", Some(size), print);
        let copied = copy(source, disk, Cancelled::default(), |done| progress.tell(done)).await;
        tracing::debug!("preload: {size} bytes in {:.1} s", progress.end().as_secs_f64());
        Ok(copied.with_context(|| self.what())?)
    }

    fn what(&self) -> String {
        format!("--preload {}", self.path.display())
    }

    async fn open(&mut self, args: &Args) -> anyhow::Result<Arc<dyn Device>> {
        if let Some(opened) = &self.opened {
            return Ok(opened.clone());
        }
        let loader = Loader::new(args, None, None, None);
        let opening = image::open(&self.path, self.format, loader.engine(), &self.budgets);
        let device = opening.await.with_context(|| self.what())?;
        self.opened = Some(device.clone());
        Ok(device)
    }
}
