//! Components that want all memory, all addresses, or memory that is not theirs; and clients that
//! fill a disk.

use std::process::Command;
use std::thread;

use tempfile::TempDir;

use super::tenants::{LONG, MIB, Tenants, block, component};
use crate::support::memnbd;
use crate::wire::haggle::info;
use crate::wire::numbers::{cmd, errno, opt, with};
use crate::wire::session::Session;

/// Components whose memories wasmtime maps, and those whose memories the host maps.
const KINDS: [&[&str]; 2] = [&[], &["direct"]];

/// What a disk may cost beside what it was allowed, and the neighbour, in bytes.
const SLACK: u64 = 512 << 20;

/// More modules with a memory of one page each.
fn further_memories(count: usize) -> String {
    let instances = "(core instance (instantiate $one))\n".repeat(count);
    block("modules", &format!("(core module $one (memory 1))\n{instances}"))
}

#[test]
fn a_memory_of_4_gib_ends_where_it_ends() {
    for kind in KINDS {
        // What is reached for in the end kills the disk, so there are two.
        let overlays = [kind, &["limit32"]].concat();
        let components = [("a", &overlays[..]), ("again", &overlays[..])];
        let tenants = Tenants::with_components(&components, &["--max-memory", "5G"]);
        let attack = || {
            for (export, offset) in [("a", 0), ("again", 4096)] {
                let mut session = tenants.attacker_of(export);
                assert_eq!(session.ask(0, cmd::FLUSH, 0, 0), 0, "it may have 4 GiB");
                tenants.expect_neighbour_intact();
                assert_eq!(session.ask(0, cmd::CACHE, offset, 4096), errno::EIO);
            }
        };
        tenants.during(LONG, attack);
    }
}

#[test]
fn growth_without_end_stops_at_the_budget() {
    for kind in KINDS {
        let overlays = [kind, &["grow"]].concat();
        let mut tenants = Tenants::with_component(&overlays, &["--max-memory", "256M"]);
        // The last flush fails as the others do.
        tenants.server.expect_exit(1);
        let before = tenants.server.resident();
        tenants.forget_peak();
        let attack = || {
            let mut session = tenants.attacker();
            for _ in 0..3 {
                assert_eq!(session.ask(0, cmd::FLUSH, 0, 0), errno::ENOSPC);
            }
            assert_eq!(session.read(0, 4096), [0; 4096], "the disk goes on");
        };
        tenants.during(LONG, attack);
        let cost = tenants.peak() - before;
        assert!(cost < (256 << 20) + SLACK, "{} MiB", cost >> 20);
    }
}

/// All instances of a disk have one budget.
#[test]
fn growth_of_many_instances_stops_at_the_budget() {
    let read = "(local $at i32)
        (loop $more
          (local.set $at (memory.grow (i32.const 16)))
          (if (i32.ne (local.get $at) (i32.const -1)) (then
            (memory.fill (i32.shl (local.get $at) (i32.const 16)) (i32.const 1)
              (i32.const 0x100000))
            (br $more))))
        (call $hole (local.get $length))";
    let overlays = ["interchangeable", &block("read", read)];
    let tenants = Tenants::with_component(&overlays, &["--max-memory", "512M"]);
    let before = tenants.server.resident();
    tenants.forget_peak();
    let attack = || {
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut session = tenants.attacker();
                    (0..20).for_each(|_| drop(session.read(0, 4096)));
                });
            }
        });
    };
    tenants.during(LONG, attack);
    let cost = tenants.peak() - before;
    assert!(cost < (512 << 20) + SLACK, "{} MiB", cost >> 20);
}

#[test]
fn tables_are_bounded_whatever_memory_there_is() {
    let mut tenants = Tenants::with_component(&["table"], &["--deadline", "60"]);
    // The last flush fails as the others do.
    tenants.server.expect_exit(1);
    let before = tenants.server.resident();
    tenants.forget_peak();
    let (error, _) = tenants.during(LONG, || tenants.attacker().ask(0, cmd::FLUSH, 0, 0));
    assert_eq!(error, errno::ENOSPC);
    let cost = tenants.peak() - before;
    assert!(cost < SLACK, "{} MiB", cost >> 20);
}

