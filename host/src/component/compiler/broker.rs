//! A process that starts compilers for one that is confined and cannot start processes itself.
//!
//! It is the same program, started before its parent is confined, and ends with it. The parent sends
//! it an order with the files of a compiler, and one end of a socket for the answer: how the compiler
//! ended. So all that whoever takes over the parent can do here is to have WebAssembly compiled, by
//! processes that confine themselves before they read it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg, send, sendmsg,
    socketpair,
};

use super::super::cache::Cache;
use super::AT_ONCE;
use super::child::Order;
use super::process;

/// The first argument of a broker. No option or parameter is spelled like this.
pub(super) const WORD: &str = "--memnbd-compile-broker";

/// The length of the longest order, in bytes.
const MAX_ORDER: usize = 1024;

/// The files of an order: stdin, stdout and stderr of the compiler, and the socket for the answer.
const FILES: usize = 4;

/// How many compilers a broker runs at a time. The parent asks for fewer.
const MAX_COMPILERS: usize = 4 * AT_ONCE;

/// A handle to the process, which ends when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Broker(Arc<OwnedFd>);

impl Broker {
    /// Starts the process, as a user and a group if they are to be others than those of this process. If the
    /// directory of a `cache` is given and is not there yet, it makes that first, because this process may
    /// not be able to later.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be started.
    pub fn start(user: Option<u32>, group: Option<u32>, cache: Option<&Path>) -> io::Result<Self> {
        let (ours, its) = pair()?;
        let cache = cache.filter(|cache| !cache.exists());
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0(env!("CARGO_PKG_NAME"))
            .arg(WORD)
            .args(cache)
            .env_clear()
            .current_dir("/")
            // Ctrl-C is meant for the server.
            .process_group(0)
            .stdin(Stdio::from(its))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        group.map(|group| command.gid(group));
        user.map(|user| command.uid(user));
        // It ends by itself, and its status says nothing.
        command.spawn()?;
        // The other end of the socket is the child's alone, so this does not wait for one that has ended.
        drop(command);
        if cache.is_some() {
            recv(&ours, &mut [0], RecvFlags::empty())?;
        }
        Ok(Self(Arc::new(ours)))
    }

    /// Has a compiler run, and returns how it ended, or `None` if it was killed because it took too
    /// long.
    pub(super) fn run(
        &self,
        order: &Order,
        files: [&File; FILES - 1],
    ) -> io::Result<Option<ExitStatus>> {
        let (answers, its) = pair()?;
        let order = order.to_string();
        let [input, output, words] = files.map(AsFd::as_fd);
        let files = [input, output, words, its.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        if !rights.push(SendAncillaryMessage::ScmRights(&files)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let flags = SendFlags::NOSIGNAL;
        sendmsg(&*self.0, &[IoSlice::new(order.as_bytes())], &mut rights, flags)?;
        drop(its);
        let mut answer = [0; 8];
        match recv(&answers, &mut answer, RecvFlags::empty())?.1 {
            8 => Answer::from_bytes(answer).into_result(),
            _ => Err(io::Error::other("the process that starts compilers has ended")),
        }
    }
}

fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    Ok(socketpair(AddressFamily::UNIX, kind, flags, None)?)
}

/// How a compiler ended.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// With this status, as wait(2) has it.
    Ended(i32),
    /// It was killed because it took too long.
    TookTooLong,
    /// It could not be started or watched, for the reason of this error code.
    Failed(i32),
}

impl Answer {
    fn of(result: io::Result<Option<ExitStatus>>) -> Self {
        match result {
            Ok(Some(status)) => Self::Ended(status.into_raw()),
            Ok(None) => Self::TookTooLong,
            Err(error) => Self::Failed(error.raw_os_error().unwrap_or_default()),
        }
    }

    fn into_result(self) -> io::Result<Option<ExitStatus>> {
        match self {
            Self::Ended(status) => Ok(Some(ExitStatus::from_raw(status))),
            Self::TookTooLong => Ok(None),
            Self::Failed(0) => Err(io::Error::other("the order was refused")),
            Self::Failed(code) => Err(io::Error::from_raw_os_error(code)),
        }
    }

