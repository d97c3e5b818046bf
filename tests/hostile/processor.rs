//! Components that compute without end, nearly without end, or in one piece.

use std::thread;
use std::time::{Duration, Instant};

use super::tenants::{LONG, MIB, Tenants, block};
use crate::wire::numbers::{cmd, errno};
use crate::wire::session::Session;

const SECOND: Duration = Duration::from_secs(1);

/// Does as many clients ask the attacker's disk at the same time, each the next request when the last
/// one was answered, until `time` is over or one of them fails. Returns the errors.
fn keep_asking(
    tenants: &Tenants,
    clients: usize,
    time: Duration,
    ask: impl Fn(&mut Session) -> u32 + Sync,
) -> Vec<u32> {
    let end = Instant::now() + time;
    thread::scope(|scope| {
        let client = || {
            let mut session = tenants.attacker();
            session.stream.set_timeout(Some(4 * time + 30 * SECOND));
            loop {
                let error = ask(&mut session);
                if error != 0 || Instant::now() > end {
                    return error;
                }
            }
        };
        let running: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        running.into_iter().map(|client| client.join().expect("it is answered")).collect()
    })
}

/// The offset at which a read of the component `compute` takes about so long.
fn computing_for(session: &mut Session, time: Duration) -> u64 {
    let steps = 200;
    let start = Instant::now();
    session.read(steps * 4096, 4096);
    let scale = time.as_secs_f64() / start.elapsed().as_secs_f64();
    ((steps as f64 * scale) as u64).max(1) * 4096
}

/// Computing nearly as long as the deadline allows is allowed; it delays nobody else, and it is no
/// fault of the component that many clients want it at once.
fn compute_with(clients: usize) {
    let tenants = Tenants::with_component(&["interchangeable", "compute"], &["--deadline", "2"]);
    let offset = computing_for(&mut tenants.attacker(), SECOND / 2);
    let ask = |session: &mut Session| session.ask(0, cmd::READ, offset, 4096);
    let attack = || keep_asking(&tenants, clients, 5 * SECOND, ask);
    let (errors, neighbour) = tenants.during(LONG, attack);
    assert!(neighbour.median < SECOND / 20, "{neighbour:?}");
    assert!(neighbour.reads > 500, "{neighbour:?}");
    assert_eq!(errors, vec![0; clients], "each call took a quarter of the deadline");
}

#[test]
fn computing_for_six_clients_delays_nobody_else() {
    compute_with(6);
}

#[test]
fn computing_for_sixteen_clients_delays_nobody_else() {
    compute_with(16);
}

/// An attack by one read that never ends well, by several clients of an interchangeable disk: the disk
/// dies in time, and nobody else is delayed.
fn never_ending(overlays: &[&str], clients: usize) {
    let overlays = [&["interchangeable"], overlays].concat();
    let tenants = Tenants::with_component(&overlays, &["--deadline", "1"]);
    let ask = |session: &mut Session| session.ask(0, cmd::READ, 2 * MIB, 4096);
    let start = Instant::now();
    let (errors, neighbour) =
        tenants.during(LONG, || keep_asking(&tenants, clients, 30 * SECOND, ask));
    assert_eq!(errors, vec![errno::EIO; clients]);
    assert!(neighbour.median < SECOND / 20, "{neighbour:?}");
    assert!(start.elapsed() < 30 * SECOND, "{:?}", start.elapsed());
    assert_eq!(tenants.attacker().ask(0, cmd::READ, 0, 4096), errno::EIO, "it stays dead");
}

#[test]
fn loops_end_at_the_deadline() {
    never_ending(&[&block("read", "(call $loop-forever) (unreachable)")], 8);
}

#[test]
fn filling_much_memory_at_once_delays_nobody_else() {
    never_ending(&["fill", &half_a_gigabyte()], 6);
}

#[test]
fn moving_much_memory_at_once_delays_nobody_else() {
    never_ending(&["copy", &half_a_gigabyte()], 6);
}

/// Of the components that ask for more: there are several instances.
fn half_a_gigabyte() -> String {
    block("fields", "(global $pages i32 (i32.const 8192))")
}

#[test]
fn random_bytes_without_end_delay_nobody_else() {
    never_ending(&["random"], 4);
}

/// Time in which the process did not run does not count.
#[test]
fn a_process_that_was_stopped_loses_no_disk() {
    let tenants = Tenants::with_component(&["compute"], &["--deadline", "1"]);
    let mut session = tenants.attacker();
    let offset = computing_for(&mut session, SECOND * 2 / 5);
    for _ in 0..2 {
        let request = session.request(0, cmd::READ, offset, 4096);
        session.send(request, b"");
        thread::sleep(SECOND / 10);
        tenants.pause(3 * SECOND);
        session.receive().1.success();
    }
    assert_eq!(session.ask(0, cmd::READ, 2 * MIB, 4096), 0);
    tenants.expect_neighbour_intact();
}