/// Many tables, tables that are large from the beginning, and a memory that is.
#[test]
fn greed_at_the_start_is_refused_or_bounded() {
    let module = |fields: &str| {
        block("modules", &format!("(core module $m {fields}) (core instance (instantiate $m))"))
    };
    let many = module(&"(table 1000 funcref)".repeat(90));
    let too_many = module(&"(table 1 funcref)".repeat(99)).replace(
        "(core instance (instantiate $m))",
        &"(core instance (instantiate $m))\n".repeat(20),
    );
    let large = module("(table 1000000000 funcref)");
    let memory = module("(memory 65536)");
    let data =
        block("memory", "(memory (export \"memory\") 16384) (data (i32.const 0x3ffffff0) \"x\")");
    for overlays in
        [&[&many[..]][..], &[&too_many], &[&large], &[&memory], &[&data], &["direct", &memory]]
    {
        let tenants = Tenants::with_component(overlays, &[]);
        let cost = tenants.server.resident();
        assert!(cost < SLACK, "{} MiB", cost >> 20);
        tenants.during(LONG, || {
            // Served or refused: either is well.
            let answer = tenants.haggle("a").option(opt::GO, &info("a", &[]));
            eprintln!("{}", answer.text);
        });
    }
}

#[test]
fn a_ninth_memory_is_refused() {
    for kind in KINDS {
        let seven = further_memories(7);
        let overlays = [kind, &[&seven]].concat();
        let tenants = Tenants::with_component(&overlays, &[]);
        assert_eq!(tenants.attacker().read(0, 4096), [0; 4096], "eight are allowed");
        drop(tenants);
        let in_one = "(core module $m (memory 1) (memory 1) (memory 1) (memory 1) (memory 1)
            (memory 1) (memory 1) (memory 1)) (core instance (instantiate $m))";
        for more in [further_memories(8), block("modules", in_one)] {
            let overlays = [kind, &[&more]].concat();
            let tenants = Tenants::with_component(&overlays, &[]);
            let refusal = tenants.refusal("a");
            assert!(refusal.contains("memor"), "{refusal}");
            tenants.expect_neighbour_intact();
        }
        let overlays = [kind, &["memories"]].concat();
        let tenants = Tenants::with_component(&overlays, &[]);
        let refusal = tenants.refusal("a");
        assert!(refusal.contains("memor"), "{refusal}");
    }
}

/// Writes the first page of so many stripes; each succeeds or finds no space. Returns how many
/// succeeded.
fn write_stripes(session: &mut Session, count: u64) -> u64 {
    let mut written = 0;
    for stripe in 0..count {
        let data = [1; 4096];
        let error = session.call(0, cmd::WRITE, stripe << 16, 4096, &data).error;
        assert!([0, errno::ENOSPC].contains(&error), "error {error} in stripe {stripe}");
        written += u64::from(error == 0);
    }
    written
}

/// A budget that divides the disk among hundreds of instances, of eight memories each: the addresses
/// and mappings that this takes are the attacker's own.
#[test]
fn hundreds_of_instances_take_nothing_from_the_neighbour() {
    for kind in KINDS {
        let seven = further_memories(7);
        let overlays = [kind, &["striped", &seven]].concat();
        let tenants = Tenants::with_component(&overlays, &["--max-memory", "700G"]);
        let attack = || {
            let mut session = tenants.attacker();
            assert!(write_stripes(&mut session, 700) > 0);
            // All that was written is there, and all else can be read.
            session.read(0, 32 * MIB);
        };
        tenants.during(LONG, attack);
    }
}