    fn to_bytes(&self) -> [u8; 8] {
        let (kind, value) = match *self {
            Self::Ended(status) => (0, status),
            Self::TookTooLong => (1, 0),
            Self::Failed(code) => (2, code),
        };
        (u64::from(value.cast_unsigned()) << 32 | kind).to_le_bytes()
    }

    fn from_bytes(bytes: [u8; 8]) -> Self {
        let number = u64::from_le_bytes(bytes);
        let value = ((number >> 32) as u32).cast_signed();
        match number as u32 {
            0 => Self::Ended(value),
            1 => Self::TookTooLong,
            _ => Self::Failed(value),
        }
    }
}

/// Starts compilers until the parent is gone. The remaining arguments are the directory to make, if there
/// is one.
pub(super) fn main(mut arguments: impl Iterator<Item = OsString>) -> io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    let orders = io::stdin();
    if let Some(cache) = arguments.next() {
        Cache::make(cache.as_ref());
        send(&orders, &[0], SendFlags::NOSIGNAL)?;
    }
    // Each compiler has a clone.
    let running = Arc::new(());
    loop {
        let (text, files) = match receive(&orders) {
            Ok(Some(received)) => received,
            Ok(None) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        // What is dropped here is refused: the parent finds the socket for the answer closed.
        let Ok([input, output, words, answers]) = <[OwnedFd; FILES]>::try_from(files) else {
            continue;
        };
        let Some(order) = Order::parse(&text) else { continue };
        if Arc::strong_count(&running) > MAX_COMPILERS {
            continue;
        }
        let running = running.clone();
        let run = move || {
            let files = [input, output, words].map(Stdio::from);
            let answer = Answer::of(process::run_child(&order, files, Some(&answers)));
            drop(running);
            // The parent may have ended.
            let _ = send(&answers, &answer.to_bytes(), SendFlags::NOSIGNAL);
        };
        // Each on a thread of its own, because the kernel kills a compiler when the thread that
        // started it ends. If there can be no thread, the order is refused as well.
        let _ = thread::Builder::new().spawn(run);
    }
}

/// Receives an order with its files, or `None` if the parent has ended.
fn receive(orders: impl AsFd) -> io::Result<Option<(String, Vec<OwnedFd>)>> {
    let mut text = [0; MAX_ORDER];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let places = &mut [IoSliceMut::new(&mut text)];
    let received = recvmsg(orders, places, &mut rights, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes == 0 {
        return Ok(None);
    }
    let of_message = |message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    };
    let files = rights.drain().filter_map(of_message).flatten().collect();
    Ok(Some((String::from_utf8_lossy(&text[..received.bytes]).into_owned(), files)))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn answers_are_understood_as_they_are_given() {
        let failed = Answer::Failed(rustix::io::Errno::AGAIN.raw_os_error());
        for answer in [Answer::Ended(0), Answer::Ended(-1), Answer::TookTooLong, failed] {
            assert_eq!(Answer::from_bytes(answer.to_bytes()), answer);
        }
    }

    #[test]
    fn files_arrive_with_their_order() {
        let (ours, its) = pair().unwrap();
        let (mut kept, sent) = UnixStream::pair().unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        let files = [sent.as_fd()];
        assert!(rights.push(SendAncillaryMessage::ScmRights(&files)));
        sendmsg(&ours, &[IoSlice::new(b"order")], &mut rights, SendFlags::empty()).unwrap();
        let (text, files) = receive(&its).unwrap().unwrap();
        assert_eq!((text.as_str(), files.len()), ("order", 1));
        drop((files, sent));
        assert_eq!(kept.read(&mut [0]).unwrap(), 0, "the file that was sent is open elsewhere");
        drop(ours);
        assert!(receive(&its).unwrap().is_none());
    }
}
