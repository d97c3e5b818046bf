//! A day in the life of a server of three tenants, with the clients that people use.
//!
//! It lasts three seconds, or as many as `MEMNBD_DAY_SECONDS` says.

use std::env;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use super::{configured, control_as, put, script, secret};
use crate::control::{control, http, http_as};
use crate::support::{LIMIT, Server, client, require, run, wait_until};

/// A token.
struct Token {
    secret: String,
    digest: String,
}

impl Token {
    fn new() -> Self {
        let (secret, digest) = secret();
        Self { secret, digest }
    }
}

/// What the configuration file says. The tenant `one` has the disk `ledger`, which is in a file behind a cache.
fn file(tokens: [&Token; 3], disks_of_one: u32, others: &str) -> String {
    let tenant = |name: &str, token: &Token, quotas: &str, disks: &str| {
        let digest = &token.digest;
        format!(
            "[tenants.{name}]\nlisten = ['unix:{name}.sock']\nquotas = {{ {quotas} }}\n\
             tokens.ci = {{ role = 'tenant', digest = '{digest}' }}\n\
             [tenants.{name}.disks.work]\nparameters = ['64M']\n{disks}"
        )
    };
    let more = "[tenants.one.disks.copy]\nparameters = ['16M']\n\
                [tenants.one.disks.image]\nparameters = ['16M']\n\
                [tenants.one.disks.ledger]\ncomponent = 'file'\nparameters = ['ledger.img']\n\
                filters = ['cache']\n";
    let quotas = format!("disks = {disks_of_one}, memory = '1G'");
    [
        tenant("one", tokens[0], &quotas, more),
        tenant("three", tokens[2], "connections = 3, requests = 100, rate = '400M'", ""),
        tenant("two", tokens[1], "memory = '24M'", others),
    ]
    .concat()
}

/// Has the server read another file.
fn reload(server: &Server, text: &str, told: &str) {
    let before = server.log().len();
    // Whoever reads it gets all of it.
    fs::write(server.path("next.toml"), text).unwrap();
    fs::rename(server.path("next.toml"), server.path("server.toml")).unwrap();
    server.signal(Signal::HUP);
    let is_told = || server.log()[before..].iter().any(|line| line.contains(told));
    assert!(wait_until(LIMIT, is_told), "{told}: {:#?}", server.log());
}

fn uri(tenant: &str, disk: &str) -> String {
    format!("nbd+unix:///{disk}?socket={tenant}.sock")
}

/// Runs a client in the server's directory.
fn use_client(server: &Server, program: &str, arguments: &[&str]) -> String {
    run(client(server, program).args(arguments)).success()
}

/// What the clients of tenants do again and again, all at the same time.
const ROUNDS: [Round; 5] = [
    Round { client: "fio", once: fio_verifies },
    Round { client: "nbdcopy", once: nbdcopy_goes_there_and_back },
    Round { client: "qemu-img", once: qemu_img_converts_and_compares },
    Round { client: "nbdsh of two", once: memory_runs_out },
    Round { client: "nbdsh of three", once: connections_and_requests_are_limited },
];

/// Something that is done again and again.
#[derive(Clone, Copy)]
struct Round {
    client: &'static str,
    once: fn(&Server),
}

impl Round {
    /// Does it until the day is over, but once at least. Returns how often.
    fn repeat(self, server: &Server, over: &AtomicBool) -> u32 {
        let mut count = 0;
        while count == 0 || !over.load(Ordering::Relaxed) {
            (self.once)(server);
            count += 1;
        }
        count
    }
}

fn fio_verifies(server: &Server) {
    let to = format!("--uri={}", uri("one", "work"));
    let job = ["--name=job", "--ioengine=nbd", "--verify_fatal=1", "--verify_state_save=0", &to];
    let what = ["--rw=randwrite", "--bsrange=512-64k", "--size=16M", "--verify=crc32c"];
    let how = ["--iodepth=16", "--randrepeat=0", "--timeout=50"];
    use_client(server, "fio", &[&job[..], &what, &how].concat());
}

