//! Two tenants of one server, each with a socket that leads to its own export only.

use std::io::Read as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use memnbd_hostile::{assemble, overlay};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tempfile::TempDir;

use crate::support::{Server, memnbd};
use crate::wire::haggle::{FIXED_NEWSTYLE_NO_ZEROES, Haggle, info};
use crate::wire::numbers::{opt, rep};
use crate::wire::session::Session;
use crate::wire::stream::Stream;

pub(super) const MIB: u64 = 1 << 20;

/// How much of the neighbour's disk holds data that is compared.
const KEPT: u64 = 4 * MIB;

/// The longest that one request of the neighbour may take during an attack. Ordinary ones take
/// a thousandth of it, even on a busy machine.
pub(super) const LONG: Duration = Duration::from_secs(3);

/// Attacks take turns: each takes the whole machine.
static TURN: Mutex<()> = Mutex::new(());

/// A server with the exports `a` of the attacker and `b` of the neighbour, at the sockets `a.sock`
/// and `b.sock`. When it is dropped, the process must be alive and stop cleanly, and nothing in it
/// must have panicked.
pub(super) struct Tenants {
    pub(super) server: Server,
    _turn: MutexGuard<'static, ()>,
}

/// The neighbour's requests during an attack.
#[derive(Debug)]
pub(super) struct Neighbour {
    /// Reads that were answered.
    pub(super) reads: u32,
    /// The median time of a read.
    pub(super) median: Duration,
    /// The longest time of a read.
    pub(super) slowest_read: Duration,
    /// The longest time from connecting to the end of the handshake.
    pub(super) slowest_connect: Duration,
}

/// Replaces a block of the base with a text.
pub(super) fn block(name: &str, text: &str) -> String {
    format!(";; begin {name}\n{text}\n;; end {name}\n")
}

/// The component of these overlays, which are names of files or blocks.
pub(super) fn component(overlays: &[&str]) -> Vec<u8> {
    let text = |name: &&str| match name.contains('\n') {
        true => Ok((*name).to_owned()),
        false => overlay(name),
    };
    let overlays: Result<Vec<String>, String> = overlays.iter().map(text).collect();
    overlays.and_then(|overlays| assemble(&overlays)).unwrap_or_else(|error| panic!("{error}"))
}

impl Tenants {
    /// The attacker has a component of these overlays.
    pub(super) fn with_component(overlays: &[&str], options: &[&str]) -> Self {
        Self::with_components(&[("a", overlays)], options)
    }

    /// The attacker has several components, each under a name of its own, at the same socket.
    pub(super) fn with_components(components: &[(&str, &[&str])], options: &[&str]) -> Self {
        let directory = TempDir::new().expect("the directory for temporary files is writable");
        let mut command = memnbd(directory.path(), ["--listen", "unix:a.sock"]);
        command.args(options);
        for (name, overlays) in components {
            let path = directory.path().join(format!("{name}.wasm"));
            std::fs::write(path, component(overlays)).expect("the directory is writable");
            command.args(["--export", &format!("{name}=./{name}.wasm")]);
        }
        Self::spawn(directory, command)
    }

    /// The attacker has an ordinary disk of this size, and hostile clients.
    pub(super) fn with_disk(size: &str, options: &[&str]) -> Self {
        let directory = TempDir::new().expect("the directory for temporary files is writable");
        let mut command = memnbd(directory.path(), ["--listen", "unix:a.sock,export=a"]);
        command.args(options).args(["--export", &format!("a=memory,{size}")]);
        Self::spawn(directory, command)
    }

