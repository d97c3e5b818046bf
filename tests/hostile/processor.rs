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

/// Loops in all functions at once, each of an export of its own.
#[test]
fn loops_in_any_function_end_at_the_deadline() {
    let forever = "(call $loop-forever) (unreachable)";
    let names = ["read", "write", "zero", "trim", "flush", "extents", "cache", "post-read"];
    let mut exports: Vec<(&str, String)> =
        names.iter().map(|&name| (name, block(name, forever))).collect();
    // Small arguments are for `open`.
    let realloc = "(if (i32.gt_u (local.get $size) (i32.const 100)) (then (loop (br 0))))
        (i32.const 0x110000)";
    exports.push(("realloc", block("realloc", realloc)));
    let overlays: Vec<[&str; 1]> = exports.iter().map(|(_, text)| [text.as_str()]).collect();
    let components: Vec<(&str, &[&str])> =
        exports.iter().zip(&overlays).map(|((name, _), overlay)| (*name, &overlay[..])).collect();
    let tenants = Tenants::with_components(&components, &["--deadline", "1"]);
    let attack = || {
        thread::scope(|scope| {
            for (name, _) in &exports {
                let tenants = &tenants;
                scope.spawn(move || {
                    let mut session = tenants.haggle("a").structured(name).go(name);
                    let (command, length) = match *name {
                        "read" | "post-read" => (cmd::READ, 4096),
                        "write" | "realloc" => (cmd::WRITE, 4096),
                        "zero" => (cmd::WRITE_ZEROES, 4096),
                        "trim" => (cmd::TRIM, 4096),
                        "flush" => (cmd::FLUSH, 0),
                        "extents" => (cmd::BLOCK_STATUS, 4096),
                        _ => (cmd::CACHE, 4096),
                    };
                    let payload = vec![1; if command == cmd::WRITE { 4096 } else { 0 }];
                    let outcome = session.call(0, command, 0, length, &payload);
                    assert_eq!(outcome.error, errno::EIO, "{name}");
                });
            }
        });
    };
    let (_, neighbour) = tenants.during(LONG, attack);
    assert!(neighbour.median < SECOND / 20, "{neighbour:?}");
}

#[test]
fn loops_of_many_clients_end_at_the_deadline() {
    never_ending(&[&block("read", "(call $loop-forever) (unreachable)")], 16);
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

/// Neither does time in which it did not run while a component waits.
#[test]
fn a_process_that_was_stopped_while_a_component_waits_loses_no_disk() {
    let tenants = Tenants::with_component(&["sleep", &size(1 << 40)], &["--deadline", "1"]);
    let mut session = tenants.attacker();
    let request = session.request(0, cmd::READ, 400_000_000, 4096);
    session.send(request, b"");
    thread::sleep(SECOND / 10);
    tenants.pause(3 * SECOND);
    session.receive().1.success();
    tenants.expect_neighbour_intact();
}

/// An exclusive disk of this size.
fn size(bytes: u64) -> String {
    let disk = format!(
        "(global $size i64 (i64.const {bytes}))
         (global $capabilities i32 (i32.const 475))
         (global $stripe i64 (i64.const 0))"
    );
    block("disk", &disk)
}

/// Sixteen calls that wait for an hour end at the deadline, and take nothing that others need.
#[test]
fn waiting_for_a_far_timer_ends_at_the_deadline() {
    let overlays = ["interchangeable", "sleep"];
    let tenants = Tenants::with_component(&overlays, &["--deadline", "1"]);
    let ask = |session: &mut Session| session.ask(0, cmd::READ, 1 << 39, 4096);
    let start = Instant::now();
    let (errors, neighbour) = tenants.during(LONG, || keep_asking(&tenants, 16, 10 * SECOND, ask));
    assert_eq!(errors, vec![errno::EIO; 16]);
    assert!(start.elapsed() < 20 * SECOND, "{:?}", start.elapsed());
    assert!(neighbour.median < SECOND / 20, "{neighbour:?}");
}

/// As many calls as a client may have in flight wait at the same time, each in an instance of its own.
#[test]
fn calls_that_wait_hold_up_no_others() {
    let tenants = Tenants::with_component(&["interchangeable", "sleep"], &["--deadline", "120"]);
    let mut session = tenants.attacker();
    for _ in 0..100 {
        let waits = session.request(0, cmd::READ, 1 << 39, 4096);
        session.send(waits, &[]);
    }
    let quick = session.request(0, cmd::READ, 0, 4096);
    let cookie = quick.cookie;
    session.send(quick, &[]);
    let (answered, _) = session.receive();
    assert_eq!(answered.cookie, cookie);
    assert_eq!(session.outstanding(), 100);
}

/// With and without calls of the host when there is hardly any stack left.
#[test]
fn recursion_ends_and_harms_only_its_disk() {
    let overlays: &[&str] = &["recursion"];
    let tenants = Tenants::with_components(&[("a", overlays), ("again", overlays)], &[]);
    let attack = || {
        assert_eq!(tenants.attacker().ask(0, cmd::READ, 0, 4096), errno::EIO);
        assert_eq!(tenants.attacker_of("again").ask(0, cmd::FLUSH, 0, 0), errno::EIO);
    };
    tenants.during(LONG, attack);
}

/// The log of one export is bounded, however many instances it has.
#[test]
fn printing_without_end_is_bounded_and_delays_nobody_else() {
    let tenants = Tenants::with_component(&["interchangeable", "print"], &["--deadline", "2"]);
    let ask = |session: &mut Session| session.ask(0, cmd::READ, 2 * MIB, 4096);
    let start = Instant::now();
    let (errors, neighbour) = tenants.during(LONG, || keep_asking(&tenants, 16, 20 * SECOND, ask));
    assert_eq!(errors, vec![errno::EIO; 16]);
    assert!(neighbour.median < SECOND / 20, "{neighbour:?}");
    let seconds = start.elapsed().as_secs() as usize;
    let lines = tenants.server.log().iter().filter(|line| line.contains("Shoard")).count();
    // 200 lines at once, and 50 in a second.
    assert!(lines < 400 + 60 * seconds, "{lines} lines in {seconds} s");
}
