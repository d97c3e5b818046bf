//! Devices over real files, in a temporary directory.

mod extents;
mod loop_device;
mod model;
mod opening;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::super::tests::Requests;
use super::{Access, FileDevice, FileOptions, MAX_BLOCKING, OpenError, PageCache, Source};
use crate::block::{Command, Error, ErrorCode, Extent, MAX_TRANSFER, Span};
use crate::device::{Answer, Buffers, Cancelled, Device, Order, Outcome};

const MIB: u64 = 1 << 20;

/// A client of a device.
#[derive(Clone)]
struct Client(Arc<FileDevice>);

fn options(source: Source) -> FileOptions {
    FileOptions {
        source,
        export_name: "export".into(),
        read_only: false,
        access: Access::Normal,
        page_cache: PageCache::Default,
        buffers: Buffers::own(u64::from(MAX_TRANSFER)),
    }
}

/// A file without a name, of `size` zeroes.
fn file_of(size: u64) -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(size).unwrap();
    file
}

/// A device over another descriptor of `file`.
fn client_of(file: &File) -> Client {
    Client::open(options(Source::Descriptor(another(file)))).unwrap()
}

fn another(file: &File) -> OwnedFd {
    file.try_clone().unwrap().into()
}

fn code(outcome: Result<(), Error>) -> Result<(), ErrorCode> {
    outcome.map_err(|error| error.code)
}

impl Client {
    fn open(options: FileOptions) -> Result<Self, OpenError> {
        FileDevice::open(options).map(Arc::new).map(Self)
    }

    async fn execute_until(
        &self,
        cancelled: Cancelled,
        command: Command,
        payload: Vec<u8>,
    ) -> Outcome {
        let order = Order::new(command, payload.into(), cancelled);
        self.0.clone().execute(order, None).await
    }

    /// Reads for a socket. Returns whether the content is in pipes.
    async fn is_piped(&self, offset: u64, length: u64) -> Result<bool, Error> {
        let command = Command::Read { span: Span { offset, length } };
        let order = Order::new(command, Default::default(), Cancelled::default());
        let answer = self.0.clone().execute(Order { to_socket: true, ..order }, None).await?;
        Ok(matches!(answer, Answer::Piped(_)))
    }

    async fn zero(&self, span: Span, fua: bool, keep: bool, fast: bool) -> Result<(), Error> {
        let zero = Command::Zero { span, fua, keep_allocated: keep, fast };
        self.execute(zero, Vec::new()).await.map(drop)
    }

    async fn trim(&self, span: Span, fua: bool) -> Result<(), Error> {
        self.execute(Command::Trim { span, fua }, Vec::new()).await.map(drop)
    }

    async fn cache(&self, span: Span) -> Result<(), Error> {
        self.execute(Command::Cache { span }, Vec::new()).await.map(drop)
    }

    async fn extents(&self, span: Span, limit: usize) -> Result<Vec<Extent>, Error> {
        match self.execute(Command::Extents { span, limit }, Vec::new()).await? {
            Answer::Extents(extents) => Ok(extents.as_slice().to_vec()),
            _ => panic!("extents answer with extents"),
        }
    }
}

impl Requests for Client {
    type Error = Error;

    async fn execute(&self, command: Command, payload: Vec<u8>) -> Outcome {
        self.execute_until(Cancelled::default(), command, payload).await
    }
}

#[tokio::test]
async fn reads_of_the_page_cache_are_ready_at_once() {
    let file = file_of(MIB);
    let client = client_of(&file);
    client.write(0, &[7; 4096], false).await.unwrap();
    // All permits are taken, so what blocks would wait for ever.
    let permits = client.0.blocking.acquire_many(MAX_BLOCKING as u32).await.unwrap();
    let span = Span { offset: 0, length: 4096 };
    match client.0.file.read_now(span) {
        Some(_) => assert_eq!(client.read(0, 4096).await.unwrap(), [7; 4096]),
        None => eprintln!("skipped: the temporary directory's file system has no RWF_NOWAIT"),
    }
    drop(permits);
}

#[tokio::test]
async fn page_cache_is_left_to_others() {
    let file = file_of(MIB);
    let source = Source::Descriptor(another(&file));
    let client =
        Client::open(FileOptions { page_cache: PageCache::None, ..options(source) }).unwrap();
    let other = client_of(&file);
    let is_cached = || other.0.file.read_now(Span { offset: 0, length: 65536 }).is_some();
    other.write(0, &[7; 65536], true).await.unwrap();
    if !is_cached() {
        return eprintln!("skipped: the temporary directory's file system has no RWF_NOWAIT");
    }
    assert_eq!(client.read(0, 65536).await.unwrap(), [7; 65536]);
    assert!(!is_cached(), "it was read");
    client.write(0, &[8; 65536], true).await.unwrap();
    assert!(!is_cached(), "it was written durably");
    client.write(0, &[9; 65536], false).await.unwrap();
    client.flush().await.unwrap();
    assert!(!is_cached(), "it was written and flushed");
    assert_eq!(client.read(0, 65536).await.unwrap(), [9; 65536]);
}

#[tokio::test]
async fn truncated_file_fails_reads_past_its_end() {
    let file = file_of(MIB);
    let client = client_of(&file);
    client.write(0, &[1; 1 << 20], false).await.unwrap();
    file.set_len(5000).unwrap();
    assert_eq!(client.read(0, 5000).await.unwrap(), [1; 5000]);
    for (offset, length) in [(4999, 2), (5000, 1), (0, MIB), (MIB - 1, 1)] {
        let error = client.read(offset, length).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Io);
        assert!(error.message.unwrap().ends_with("the file has become shorter than the disk"));
    }
    let extents = client.extents(Span { offset: 0, length: MIB }, 10).await.unwrap();
    let past_end = extents.last().unwrap();
    assert!(!past_end.status.zero, "clients rely on {extents:?}");
    // The file grows again.
    client.write(MIB - 1, &[2], true).await.unwrap();
    assert_eq!(client.read(MIB - 2, 2).await.unwrap(), [0, 2]);
    assert_eq!(client.0.geometry().size, MIB);
}