fn nbdcopy_goes_there_and_back(server: &Server) {
    let to = uri("one", "copy");
    use_client(server, "nbdcopy", &["image", &to]);
    use_client(server, "nbdcopy", &[&to, "back"]);
    let same = fs::read(server.path("image")).unwrap() == fs::read(server.path("back")).unwrap();
    assert!(same, "nbdcopy got something else back");
}

fn qemu_img_converts_and_compares(server: &Server) {
    let to = uri("one", "image");
    use_client(server, "qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", "image", &to]);
    use_client(server, "qemu-img", &["compare", "-f", "raw", "-F", "raw", "image", &to]);
}

fn memory_runs_out(server: &Server) {
    let code = "
import random
disk, model = open_disk('work', 'two.sock'), {}
for at in random.sample(range(0, 64 << 20, 65536), 1024):
    data = random.randbytes(65536)
    try:
        disk.pwrite(data, at)
        model[at] = data
    except nbd.Error as error:
        assert error.errno == 'ENOSPC', error
        break
else:
    raise AssertionError('64 MiB were written, of 24')
assert len(model) > 64, len(model)
# What was there before is there still.
for at, data in model.items():
    assert disk.pread(65536, at) == data, at
disk.trim(64 << 20, 0)
disk.pwrite(b'x' * 65536, 0)
disk.shutdown()";
    script(server, code);
}

fn connections_and_requests_are_limited(server: &Server) {
    let code = "
import time
disks = [open_disk('work', 'three.sock') for _ in range(3)]
error_of('work', 'three.sock')
# All at once, which is more than is allowed in a second however slow the machine is.
under_way = []
for number in range(200):
    disk, data = disks[number % 3], nbd.Buffer.from_bytearray(bytearray([number]) * 4096)
    under_way.append((disk, disk.aio_pwrite(data, number * 4096)))
for disk, cookie in under_way:
    while not disk.aio_command_completed(cookie):
        disk.poll(-1)
for number in range(200):
    assert disks[number % 2].pread(4096, number * 4096) == bytes([number]) * 4096
for disk in disks:
    disk.shutdown()
# The server has to notice before there is room for the next.
deadline = time.monotonic() + 60
while True:
    try:
        open_disk('work', 'three.sock').shutdown()
        break
    except nbd.Error:
        assert time.monotonic() < deadline";
    script(server, code);
}

/// Sets a flag however a scope ends, so that the clients end.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Disks and snapshots end at the quota, and other tenants are not there for one who asks.
fn tenant_one_uses_up_its_disks(server: &Server, tokens: [&Token; 3]) {
    let [one, two, three] = tokens.map(|token| token.secret.as_str());
    let as_one = |arguments: &[&str]| control_as(server, "one", one, arguments);
    as_one(&["snapshot", "work", "noon"]).success();
    as_one(&["clone", "noon", "a"]).success();
    let refused = as_one(&["clone", "noon", "b"]).failure(1);
    assert!(refused.contains("at most 5"), "{refused}");
    for step in 0..3 {
        let code =
            format!("open_disk('a', 'one.sock').pwrite(bytes([{step}]) * 4096, {step} << 20)");
        script(server, &code);
        as_one(&["reset", "a"]).success();
    }
    for (tenant, secret) in [("one", two), ("two", three), ("three", one), ("default", one)] {
        let foreign = control_as(server, tenant, secret, &["ls"]).failure(1);
        assert!(foreign.contains("there is no tenant"), "{foreign}");
    }
}

/// The token of an agent is rotated through the API while it works.
fn token_is_rotated(server: &Server, owner: &Token) {
    let make = || {
        let made = control_as(server, "two", &owner.secret, &["token", "agent"]).success();
        made.trim().to_owned()
    };
    let works =
        |secret: &str| http_as(server, secret, "GET", "/v1/tenants/two/disks", None).status == 200;
    let first = make();
    assert!(works(&first));
    let second = make();
    assert!(!works(&first) && works(&second) && works(&owner.secret));
}

