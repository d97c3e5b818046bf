//! The command `save`: writes the content of a disk to a file.

use std::collections::VecDeque;
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use clap::ValueEnum;
use memnbd::block::{Command, Error, Span};
use memnbd::device::file::{FileDevice, FileOptions, Source};
use memnbd::device::{Answer, Buffers, Cancelled, Chunks, CopyError, Device, Order, copy};
use memnbd::remote::Remote;
use tempfile::NamedTempFile;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use crate::http::Server;
use crate::progress::Progress;
use crate::qcow2::{CLUSTER, Content, Writer, compress};
use crate::transfer::{open_disk, print};

/// The length of a piece, in bytes: a multiple of a cluster.
const PIECE: u64 = 1 << 20;

/// The number of pieces that are read and compressed at a time.
const IN_FLIGHT: usize = 8;

/// The maximum number of extents in an answer.
const EXTENTS: usize = 1024;

/// The memory for payloads of the file, in bytes.
const BUFFERS: u64 = 64 << 20;

/// The format of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SaveFormat {
    /// The bytes of the disk, with holes where it has holes
    Raw,
    /// QEMU's format
    Qcow2,
}

/// Writes a disk to a file, which has its name only when it is complete.
pub(crate) async fn save(
    server: &Server,
    disk: &str,
    file: &Path,
    format: SaveFormat,
    is_compressed: bool,
) -> anyhow::Result<()> {
    let mut ends = Vec::new();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        ends.push(signal(kind).context("handle signals")?);
    }
    let [mut interrupt, mut terminate, mut hangup] =
        <[_; 3]>::try_from(ends).map_err(|_| anyhow!("handle signals"))?;
    let what = || format!("save {disk:?} to {}; it was not written", file.display());
    // Whatever happens until it has its name, it is removed when this function returns.
    let temporary = create(file).with_context(what)?;
    let saved = tokio::select! {
        saved = write(server, disk, temporary.as_file(), format, is_compressed) => saved,
        _ = interrupt.recv() => Err(anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow!("terminated")),
        _ = hangup.recv() => Err(anyhow!("hung up")),
    };
    saved.with_context(what)?;
    temporary.persist(file).map_err(|error| error.error).with_context(what)?;
    let named = File::open(directory(file)).and_then(|directory| directory.sync_all());
    named.with_context(|| format!("bring the name {} to stable storage", file.display()))
}

/// Writes a disk to an empty file, and brings that to stable storage.
async fn write(
    server: &Server,
    disk: &str,
    file: &File,
    format: SaveFormat,
    is_compressed: bool,
) -> anyhow::Result<()> {
    let remote = open_disk(server, disk).await?;
    match format {
        SaveFormat::Raw => save_raw(&remote, file).await?,
        SaveFormat::Qcow2 => save_qcow2(&remote, file, is_compressed).await?,
    }
    remote.disconnect().await;
    let file = file.try_clone()?;
    let syncing = tokio::task::spawn_blocking(move || file.sync_all());
    syncing.await?.context("bring it to stable storage")
}

/// Creates a file of another name in the same directory.
fn create(file: &Path) -> anyhow::Result<NamedTempFile> {
    let name = file.file_name().context("the path has no name of a file")?;
    match std::fs::metadata(file) {
        Ok(found) if !found.is_file() => bail!("it is there and is not a regular file"),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        Ok(_) | Err(_) => {}
    }
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(name);
    prefix.push(".");
    let mut builder = tempfile::Builder::new();
    // Those of new files; the umask applies.
    let permissions = Permissions::from_mode(0o666);
    let builder = builder.prefix(&prefix).suffix(".part").permissions(permissions);
    Ok(builder.tempfile_in(directory(file))?)
}

/// Returns the directory of a file.
fn directory(file: &Path) -> &Path {
    match file.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

async fn save_raw(remote: &Arc<Remote>, file: &File) -> anyhow::Result<()> {
    let size = remote.geometry().size;
    file.set_len(size)?;
    let options = FileOptions {
        source: Source::Descriptor(file.try_clone()?.into()),
        export_name: "file".into(),
        read_only: false,
        access: Default::default(),
        page_cache: Default::default(),
        buffers: Buffers::own(BUFFERS),
    };
    let opening = tokio::task::spawn_blocking(move || FileDevice::open(options));
    let device = Arc::new(opening.await.context("open it")??);
    let mut progress = Progress::new("save", Some(size), print);
    let tell = |done| progress.tell(done);
    let copied = copy(remote.clone(), device, Cancelled::default(), tell).await;
    progress.end();
    copied.map_err(|error| match error {
        CopyError::Failed { of_source, operation, span, error } => {
            let (of, Span { offset, length }) = (if of_source { "disk" } else { "file" }, span);
            failed(&error).context(format!("{}({offset}, {length}) of the {of}", operation.name()))
        }
        other => other.into(),
    })
}

/// The content of a piece of the disk, cluster by cluster, without those that are zero.
type Piece = Vec<(u64, Content)>;

async fn save_qcow2(remote: &Arc<Remote>, file: &File, is_compressed: bool) -> anyhow::Result<()> {
    let size = remote.geometry().size;
    let mut pieces = Pieces {
        reading: VecDeque::new(),
        writer: Writer::new(file, size, is_compressed)?,
        progress: Progress::new("save", Some(size), print),
    };
    let mut left = Span { offset: 0, length: size };
    // What is before it is written, or under way.
    let mut next = 0;
    while left.length > 0 {
        let command = Command::Extents { span: left, limit: EXTENTS };
        let Answer::Extents(extents) = run(remote, command).await? else {
            bail!("the server told no extents");
        };
        for extent in extents.as_slice() {
            let here = Span { length: extent.length, ..left };
            left = left.after(extent.length);
            if extent.status.zero {
                continue;
            }
            let mut start = next.max(here.offset - here.offset % CLUSTER);
            next = here.end().next_multiple_of(CLUSTER).min(size);
            while start < next {
                let length = (PIECE - start % PIECE).min(next - start);
                let piece =
                    read_piece(remote.clone(), Span { offset: start, length }, is_compressed);
                start += length;
                pieces.reading.push_back((start, tokio::spawn(piece)));
                pieces.write(IN_FLIGHT - 1).await?;
            }
        }
    }
    pieces.write(0).await?;
    tokio::task::block_in_place(|| pieces.writer.finish()).context("write it")?;
    pieces.progress.end();
    Ok(())
}

/// Pieces that are read, and written in their order.
struct Pieces<'a> {
    /// Those that are being read, and where each ends.
    reading: VecDeque<(u64, JoinHandle<anyhow::Result<Piece>>)>,
    writer: Writer<'a>,
    progress: Progress,
}

