//! Components that cannot be started or opened, or not twice in the same way.

use std::thread;
use std::time::{Duration, Instant};

use super::tenants::{LONG, MIB, Tenants, block};
use crate::wire::numbers::cmd;

const LOOP: &str = "(call $loop-forever) (unreachable)";
const TRAP: &str = "(unreachable)";
const GROW: &str =
    "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) (unreachable)";

/// Bodies of functions that are called before a disk is open, by the names of their exports.
fn failing() -> Vec<(String, String)> {
    let mut failing = Vec::new();
    for part in ["start", "describe", "open"] {
        for (how, body) in [("loops", LOOP), ("traps", TRAP), ("grows", GROW)] {
            // `start` is before the function in the text, and it has no result.
            let body =
                if part == "start" { body.replace("(unreachable)", "") } else { body.into() };
            let body = if part == "start" && how == "traps" { TRAP.into() } else { body };
            failing.push((format!("{part}-{how}"), block(part, &body)));
        }
    }
    failing.retain(|(name, _)| name != "start-grows");
    failing
}

#[test]
fn components_that_fail_before_they_are_open_stop_nobody() {
    let failing = failing();
    let overlays: Vec<[&str; 1]> = failing.iter().map(|(_, text)| [text.as_str()]).collect();
    let components: Vec<(&str, &[&str])> = failing
        .iter()
        .zip(&overlays)
        .map(|((name, _), overlay)| (name.as_str(), &overlay[..]))
        .collect();
    let start = Instant::now();
    let tenants = Tenants::with_components(&components, &["--deadline", "1"]);
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    let attack = || {
        thread::scope(|scope| {
            for (name, _) in &failing {
                let tenants = &tenants;
                scope.spawn(move || {
                    let refusal = tenants.refusal(name);
                    assert!(!refusal.is_empty(), "{name}");
                });
            }
        });
    };
    tenants.during(LONG, attack);
    let log = tenants.server.log().join("\n");
    for (name, _) in &failing {
        assert!(log.contains(name), "{name} is not in the log");
    }
}

/// A second instance of a disk would open one of another size: the first one does all the work.
#[test]
fn a_component_that_opens_another_disk_the_second_time_harms_nobody() {
    let tenants = Tenants::with_component(&["differs"], &[]);
    let attack = || {
        let errors: Vec<u32> = thread::scope(|scope| {
            let client = || tenants.attacker().ask(0, cmd::READ, 0, 4096);
            let clients: Vec<_> = (0..8).map(|_| scope.spawn(client)).collect();
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        assert_eq!(errors, [0; 8]);
    };
    tenants.during(LONG, attack);
    assert_eq!(tenants.attacker().ask(0, cmd::READ, MIB / 2, 4096), 0);
}
