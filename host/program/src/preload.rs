//! Filling the main disk from an image before the server is ready (`--preload`).
//!
//! The image is decoded in the sandbox, read-only, by the built-in components that are filters for it.
//! It is opened after privileges are dropped, unless its size is needed for that of the disk.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::fs::OFlags;

use super::Failure;
use super::args::Args;
use super::chain::{Bottom, Chain};
use super::file;
use super::loading::Loader;
use super::making::export;
use super::wish::Wish;
use memnbd::device::{Cancelled, Device, copy};
use memnbd::exports::{Export, KnownExports, Policy};

/// How long a copy takes before it is worth a progress bar.
const PATIENCE: Duration = Duration::from_secs(1);

/// The time between two lines in the log, if there is no progress bar.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// The time between two updates of the progress bar.
const DRAW_EVERY: Duration = Duration::from_millis(100);

/// What the progress bar shows.
const STYLE: &str =
    "preload [{bar:30}] {bytes} of {total_bytes}, {binary_bytes_per_sec}, {eta} left";

/// The format of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// The bytes of the disk
    Raw,
    /// QEMU's format, decoded by the component of this name
    Qcow2,
    /// Compressed, decoded by the component of this name
    Gzip,
    /// Compressed, decoded by the component of this name
    Xz,
}

impl Format {
    /// Returns the format of an image that begins with these bytes.
    fn detect(head: &[u8]) -> Self {
        match head {
            [b'Q', b'F', b'I', 0xfb, ..] => Self::Qcow2,
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            _ => Self::Raw,
        }
    }

    /// Returns the filter that decodes it.
    fn filter(self) -> Option<&'static str> {
        match self {
            Self::Raw => None,
            Self::Qcow2 => Some("qcow2"),
            Self::Gzip => Some("gzip"),
            Self::Xz => Some("xz"),
        }
    }
}

/// An image with which the main disk is to be filled.
pub(super) struct Preload {
    path: PathBuf,
    format: Option<Format>,
    /// Names nothing yet.
    wish: Wish,
    /// The image, if it is open.
    opened: Option<Arc<dyn Device>>,
}

impl Preload {
    /// Creates the preload of an image. It is opened later.
    pub(super) fn new(path: &Path, format: Option<Format>, wish: Wish) -> Self {
        let path = wish.directory.join(path);
        Self { path, format, wish: Wish { read_only: true, ..wish }, opened: None }
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
        let mut progress = Progress::new(source.geometry().size);
        let copied = copy(source, disk, Cancelled::default(), |done| progress.tell(done)).await;
        progress.end();
        Ok(copied.with_context(|| self.what())?)
    }

    fn what(&self) -> String {
        format!("--preload {}", self.path.display())
    }

    async fn open(&mut self, args: &Args) -> anyhow::Result<Arc<dyn Device>> {
        if let Some(opened) = &self.opened {
            return Ok(opened.clone());
        }
        let device = self.open_anew(args).await.with_context(|| self.what())?;
        self.opened = Some(device.clone());
        Ok(device)
    }

    async fn open_anew(&self, args: &Args) -> anyhow::Result<Arc<dyn Device>> {
        let (path, format) = (self.path.clone(), self.format);
        let opened = tokio::task::spawn_blocking(move || open_file(&path, format)).await;
        // The device opens it by its descriptor, so that it is the file whose format was detected.
        let (image, format) = opened.context("open it")??;
        let wish = Wish { words: vec![format!("fd={}", image.as_raw_fd())], ..self.wish.clone() };
        let filters: Vec<String> = format.filter().map(Into::into).into_iter().collect();
        let mut loader = Loader::new(args, None, None);
        let known = KnownExports::default();
        let chain = Chain::new(
            &mut loader,
            "the image",
            &filters,
            Bottom::Component(file::NAME),
            wish,
            &known,
        )
        .await;
        let chain = chain.map_err(|failure| anyhow!("{failure}"))?;
        let export = export(chain, "preload", false, &Policy::default()).export;
        // It is tried once.
        export.start(true).await.map_err(|failed| anyhow!("{}", failed.problem))?;
        export.disk().await.map_err(|failed| anyhow!("{}", failed.problem))
    }
}

/// Opens an image, and detects its format unless it is known.
fn open_file(path: &Path, format: Option<Format>) -> io::Result<(File, Format)> {
    // A pipe must not block.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let image = File::options().read(true).custom_flags(flags).open(path)?;
    let kind = image.metadata()?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(io::Error::other("it is neither a regular file nor a block device"));
    }
    let mut head = [0; 6];
    let length = image.read_at(&mut head, 0)?;
    Ok((image, format.unwrap_or_else(|| Format::detect(&head[..length]))))
}

/// Shows the progress: a bar on a terminal, otherwise lines in the log.
struct Progress {
    size: u64,
    begun: Instant,
    shown: Instant,
    bar: Option<ProgressBar>,
    on_terminal: bool,
}

impl Progress {
    fn new(size: u64) -> Self {
        let begun = Instant::now();
        let on_terminal = io::stderr().is_terminal();
        Self { size, begun, shown: begun, bar: None, on_terminal }
    }

    fn tell(&mut self, done: u64) {
        let now = Instant::now();
        if self.on_terminal {
            if now - self.begun >= PATIENCE {
                self.bar.get_or_insert_with(|| bar(self.size, now - self.begun)).set_position(done);
            }
        } else if now - self.shown >= LOG_EVERY {
            self.shown = now;
            tracing::info!("preload: {done} of {} bytes", self.size);
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let seconds = self.begun.elapsed().as_secs_f64();
        tracing::debug!("preload: {} bytes in {seconds:.1} s", self.size);
    }
}

fn bar(size: u64, elapsed: Duration) -> ProgressBar {
    let style = ProgressStyle::with_template(STYLE);
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    let hertz = (1000 / DRAW_EVERY.as_millis()) as u8;
    let bar = ProgressBar::with_draw_target(Some(size), ProgressDrawTarget::stderr_with_hz(hertz));
    bar.with_style(style.progress_chars("=> ")).with_elapsed(elapsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_detected_by_their_first_bytes() {
        assert_eq!(Format::detect(b"QFI\xfb\0\0"), Format::Qcow2);
        assert_eq!(Format::detect(b"\x1f\x8b\x08\0\0\0"), Format::Gzip);
        assert_eq!(Format::detect(b"\xfd7zXZ\0"), Format::Xz);
        for raw in [&b""[..], b"QFI", b"\0QFI\xfb\0"] {
            assert_eq!(Format::detect(raw), Format::Raw);
        }
    }

    #[test]
    fn the_bar_can_be_drawn() {
        assert!(ProgressStyle::with_template(STYLE).is_ok());
        let bar = bar(10, PATIENCE);
        bar.set_position(5);
        assert_eq!((bar.position(), bar.length()), (5, Some(10)));
    }
}