#[tokio::test]
async fn requests_of_a_client_that_has_gone_away_end_early() {
    let client = client_of(&file_of(MIB));
    client.0.file.punch.exclude();
    client.0.file.zero_range.exclude();
    client.0.file.read_now.exclude();
    client.write(0, &[1; 4096], false).await.unwrap();
    let cancelled = Cancelled::default();
    cancelled.cancel();
    let span = Span { offset: 0, length: 4096 };
    let read =
        client.execute_until(cancelled.clone(), Command::Read { span }, Vec::new()).await.err();
    assert_eq!(read.unwrap().code, ErrorCode::Shutdown);
    let zero = Command::Zero { span, fua: false, keep_allocated: false, fast: false };
    client.execute_until(cancelled.clone(), zero, Vec::new()).await.unwrap();
    assert_eq!(client.read(0, 4096).await.unwrap(), [1; 4096], "nothing more was written");
    let write = Command::Write { span, fua: false };
    client.execute_until(cancelled, write, vec![2; 4096]).await.unwrap();
    assert_eq!(client.read(0, 4096).await.unwrap(), [2; 4096], "what was sent is written");
}

#[tokio::test]
async fn only_slow_zeroes_are_written() {
    let client = client_of(&file_of(MIB));
    client.write(0, &[1; 4096], false).await.unwrap();
    client.0.file.punch.exclude();
    client.0.file.zero_range.exclude();
    let span = Span { offset: 1, length: 4000 };
    assert_eq!(code(client.zero(span, false, false, true).await), Err(ErrorCode::NotSup));
    assert_eq!(client.read(0, 4096).await.unwrap(), [1; 4096]);
    client.zero(span, true, false, false).await.unwrap();
    let read = client.read(0, 4096).await.unwrap();
    assert_eq!((read[0], &read[1..4001], read[4001]), (1, [0; 4000].as_slice(), 1));
    client.trim(span, true).await.unwrap();
}

#[tokio::test]
async fn what_would_take_years_to_zero_is_refused() {
    let client = client_of(&file_of(1 << 40));
    client.0.file.punch.exclude();
    client.0.file.zero_range.exclude();
    let span = Span { offset: 0, length: 1 << 40 };
    assert_eq!(code(client.zero(span, false, false, false).await), Err(ErrorCode::Overflow));
}

#[tokio::test]
async fn after_a_failed_flush_all_fail() {
    let client = client_of(&file_of(MIB));
    client.flush().await.unwrap();
    client.0.file.fail_flushes();
    assert_eq!(code(client.flush().await), Err(ErrorCode::Io));
    assert_eq!(code(client.flush().await), Err(ErrorCode::Io));
    let span = Span { offset: 0, length: 4096 };
    assert_eq!(code(client.zero(span, true, false, false).await), Err(ErrorCode::Io));
    client.write(0, &[1; 4096], true).await.unwrap();
    assert!(client.0.clone().last_flush().await.is_err());
}

#[tokio::test]
async fn errors_name_the_call_and_no_path() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    std::fs::write(&path, [0; 4096]).unwrap();
    let read_only = FileOptions { read_only: true, ..options(Source::Path(path)) };
    let client = Client::open(read_only).unwrap();
    // The device is read-only, so that this never reaches it otherwise.
    let error = client.write(512, &[1; 512], false).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Io);
    let message = error.message.unwrap();
    assert!(message.starts_with("write(512, 512): "), "{message}");
    assert!(!message.contains("secret"));
}

#[tokio::test]
async fn writing_to_a_full_file_system_is_enospc() {
    let Some(mount) = Mount::tmpfs("size=1m") else {
        return eprintln!("skipped: tmpfs cannot be mounted");
    };
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(mount.path().join("disk"))
        .unwrap();
    file.set_len(4 * MIB).unwrap();
    let client = client_of(&file);
    for fua in [false, true] {
        let written = client.write(0, &vec![1; 2 << 20], fua).await;
        assert_eq!(code(written), Err(ErrorCode::NoSpc));
    }
    client.flush().await.expect("the writes failed, and no flush did");
    client.trim(Span { offset: 0, length: 4 * MIB }, false).await.unwrap();
    client.write(0, &[1; 4096], true).await.unwrap();
}

/// A mounted file system, unmounted when dropped.
struct Mount(tempfile::TempDir);

impl Mount {
    /// Mounts a tmpfs; `None` if that is not permitted.
    fn tmpfs(options: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "memnbd-test"])
            .arg(directory.path())
            .output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self(directory))
    }

    fn path(&self) -> &std::path::Path {
        self.0.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily, for files of it may still be open.
        let _ = std::process::Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

#[tokio::test]
async fn long_reads_for_sockets_are_piped_unless_the_page_cache_is_not_used() {
    let file = file_of(4 * MIB);
    let client = client_of(&file);
    for (length, expected) in [(4096, false), (MIB, true), (4 * MIB, true)] {
        assert_eq!(client.is_piped(0, length).await, Ok(expected), "{length}");
    }
    let source = Source::Descriptor(another(&file));
    let uncached = FileOptions { page_cache: PageCache::None, ..options(source) };
    assert_eq!(Client::open(uncached).unwrap().is_piped(0, MIB).await, Ok(false));
    file.set_len(MIB).unwrap();
    let error = client.is_piped(0, 2 * MIB).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Io);
    assert!(error.message.unwrap().contains("the file has become shorter than the disk"));
}
