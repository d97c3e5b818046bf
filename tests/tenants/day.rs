//! A day in the life of a server of three tenants.

use std::fs;

use rustix::process::Signal;

use super::{configured, control_as, script, secret};
use crate::control::http_as;
use crate::support::{LIMIT, require, wait_until};

/// Three tenants write, read and verify at the same time, each over two connections, while quotas are hit,
/// tokens are rotated, the file is read again, disks are cloned and reset. Then the server is drained.
#[test]
fn three_tenants_work_side_by_side() {
    require!("nbdsh");
    let secrets: Vec<(String, String)> = (0..4).map(|_| secret()).collect();
    let text = |digest: &str, disks: u32| {
        let tenant = |name: &str, digest: &str, quotas: &str| {
            format!(
                "[tenants.{name}]\nlisten = ['unix:{name}.sock']\nquotas = {{ {quotas} }}\n\
                 tokens.ci = {{ role = 'tenant', digest = '{digest}' }}\n\
                 [tenants.{name}.disks.work]\nparameters = ['256M']\n"
            )
        };
        [
            tenant("one", digest, &format!("disks = {disks}, memory = '1G'")),
            tenant("two", &secrets[1].1, "memory = '48M'"),
            tenant("three", &secrets[2].1, "requests = 2000, connections = 3"),
        ]
        .concat()
    };
    let mut server = configured(&text(&secrets[0].1, 3));
    let program = env!("CARGO_BIN_EXE_memnbd");
    let [one, two, three] = [0, 1, 2].map(|index| secrets[index].0.as_str());
    // What the administrator does meanwhile.
    let next = text(&secrets[3].1, 4);
    let (path, rotated) = (server.path("server.toml"), server.path("rotated.toml"));
    fs::write(&rotated, next).unwrap();
    let log_before = server.log().len();
    let pid = server.pid().as_raw_nonzero();
    let printed = script(
        &server,
        &format!(
            "
import os, random, signal, subprocess, threading, time
def memnbd(tenant, token, *arguments):
    environment = dict(os.environ, MEMNBD_HOST='unix:control', MEMNBD_TENANT=tenant)
    environment['MEMNBD_TOKEN'] = token
    return subprocess.run(['{program}', *arguments], env=environment, capture_output=True, text=True)
failures, full, deadline = [], set(), time.monotonic() + 4
def work(tenant, half, tag):
    try:
        disk = open_disk('work', tenant + '.sock')
        rng, model = random.Random(tag), {{}}
        while time.monotonic() < deadline:
            at = half * (128 << 20) + rng.randrange(1024) * 65536
            data = bytes([rng.randrange(1, 256)]) * 65536
            try:
                disk.pwrite(data, at)
                model[at] = data
            except nbd.Error as error:
                assert error.errno == 'ENOSPC', error
                full.add(tenant)
                # What was there before is there still, or a part of what was written.
                model.pop(at, None)
                for at in list(model)[:16]:
                    disk.trim(65536, at)
                    del model[at]
            if model and rng.random() < 0.5:
                at = rng.choice(list(model))
                assert disk.pread(65536, at) == model[at], (tenant, at)
        for at, data in model.items():
            assert disk.pread(65536, at) == data, (tenant, at)
        disk.shutdown()
    except BaseException as error:
        failures.append((tenant, half, repr(error)))
threads = [threading.Thread(target=work, args=(tenant, half, index * 2 + half))
           for index, tenant in enumerate(['one', 'two', 'three']) for half in (0, 1)]
for thread in threads:
    thread.start()
time.sleep(0.5)
steps = [
    memnbd('one', '{one}', 'snapshot', 'work', 'noon'),
    memnbd('one', '{one}', 'clone', 'noon', 'copy'),
    memnbd('one', '{one}', 'clone', 'noon', 'second'),
]
assert all(step.returncode == 0 for step in steps), steps
refused = memnbd('one', '{one}', 'clone', 'noon', 'third')
assert refused.returncode == 1 and 'at most 3' in refused.stderr, refused
for step in range(5):
    open_disk('copy', 'one.sock').pwrite(bytes([step]) * 4096, 0)
    assert memnbd('one', '{one}', 'reset', 'copy').returncode == 0
others = [open_disk('work', 'three.sock')]
try:
    open_disk('work', 'three.sock')
    raise AssertionError('three has four connections')
except nbd.Error:
    pass
for tenant, token in [('one', '{two}'), ('two', '{three}'), ('three', '{one}')]:
    foreign = memnbd(tenant, token, 'ls')
    assert foreign.returncode == 1 and 'there is no tenant' in foreign.stderr, foreign
os.replace('{}', '{}')
os.kill({pid}, signal.SIGHUP)
while memnbd('one', '{one}', 'ls').returncode == 0:
    time.sleep(0.05)
late = memnbd('one', '{}', 'clone', 'noon', 'third')
assert late.returncode == 0, late
for thread in threads:
    thread.join()
assert not failures, failures
print(sorted(full))",
            rotated.display(),
            path.display(),
            secrets[3].0,
        ),
    );
    assert_eq!(printed, "['two']\n", "who had too little memory");
    let told = |text: &str| server.log()[log_before..].iter().any(|line| line.contains(text));
    assert!(wait_until(LIMIT, || told("read again: 0 disks changed, 3 as they were")));
    let near = || {
        let events = control_as(&server, "two", two, &["logs", "--json"]).success();
        events.contains("\"quota\":\"memory\"")
    };
    assert!(wait_until(LIMIT, near), "it was told before it was refused");
    let listed = http_as(&server, &secrets[3].0, "GET", "/v1/tenants/one/disks", None).json();
    assert_eq!(listed.as_array().map(Vec::len), Some(4));
    server.allow_log("");
    server.signal(Signal::TERM);
    server.wait();
}