/// A tenant comes, one has another token and more disks, and a tenant that came by the API stays.
fn file_is_read_again(server: &Server, tokens: [&Token; 3], next: &Token) {
    put(server, "guest", &json!({}));
    let new = "[tenants.four.disks.first]\nparameters = ['1M']\n";
    reload(
        server,
        &file([next, tokens[1], tokens[2]], 6, new),
        "read again: 1 disks changed, 6 as they were",
    );
    let old = control_as(server, "one", &tokens[0].secret, &["ls"]).failure(1);
    assert!(old.contains("a token that the server knows"), "{old}");
    control_as(server, "one", &next.secret, &["clone", "noon", "b"]).success();
    let mistake =
        file([next, tokens[1], tokens[2]], 6, "[tenants.four.disks.x]\nparameters = ['1Q']\n");
    reload(server, &mistake, "nothing was changed");
    let listed = control(server, &["tenants"]).success();
    for name in ["one", "two", "three", "four", "guest"] {
        assert!(listed.lines().any(|line| line.starts_with(name)), "{name}: {listed}");
    }
}

/// A tenant is taken out of the file with all that it has; its client is disconnected, and no other.
fn tenant_leaves(server: &Server, tokens: [&Token; 3], next: &Token) {
    let connect = control(server, &["--tenant", "four", "token", "nbd", "--role", "connect"]);
    let connect = connect.success();
    let (path, program) = (server.path("server.toml"), server.pid().as_raw_nonzero());
    fs::write(server.path("without.toml"), file([next, tokens[1], tokens[2]], 6, "")).unwrap();
    let code = format!(
        "
import os, signal, time
name = '{}/first'
leaves, stays = open_disk(name), open_disk('work', 'one.sock')
leaves.pwrite(b'x' * 512, 0)
os.replace('without.toml', '{}')
os.kill({program}, signal.SIGHUP)
deadline = time.monotonic() + 60
try:
    while time.monotonic() < deadline:
        leaves.pread(512, 0)
        time.sleep(0.01)
    raise AssertionError('the client of a removed tenant is served')
except nbd.Error:
    pass
error_of(name)
stays.pread(512, 0)",
        connect.trim(),
        path.display()
    );
    script(server, &code);
    assert_eq!(http(server, "GET", "/v1/tenants/four", None).status, 404);
}

/// The administrator sees all tenants in the metrics, and they see nothing of it.
fn metrics_tell(server: &Server, secret: &str) {
    assert_eq!(http_as(server, secret, "GET", "/metrics", None).status, 403);
    let text = http(server, "GET", "/metrics", None).text();
    let value = |name: &str, labels: &[&str]| -> f64 {
        let fits = |line: &&str| {
            line.starts_with(&format!("{name}{{"))
                && labels.iter().all(|label| line.contains(label))
        };
        let lines = text.lines().filter(fits);
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    };
    for tenant in ["one", "two", "three"] {
        let of = format!("tenant=\"{tenant}\"");
        for operation in ["operation=\"read\"", "operation=\"write\""] {
            assert!(value("memnbd_requests_total", &[&of, operation]) > 0.0, "{tenant}: {text}");
        }
        let full = value("memnbd_errors_total", &[&of, "code=\"ENOSPC\""]) > 0.0;
        assert_eq!(full, tenant == "two", "{tenant} has too little memory: {text}");
        let held_back = value("memnbd_throttled_seconds_total", &[&of]) > 0.0;
        assert_eq!(held_back, tenant == "three", "{tenant} is held back: {text}");
    }
}

/// Tenants that come near their quotas are told so while they do.
fn quotas_that_are_near_are_told(server: &Server, tokens: [&Token; 3]) {
    let (program, [_, two, three]) =
        (env!("CARGO_BIN_EXE_memnbd"), tokens.map(|token| &token.secret));
    let code = format!(
        "
import os, subprocess, time
held = [open_disk('work', 'three.sock') for _ in range(3)]
full = open_disk('work', 'two.sock')
try:
    for at in range(0, 64 << 20, 1 << 20):
        full.pwrite(os.urandom(1 << 20), at)
except nbd.Error as error:
    assert error.errno == 'ENOSPC', error
def is_told(tenant, token, quota):
    environment = dict(os.environ, MEMNBD_HOST='unix:control', MEMNBD_TENANT=tenant)
    environment['MEMNBD_TOKEN'] = token
    command = ['{program}', 'logs', '--json']
    events = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return '\"quota\":\"' + quota + '\"' in events.stdout
deadline = time.monotonic() + 60
while not (is_told('two', '{two}', 'memory') and is_told('three', '{three}', 'connections')):
    assert time.monotonic() < deadline
    time.sleep(0.1)"
    );
    script(server, &code);
}