/// The same with the addresses of the process limited: a further instance that cannot be had is no
/// disk that lost its data.
#[test]
fn an_instance_that_finds_no_addresses_refuses_writes_alone() {
    for kind in KINDS {
        let seven = further_memories(7);
        let overlays = [kind, &["striped", &seven]].concat();
        let (directory, command) = limited("-v 68000000", &overlays);
        let tenants = Tenants::spawn(directory, command);
        let attack = || {
            let mut session = tenants.attacker();
            let written = write_stripes(&mut session, 300);
            assert!(written > 0 && written < 300, "{written} of 300 were written");
            session.read(0, 4 * MIB);
            // What could be written before can be written still.
            assert_eq!(write_stripes(&mut session, 300), written);
        };
        tenants.during(LONG, attack);
    }
}

/// Without addresses for another instance, the first ones serve all clients.
#[test]
fn an_instance_that_finds_no_addresses_leaves_the_others_to_serve() {
    for kind in KINDS {
        let seven = further_memories(7);
        let overlays = [kind, &["interchangeable", "compute", &seven]].concat();
        let (directory, command) = limited("-v 68000000", &overlays);
        let tenants = Tenants::spawn(directory, command);
        let attack = || {
            thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        let mut session = tenants.attacker();
                        for _ in 0..10 {
                            assert_eq!(session.ask(0, cmd::READ, 4096 * 20, 4096), 0);
                        }
                    });
                }
            });
        };
        tenants.during(LONG, attack);
    }
}

/// The program with the attacker's component, under a limit of the shell.
fn limited(limit: &str, overlays: &[&str]) -> (TempDir, Command) {
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("a.wasm"), component(overlays)).unwrap();
    let inner = memnbd(directory.path(), ["--listen", "unix:a.sock,export=a"]);
    let mut command = Command::new("sh");
    let script = format!("ulimit {limit}; exec \"$0\" \"$@\"");
    command.current_dir(directory.path()).args(["-c", &script]).arg(inner.get_program());
    command.args(inner.get_args()).args(["--max-memory", "700G", "--export", "a=./a.wasm"]);
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    (directory, command)
}

/// One tenant fills its disk to the limit while the other one writes, too.
#[test]
fn a_disk_that_is_filled_takes_nothing_from_the_neighbour() {
    let tenants = Tenants::with_disk("1T", &["--max-memory", "512M"]);
    let before = tenants.server.resident();
    tenants.forget_peak();
    let attack = || {
        thread::scope(|scope| {
            for client in 0..4_u64 {
                let tenants = &tenants;
                scope.spawn(move || fill(&mut tenants.attacker(), client << 32));
            }
            // Zeroes that are to be allocated take space like data.
            scope.spawn(|| {
                let mut session = tenants.attacker();
                let error = session.ask(with::NO_HOLE, cmd::WRITE_ZEROES, 1 << 36, 1 << 31);
                assert!([0, errno::ENOSPC].contains(&error), "{error}");
            });
            scope.spawn(|| {
                let mut neighbour = tenants.haggle("b").go("b");
                for index in 8..48 {
                    let data = vec![index as u8; MIB as usize];
                    neighbour.write(index * MIB, &data);
                    assert!(neighbour.read(index * MIB, MIB) == data);
                }
            });
        });
    };
    tenants.during(LONG, attack);
    let cost = tenants.peak() - before;
    assert!(cost < (512 << 20) + SLACK, "{} MiB", cost >> 20);
    let mut neighbour = tenants.haggle("b").go("b");
    for index in 8..48 {
        assert!(neighbour.read(index * MIB, MIB) == vec![index as u8; MIB as usize]);
    }
    // What is full can be read, and trimmed.
    let mut attacker = tenants.attacker();
    attacker.read(0, 4 * MIB);
    for at in [0, 1 << 32, 2 << 32, 3 << 32, 1 << 36] {
        assert_eq!(attacker.ask(0, cmd::TRIM, at, 1 << 31), 0);
    }
    attacker.write(0, &[5; 4096]);
}

/// Writes until there is no more space.
fn fill(session: &mut Session, at: u64) {
    let data = vec![9; MIB as usize];
    for index in 0..1024 {
        match session.call(0, cmd::WRITE, at + index * MIB, MIB, &data).error {
            0 => {}
            errno::ENOSPC => return,
            error => panic!("error {error}"),
        }
    }
    panic!("1 GiB fits into 512 MiB");
}