impl Pieces<'_> {
    /// Writes the first pieces, until no more than these are left.
    async fn write(&mut self, most: usize) -> anyhow::Result<()> {
        while self.reading.len() > most
            && let Some((end, piece)) = self.reading.pop_front()
        {
            let piece = piece.await.context("read it")??;
            let written = tokio::task::block_in_place(|| {
                let mut parts = piece.iter();
                parts.try_for_each(|(offset, content)| self.writer.write(*offset, content))
            });
            written.context("write it")?;
            self.progress.tell(end);
        }
        Ok(())
    }
}

/// Reads a piece that begins with a cluster, and compresses its clusters.
async fn read_piece(remote: Arc<Remote>, span: Span, is_compressed: bool) -> anyhow::Result<Piece> {
    let Answer::Read(content) = run(&remote, Command::Read { span }).await? else {
        bail!("the disk was not read");
    };
    let mut bytes = Vec::with_capacity(span.length as usize);
    for chunk in content.chunks() {
        match chunk {
            memnbd::block::Chunk::Data(data) => bytes.extend_from_slice(data),
            memnbd::block::Chunk::Hole(length) => bytes.resize(bytes.len() + length as usize, 0),
        }
    }
    let dividing = tokio::task::spawn_blocking(move || divide(span.offset, &bytes, is_compressed));
    Ok(dividing.await?)
}

/// Divides the content of a disk, which begins with a cluster, into what is written of it.
fn divide(offset: u64, bytes: &[u8], is_compressed: bool) -> Piece {
    let mut piece: Piece = Vec::new();
    // Where the last content ends, if others can be appended to it.
    let mut open_end = None;
    for (offset, cluster) in
        (offset..).step_by(CLUSTER as usize).zip(bytes.chunks(CLUSTER as usize))
    {
        if cluster.iter().all(|&byte| byte == 0) {
            continue;
        }
        let end = offset + CLUSTER;
        let frame = if is_compressed { compress(cluster) } else { None };
        match (frame, piece.last_mut()) {
            (Some(frame), _) => {
                open_end = None;
                piece.push((offset, Content::Compressed(frame)));
            }
            (None, Some((_, Content::Plain(plain)))) if open_end == Some(offset) => {
                open_end = Some(end);
                plain.extend_from_slice(cluster);
            }
            (None, _) => {
                open_end = Some(end);
                piece.push((offset, Content::Plain(cluster.to_vec())));
            }
        }
    }
    piece
}

/// Executes a command of the disk.
async fn run(remote: &Arc<Remote>, command: Command) -> anyhow::Result<Answer> {
    let order = Order::new(command, bytes::Bytes::new(), Cancelled::default());
    let executed = remote.clone().execute(order, None).await;
    executed.map_err(|error| {
        let Span { offset, length } = command.span();
        let name = command.operation().name();
        failed(&error).context(format!("{name}({offset}, {length}) of the disk"))
    })
}

fn failed(error: &Error) -> anyhow::Error {
    match &error.message {
        Some(message) => anyhow!("{}: {message}", error.code),
        None => anyhow!("{}", error.code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_of_zeroes_are_left_out_and_neighbours_written_together() {
        let cluster = CLUSTER as usize;
        let mut bytes = vec![0; 5 * cluster + 10];
        bytes[cluster] = 1;
        bytes[3 * cluster - 1] = 1;
        bytes[5 * cluster + 9] = 1;
        let start = 7 * CLUSTER;
        let shown = |is_compressed| {
            let piece = divide(start, &bytes, is_compressed).into_iter();
            let shown = piece.map(|(offset, content)| match content {
                Content::Plain(bytes) => ((offset - start) / CLUSTER, Some(bytes.len())),
                Content::Compressed(_) => ((offset - start) / CLUSTER, None),
            });
            shown.collect::<Vec<_>>()
        };
        assert_eq!(shown(false), [(1, Some(2 * cluster)), (5, Some(10))]);
        assert_eq!(shown(true), [(1, None), (2, None), (5, None)]);
    }

    #[test]
    fn files_without_a_directory_are_in_the_present_one() {
        assert_eq!(directory(Path::new("a")), Path::new("."));
        assert_eq!(directory(Path::new("b/a")), Path::new("b"));
        assert_eq!(directory(Path::new("/a")), Path::new("/"));
    }
}
