//! Clients that ask for much with little, over and over, and clients that leave in the middle.

use std::io::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use openssl::ssl::SslVersion;
use tempfile::TempDir;

use super::tenants::{LONG, MIB, Tenants};
use crate::support::{memnbd, wait_until};
use crate::tls::client::{alice, write_keys};
use crate::wire::haggle::{info, option};
use crate::wire::numbers::{cmd, errno, opt, with};
use crate::wire::session::{Request, Session, compact};

const SECOND: Duration = Duration::from_secs(1);

/// What a group of clients may cost that does not amount to a crowd, in bytes.
const COST: u64 = 512 << 20;

#[test]
fn unread_answers_to_options_cost_little() {
    let tenants = Tenants::with_disk("1M", &[]);
    let before = tenants.server.resident();
    tenants.forget_peak();
    let flood = [option(opt::LIST, b""), option(opt::INFO, &info("a", &[]))].concat().repeat(2000);
    let attack = || {
        let mut clients = Vec::new();
        for _ in 0..200 {
            let mut haggle = tenants.haggle("a");
            haggle.stream.set_timeout(Some(SECOND / 50));
            let _ = haggle.stream.write_all(&flood);
            clients.push(haggle);
        }
        clients
    };
    tenants.during(LONG, attack);
    let cost = tenants.peak().saturating_sub(before);
    assert!(cost < COST, "{} MiB", cost >> 20);
}

#[test]
fn unread_replies_inside_tls_cost_little() {
    let directory = TempDir::new().unwrap();
    write_keys(directory.path());
    let mut command = memnbd(directory.path(), ["--listen", "unix:a.sock,export=a"]);
    command.args(["--tls-psk", "keys.psk", "--export", "a=memory,1T"]);
    let tenants = Tenants::spawn(directory, command);
    let before = tenants.server.resident();
    tenants.forget_peak();
    let read = Request { flags: 0, command: cmd::READ, cookie: 1, offset: 0, length: 64 << 20 };
    let attack = || {
        let mut clients = Vec::new();
        for _ in 0..100 {
            let haggle = tenants.haggle("a").start_tls(alice(SslVersion::TLS1_3));
            let mut session = haggle.go("a");
            session.stream.put(&compact(&read));
            clients.push(session);
            let cost = tenants.peak().saturating_sub(before);
            assert!(cost < COST, "{} clients cost {} MiB", clients.len(), cost >> 20);
        }
        thread::sleep(SECOND);
        clients
    };
    tenants.during(LONG, attack);
    let cost = tenants.peak().saturating_sub(before);
    assert!(cost < COST, "{} MiB", cost >> 20);
}

/// Each client keeps a request under way; they get no more threads than there may be.
#[test]
fn busy_clients_leave_time_for_the_neighbour() {
    let tenants = Tenants::with_disk("64M", &[]);
    let end = Instant::now() + 3 * SECOND;
    let attack = || {
        thread::scope(|scope| {
            for client in 0..100_u64 {
                let tenants = &tenants;
                scope.spawn(move || {
                    let mut session = tenants.attacker();
                    while Instant::now() < end {
                        session.write(client * 4096, &[1; 4096]);
                        session.read(client * 4096, 4096);
                    }
                });
            }
            thread::sleep(SECOND);
            let threads = tenants.server.threads();
            let most = 64 * thread::available_parallelism().map_or(1, usize::from);
            assert!(threads < most + 16, "{threads} threads");
        });
    };
    let (_, neighbour) = tenants.during(LONG, attack);
    assert!(neighbour.median < SECOND / 5, "{neighbour:?}");
}

/// A request of some bytes about exabytes: zeroes, trims and block status of a whole disk.
#[test]
fn requests_about_a_whole_huge_disk_delay_nobody_else() {
    let tenants = Tenants::with_disk("8191P", &["--max-memory", "2G"]);
    let mut writer = tenants.attacker();
    (0..64).for_each(|index| writer.write(index << 40, &[1; 4096]));
    let whole = 8191 << 50;
    let end = Instant::now() + 3 * SECOND;
    let attack = || {
        thread::scope(|scope| {
            for command in [cmd::WRITE_ZEROES, cmd::TRIM, cmd::BLOCK_STATUS, cmd::CACHE] {
                for flags in [0, with::NO_HOLE] {
                    let tenants = &tenants;
                    scope.spawn(move || {
                        let mut session = tenants.haggle("a").extended("a").go("a");
                        let flags = if command == cmd::WRITE_ZEROES { flags } else { 0 };
                        while Instant::now() < end {
                            let error = session.ask(flags, command, 0, whole);
                            let known = [0, errno::ENOSPC, errno::EINVAL, errno::EOVERFLOW];
                            assert!(known.contains(&error), "{command}: {error}");
                        }
                    });
                }
            }
        });
    };
    let (_, neighbour) = tenants.during(LONG, attack);
    assert!(neighbour.median < SECOND / 5, "{neighbour:?}");
}

/// What clients have asked for that vanish at once costs no more than what others ask for, and goes.
#[test]
fn clients_that_vanish_with_requests_in_flight_leave_nothing() {
    let tenants = Tenants::with_disk("1G", &[]);
    tenants.attacker().write(0, &vec![1; 32 * MIB as usize]);
    let before = tenants.server.resident();
    tenants.forget_peak();
    let fds = tenants.server.fds().len();
    let read = Request { flags: 0, command: cmd::READ, cookie: 1, offset: 0, length: 32 * MIB };
    let requests = compact(&read).repeat(4);
    let attack = || {
        for _ in 0..100 {
            let mut session: Session = tenants.attacker();
            session.stream.put(&requests);
        }
    };
    tenants.during(LONG, attack);
    let gone = wait_until(60 * SECOND, || tenants.server.fds().len() <= fds);
    assert!(gone, "{} file descriptors instead of {fds}", tenants.server.fds().len());
    let cost = tenants.peak().saturating_sub(before);
    assert!(cost < 2 * COST, "{} MiB", cost >> 20);
    tenants.expect_neighbour_intact();
}
