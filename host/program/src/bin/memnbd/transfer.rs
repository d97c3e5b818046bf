//! The command `copy`, which fills a disk from an image, and what it shares with `save`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use memnbd::component::Engine;
use memnbd::device::guest::Budgets;
use memnbd::device::{Cancelled, copy_stream};
use memnbd::machine;
use memnbd::remote::Remote;
use serde_json::json;

use crate::http::{Refused, Server};
use crate::image::{self, Format};
use crate::path;
use crate::progress::Progress;

/// Time limit for a call of a component that decodes an image.
const DEADLINE: Duration = Duration::from_secs(60);

/// The status of a response that there is no such disk.
const NOT_FOUND: u16 = 404;

/// Fills a disk from an image, or from stdin.
pub(crate) async fn copy(
    server: &Server,
    image: &Path,
    disk: &str,
    format: Option<Format>,
    create: bool,
) -> anyhow::Result<()> {
    let what = match is_stdin(image) {
        true => PathBuf::from("stdin"),
        false => image.to_owned(),
    };
    let copying = async {
        match is_stdin(image) {
            true => copy_stdin(server, disk, format, create).await,
            false => copy_image(server, image, disk, format, create).await,
        }
    };
    copying.await.with_context(|| format!("copy {} to {disk:?}", what.display()))
}

fn is_stdin(image: &Path) -> bool {
    image.as_os_str() == "-"
}

async fn copy_image(
    server: &Server,
    image: &Path,
    disk: &str,
    format: Option<Format>,
    create: bool,
) -> anyhow::Result<()> {
    let engine = Engine::new(DEADLINE);
    let budgets = Budgets::alone(machine::memory());
    let source = image::open(image, format, &engine, &budgets).await?;
    let size = source.geometry().size;
    if let Some(error) = missing(server, disk).await? {
        if !create {
            bail!("{error}; --create creates one");
        }
        let spec = json!({ "component": "memory", "parameters": [format!("size={size}")] });
        server.put(&path(disk, ""), &spec).await.context("create the disk")?;
    }
    let remote = open_disk(server, disk).await?;
    let mut progress = Progress::new("copy", Some(size), print);
    let tell = |done| progress.tell(done);
    let copied = memnbd::device::copy(source, remote.clone(), Cancelled::default(), tell).await;
    progress.end();
    copied?;
    remote.disconnect().await;
    Ok(())
}

async fn copy_stdin(
    server: &Server,
    disk: &str,
    format: Option<Format>,
    create: bool,
) -> anyhow::Result<()> {
    if format.is_some_and(|format| format != Format::Raw) {
        bail!("an image on stdin is raw; another format needs a file");
    }
    if create {
        bail!(
            "--create needs the size of the image, which stdin does not tell; create the disk first"
        );
    }
    if let Some(error) = missing(server, disk).await? {
        return Err(error);
    }
    let remote = open_disk(server, disk).await?;
    let mut progress = Progress::new("copy", None, print);
    let tell = |done| progress.tell(done);
    let copied = copy_stream(tokio::io::stdin(), remote.clone(), Cancelled::default(), tell).await;
    progress.end();
    copied?;
    remote.disconnect().await;
    Ok(())
}

/// Returns the error that there is no such disk, if there is none.
async fn missing(server: &Server, disk: &str) -> anyhow::Result<Option<anyhow::Error>> {
    match server.get(&path(disk, "")).await {
        Ok(_) => Ok(None),
        Err(error) => match error.downcast_ref::<Refused>().map(|refused| refused.status) {
            Some(NOT_FOUND) => Ok(Some(error)),
            _ => Err(error),
        },
    }
}

/// Opens a disk of a server.
pub(crate) async fn open_disk(server: &Server, disk: &str) -> anyhow::Result<Arc<Remote>> {
    let (reader, writer) = server.upgrade(&path(disk, "/nbd"), "nbd").await?;
    Remote::connect(reader, writer, disk).await.context("open the disk")
}

/// Prints a line about the progress.
pub(crate) fn print(line: fmt::Arguments<'_>) {
    // Nobody can be told if stderr is closed.
    let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("memnbd: {line}\n"));
}