    /// Starts a command to which the neighbour is added.
    pub(super) fn spawn(directory: TempDir, mut command: Command) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        allow_many_files();
        command.args(["--export", "b=memory,64M", "--listen", "unix:b.sock,export=b"]);
        let mut server = Server::spawn(directory, &mut command);
        // What the log says of an attack is not looked at; panics are looked for in the end.
        server.allow_log("");
        let tenants = Self { server, _turn: turn };
        let mut neighbour = tenants.haggle("b").go("b");
        (0..KEPT / MIB).for_each(|index| neighbour.write(index * MIB, &kept(index)));
        neighbour.disconnect();
        tenants
    }

    /// A connection to a tenant's socket, greeted.
    pub(super) fn haggle(&self, tenant: &str) -> Haggle {
        let stream = self.stream(tenant);
        let mut haggle = Haggle::greeted(stream);
        haggle.stream.put(&FIXED_NEWSTYLE_NO_ZEROES.to_be_bytes());
        haggle
    }

    /// A connection to a tenant's socket on which nothing was read.
    pub(super) fn stream(&self, tenant: &str) -> Stream {
        Stream::connect_unix(&self.server.path(&format!("{tenant}.sock")))
    }

    /// A connection of the attacker, with simple replies.
    pub(super) fn attacker(&self) -> Session {
        self.attacker_of("a")
    }

    /// A connection to one of several disks of the attacker.
    pub(super) fn attacker_of(&self, export: &str) -> Session {
        self.haggle("a").go(export)
    }

    /// The text with which the server refuses one of the attacker's exports.
    pub(super) fn refusal(&self, export: &str) -> String {
        let answer = self.haggle("a").option(opt::GO, &info(export, &[]));
        assert_ne!(answer.end, rep::ACK, "{export} is served");
        answer.text
    }

    /// Runs an attack while the neighbour reads 4 KiB after the other and connects now and then. Each
    /// of its requests must succeed, and none takes longer than `longest`.
    pub(super) fn during<T>(
        &self,
        longest: Duration,
        attack: impl FnOnce() -> T,
    ) -> (T, Neighbour) {
        let over = AtomicBool::new(false);
        let (outcome, neighbour) = thread::scope(|scope| {
            let neighbour = scope.spawn(|| self.read_until(&over));
            let end = SetOnDrop(&over);
            let outcome = attack();
            drop(end);
            (outcome, neighbour.join().expect("the neighbour is served"))
        });
        eprintln!("the neighbour meanwhile: {neighbour:?}");
        assert!(neighbour.slowest_read < longest, "{neighbour:?}");
        assert!(neighbour.slowest_connect < longest, "{neighbour:?}");
        self.expect_neighbour_intact();
        (outcome, neighbour)
    }

    fn read_until(&self, over: &AtomicBool) -> Neighbour {
        let mut session = self.haggle("b").go("b");
        let expected = kept(0);
        let mut times = Vec::new();
        let mut slowest_connect = Duration::ZERO;
        let mut connected: Option<Instant> = None;
        while !over.load(Ordering::Relaxed) || times.is_empty() {
            let at = times.len() % (MIB as usize / 4096) * 4096;
            let start = Instant::now();
            let data = session.read(at as u64, 4096);
            times.push(start.elapsed());
            assert!(data == expected[at..at + 4096], "the neighbour's data changed at {at}");
            if connected.is_none_or(|last| last.elapsed() > Duration::from_millis(100)) {
                let start = Instant::now();
                connected = Some(start);
                self.haggle("b").go("b").disconnect();
                slowest_connect = slowest_connect.max(start.elapsed());
            }
        }
        times.sort_unstable();
        Neighbour {
            reads: times.len() as u32,
            median: times[times.len() / 2],
            slowest_read: *times.last().expect("there is one at least"),
            slowest_connect,
        }
    }

    /// The neighbour's data are what they were, and it can write.
    pub(super) fn expect_neighbour_intact(&self) {
        let mut neighbour = self.haggle("b").go("b");
        for index in 0..KEPT / MIB {
            let same = neighbour.read(index * MIB, MIB) == kept(index);
            assert!(same, "the neighbour's data changed in MiB {index}");
        }
        neighbour.write(KEPT, &[1; 4096]);
        assert_eq!(neighbour.read(KEPT, 4096), [1; 4096]);
        neighbour.zero(0, KEPT, 4096);
        neighbour.disconnect();
    }

    /// Has the kernel count the most memory that the process takes from now on.
    pub(super) fn forget_peak(&self) {
        let path = format!("/proc/{}/clear_refs", self.server.pid().as_raw_nonzero());
        std::fs::write(path, "5").expect("it is our child");
    }

    /// The most memory that the process had since then, in bytes.
    pub(super) fn peak(&self) -> u64 {
        let peak = self.server.status("VmHWM");
        let kib = peak.trim().strip_suffix(" kB").and_then(|kib| kib.parse::<u64>().ok());
        kib.expect("the kernel tells it in KiB") << 10
    }

    /// Stops the process for a while, as a debugger or a hypervisor does.
    pub(super) fn pause(&self, time: Duration) {
        self.server.signal(Signal::STOP);
        thread::sleep(time);
        self.server.signal(Signal::CONT);
    }
}

impl Drop for Tenants {
    fn drop(&mut self) {
        if !thread::panicking() {
            let log = self.server.log();
            let panics = log.iter().filter(|line| line.contains("panicked"));
            assert_eq!(panics.count(), 0, "{log:#?}");
        }
    }
}

/// Sets a flag however a scope ends.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What is kept in this MiB of the neighbour's disk.
fn kept(index: u64) -> Vec<u8> {
    (0..MIB / 8).flat_map(|word| (index * MIB + word * 8 + 1).to_be_bytes()).collect()
}

/// A thousand clients take a thousand file descriptors, here and in the server.
fn allow_many_files() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(8192, |maximum| maximum.min(8192));
    if current.is_some_and(|current| current < wanted) {
        let limit = Rlimit { current: Some(wanted), maximum };
        setrlimit(Resource::Nofile, limit).expect("it is below the maximum");
    }
}

/// Reads what comes and does not look at it, until the server hangs up or says nothing for a while.
pub(super) fn drain(stream: &mut Stream) {
    let mut buffer = vec![0; 1 << 16];
    while stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
}