/// Each tenant is told what happened to its own disks, and nothing of others.
fn events_tell(server: &Server, tokens: [&Token; 3]) {
    let of = |tenant: &str, token: &Token| {
        control_as(server, tenant, &token.secret, &["logs", "--json"]).success()
    };
    let [one, two, three] = [("one", 0), ("two", 1), ("three", 2)].map(|(n, i)| of(n, tokens[i]));
    for word in ["snapshot-taken", "disk-reset", "\"copy\"", "\"quota\":\"disks\""] {
        assert!(one.contains(word), "{word}: {one}");
    }
    for events in [two, three] {
        for word in ["snapshot-taken", "disk-reset", "noon", "ledger"] {
            assert!(!events.contains(word), "{word}: {events}");
        }
    }
}

/// The server is stopped while a client writes: what was acknowledged is in the file, although it was in a
/// cache and the client never asked for a flush.
fn server_is_drained(mut server: Server) {
    let pid = server.pid().as_raw_nonzero();
    let code = format!(
        "
import os, signal
disk = open_disk('ledger', 'one.sock')
written = 0
try:
    while written < 256:
        disk.pwrite(bytes([written % 251 + 1]) * 4096, written * 65536)
        written += 1
        if written == 64:
            os.kill({pid}, signal.SIGTERM)
except nbd.Error:
    pass
print(written)"
    );
    let written: usize = script(&server, &code).trim().parse().unwrap();
    assert!(written >= 64);
    for text in [
        "this is not Bearer and a token that the server knows",
        "nothing was changed",
        "there is no memory left",
    ] {
        server.allow_log(text);
    }
    server.wait();
    let content = fs::read(server.path("ledger.img")).unwrap();
    for block in 0..written {
        let found = &content[block * 65536..][..4096];
        assert!(found == [(block % 251 + 1) as u8; 4096], "block {block} of {written} is lost");
    }
}

/// Waits until every client has done its round, and the day is over.
fn rest_of_the_day(begin: Instant) {
    let seconds = env::var("MEMNBD_DAY_SECONDS").map_or(3, |seconds| seconds.parse().unwrap());
    thread::sleep(Duration::from_secs(seconds).saturating_sub(begin.elapsed()));
}

/// Clients of three tenants write, read and verify at the same time, while quotas are hit, tokens are rotated,
/// the file is read again, tenants come and go, disks are cloned and reset. Then the server is stopped, and
/// nothing is lost.
#[test]
fn three_tenants_work_side_by_side() {
    require!("nbdsh", "fio", "nbdcopy", "qemu-img");
    let tokens: Vec<Token> = (0..4).map(|_| Token::new()).collect();
    let [all @ .., next] = &tokens[..] else { unreachable!("there are four") };
    let all: [&Token; 3] = [&all[0], &all[1], &all[2]];
    let server = configured(&file(all, 5, ""));
    let mut image = vec![0; 16 << 20];
    let mut random = fastrand::Rng::with_seed(1);
    image.chunks_mut(1 << 18).step_by(2).for_each(|chunk| random.fill(chunk));
    fs::write(server.path("image"), image).unwrap();
    fs::File::create(server.path("ledger.img")).unwrap().set_len(32 << 20).unwrap();
    let (over, begin) = (AtomicBool::new(false), Instant::now());
    thread::scope(|scope| {
        let (server, over) = (&server, &over);
        let clients =
            ROUNDS.map(|round| (round.client, scope.spawn(move || round.repeat(server, over))));
        let end = SetOnDrop(over);
        tenant_one_uses_up_its_disks(server, all);
        token_is_rotated(server, all[1]);
        file_is_read_again(server, all, next);
        tenant_leaves(server, all, next);
        rest_of_the_day(begin);
        drop(end);
        for (name, client) in clients {
            let count: Result<u32, _> = ScopedJoinHandle::join(client);
            eprintln!("{name}: {} rounds", count.expect("its data were what it wrote"));
        }
    });
    let now = [next, all[1], all[2]];
    metrics_tell(&server, &next.secret);
    quotas_that_are_near_are_told(&server, now);
    events_tell(&server, now);
    server_is_drained(server);
}
