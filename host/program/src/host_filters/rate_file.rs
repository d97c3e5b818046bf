//! Files that change limits while the server runs.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::num::NonZeroU64;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use memnbd::parameters::parse_size;
use memnbd::rate::{Limits, Rates, Scope};
use rustix::fs::OFlags;

/// How often the files are read.
const INTERVAL: Duration = Duration::from_secs(1);

/// The most bytes that are read of a file. A rate is shorter.
const MOST: u64 = 64;

/// The files with the rates of an export.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct RateFiles(Vec<(Scope, PathBuf)>);

impl RateFiles {
    pub(super) fn new(export: Option<PathBuf>, connection: Option<PathBuf>) -> Self {
        let export = export.map(|path| (Scope::Export, path));
        let connection = connection.map(|path| (Scope::Connection, path));
        Self(export.into_iter().chain(connection).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sets the limits to what the files say, for as long as this is polled. A file that does not exist
    /// changes nothing; what is wrong with one is logged once.
    pub(in super::super) async fn follow(self, limits: Arc<Limits>) {
        let mut last = vec![None; self.0.len()];
        loop {
            for ((scope, path), last) in self.0.iter().zip(&mut last) {
                let path = path.clone();
                let reading = tokio::task::spawn_blocking(move || read(&path));
                // A task that panicked was told of.
                let Ok(found) = reading.await else { continue };
                if *last != Some(found.clone()) {
                    match &found {
                        Ok(None) => {}
                        Ok(Some(bits)) => set(&limits, *scope, *bits),
                        Err(text) => tracing::warn!("rate: {text}"),
                    }
                    *last = Some(found);
                }
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

fn set(limits: &Limits, scope: Scope, bits: u64) {
    let rates = Rates { bits: NonZeroU64::new(bits), ..limits.rates(scope) };
    limits.set(scope, rates);
    let whose = if scope == Scope::Export { "rate" } else { "connection-rate" };
    tracing::debug!("rate: {whose} is {bits} bits per second now, 0 being no limit");
}

/// Returns the rate in a file, 0 for no limit, or `None` if the file does not exist.
fn read(path: &Path) -> Result<Option<u64>, String> {
    let about = |error: io::Error| format!("{}: {error}", path.display());
    // A pipe must not block.
    let flags = OFlags::NONBLOCK.bits() as i32;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(about(error)),
    };
    let mut text = String::new();
    file.take(MOST).read_to_string(&mut text).map_err(about)?;
    let line = text.lines().next().unwrap_or_default();
    match line.is_empty() {
        // It is being written.
        true => Ok(None),
        false => match parse_size(line) {
            Ok(rate) => Ok(Some(rate)),
            Err(error) => Err(format!("{}: {error}", path.display())),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn file_has_a_rate_or_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rate");
        assert_eq!(read(&path), Ok(None));
        for (text, rate) in
            [("", None), ("8k", Some(8192)), ("0\n", Some(0)), ("1M\nx", Some(1 << 20))]
        {
            fs::write(&path, text).unwrap();
            assert_eq!(read(&path), Ok(rate), "{text:?}");
        }
        fs::write(&path, "fast").unwrap();
        assert!(read(&path).unwrap_err().contains("\"fast\""));
        fs::write(&path, [0xff; 100_000]).unwrap();
        assert!(read(&path).is_err());
        assert!(read(directory.path()).is_err());
        let pipe = directory.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read(&pipe), Ok(None), "it does not block");
    }

    #[tokio::test]
    async fn limits_are_what_the_file_says() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rate");
        let limits = Arc::new(Limits::default());
        let files = RateFiles::new(None, Some(path.clone()));
        assert!(!files.is_empty() && RateFiles::default().is_empty());
        let following = tokio::spawn(files.follow(limits.clone()));
        for (text, bits) in [("1k", 1024), ("1M", 1 << 20), ("0", 0)] {
            let next = directory.path().join("next");
            fs::write(&next, text).unwrap();
            fs::rename(&next, &path).unwrap();
            let changed = async {
                while limits.rates(Scope::Connection).bits != NonZeroU64::new(bits) {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            let limit = Duration::from_secs(30);
            tokio::time::timeout(limit, changed).await.expect("it is read every second");
        }
        assert_eq!(limits.rates(Scope::Export), Rates::default());
        following.abort();
    }
}
