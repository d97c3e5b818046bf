//! Clients that do not read, do not finish, or come in masses.

use std::io::Write as _;
use std::time::Duration;

use super::tenants::{LONG, MIB, Tenants};
use crate::support::wait_until;
use crate::wire::numbers::cmd;
use crate::wire::session::{Request, Session, compact};

/// How many clients attack at once.
const CROWD: usize = 1100;

/// What all of them together may cost the server.
const COST: u64 = 1 << 30;

/// The options of a server that lets them all in.
const LET_IN: [&str; 2] = ["--max-connections", "4096"];

/// Lets a crowd of clients send requests of which they read no reply, while the neighbour is served.
fn never_read(tenants: &Tenants, connect: impl Fn() -> Session, requests: &[u8]) {
    let before = tenants.server.resident();
    tenants.forget_peak();
    let fds = tenants.server.fds().len();
    let attack = || {
        let mut clients = Vec::new();
        while clients.len() < CROWD {
            let mut session = connect();
            session.stream.set_timeout(Some(Duration::from_millis(20)));
            // The server need not take all of it.
            let _ = session.stream.write_all(requests);
            clients.push(session);
            // A server without a bound fails the test before it fails the machine.
            let cost = tenants.peak().saturating_sub(before);
            let count = clients.len();
            assert!(cost < COST, "{count} clients cost {} MiB", cost >> 20);
        }
        clients
    };
    let (clients, _) = tenants.during(LONG, attack);
    // The neighbour may have much in flight itself.
    let mut neighbour = tenants.haggle("b").go("b");
    neighbour.write(8 * MIB, &vec![3; 32 << 20]);
    assert!(neighbour.read(8 * MIB, 32 * MIB) == vec![3; 32 << 20]);
    let cost = tenants.peak().saturating_sub(before);
    eprintln!("{CROWD} clients cost {} MiB", cost >> 20);
    assert!(cost < COST, "{} MiB", cost >> 20);
    drop(clients);
    let gone = wait_until(Duration::from_secs(20), || tenants.server.fds().len() <= fds + 8);
    assert!(gone, "{} file descriptors are left", tenants.server.fds().len() - fds);
    tenants.expect_neighbour_intact();
}

/// The longest reads of a place, as many as `count`.
fn reads(offset: u64, length: u64, count: usize) -> Vec<u8> {
    compact(&Request { flags: 0, command: cmd::READ, cookie: 1, offset, length }).repeat(count)
}

#[test]
fn a_crowd_that_reads_no_holes_costs_little() {
    let tenants = Tenants::with_disk("1T", &LET_IN);
    let requests = reads(1 << 30, 64 << 20, 4);
    never_read(&tenants, || tenants.attacker(), &requests);
}

#[test]
fn a_crowd_that_reads_no_data_costs_little() {
    let tenants = Tenants::with_disk("1T", &LET_IN);
    let mut writer = tenants.attacker();
    for index in 0..64 {
        writer.write(index * MIB, &vec![index as u8 + 1; MIB as usize]);
    }
    never_read(&tenants, || tenants.attacker(), &reads(0, 64 << 20, 4));
}

#[test]
fn a_crowd_that_reads_nothing_of_a_component_costs_little() {
    // It gives holes and its one MiB of data as lists that the host copies.
    let tenants = Tenants::with_component(&[], &LET_IN);
    let requests = [reads(0, MIB, 8), reads(2 * MIB, 32 * MIB, 4)].concat();
    never_read(&tenants, || tenants.attacker(), &requests);
}

#[test]
fn a_crowd_that_reads_no_block_status_costs_little() {
    let tenants = Tenants::with_disk("1T", &LET_IN);
    let mut writer = tenants.attacker();
    // Every second page is data, so that a reply has thousands of extents.
    let page = vec![1; 32 << 10];
    for index in 0..2048 {
        let request = writer.request(0, cmd::WRITE, index * (64 << 10), 32 << 10);
        writer.send(request, &page);
    }
    while writer.outstanding() > 0 {
        writer.receive().1.success();
    }
    let request =
        Request { flags: 0, command: cmd::BLOCK_STATUS, cookie: 1, offset: 0, length: 128 << 20 };
    let connect = || tenants.haggle("a").structured("a").go("a");
    never_read(&tenants, connect, &compact(&request).repeat(200));
}

#[test]
fn a_crowd_of_half_sent_writes_costs_little() {
    for component in [true, false] {
        let tenants = match component {
            true => Tenants::with_component(&[], &LET_IN),
            false => Tenants::with_disk("1T", &LET_IN),
        };
        let before = tenants.server.resident();
        tenants.forget_peak();
        let attack = || {
            let mut clients = Vec::new();
            for _ in 0..50 {
                let mut session = tenants.attacker();
                session.stream.set_timeout(Some(Duration::from_millis(20)));
                let write = session.request(0, cmd::WRITE, 2 * MIB, 32 * MIB);
                let header = session.header(&write);
                session.stream.put(&header);
                // All but the end, or as much as the server takes.
                let _ = session.stream.write_all(&vec![2; (32 << 20) - 4096]);
                clients.push(session);
                let cost = tenants.peak().saturating_sub(before);
                assert!(cost < COST, "{} clients cost {} MiB", clients.len(), cost >> 20);
            }
            clients
        };
        let (clients, _) = tenants.during(LONG, attack);
        let mut neighbour = tenants.haggle("b").go("b");
        neighbour.write(8 * MIB, &vec![3; 32 << 20]);
        drop(clients);
        tenants.expect_neighbour_intact();
    }
}
