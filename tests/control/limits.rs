//! Limits of clients, which are parts of the server, for disks that are made while it runs.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Answer, DISKS, OPEN, control, controlled, http, put};
use crate::support::{Server, nbdsh, require};

fn patch(server: &Server, disk: &str, body: &serde_json::Value) -> Answer {
    http(server, "PATCH", &format!("{DISKS}/{disk}"), Some(&body.to_string()))
}

#[test]
fn rates_hold_and_change_under_connected_clients() {
    require!("nbdsh");
    let server = controlled(&["1M"]);
    let create = ["create", "a", "1M", "--filter=rate", "rate-requests=10", "burstiness=0"];
    control(&server, &create).success();
    let begin = Instant::now();
    nbdsh(
        &server,
        &format!(
            "{OPEN}
import subprocess
a = open_disk('a')
for n in range(11):
    a.pread(1, n)
# It waits for minutes, until the limit is another.
h.pread(1, 0)
def update(*words):
    command = [{program:?}, '--host', 'unix:control', 'update', 'a', '1M', *words]
    subprocess.run(command, check=True)
update('--filter=rate', 'rate-requests=1', 'burstiness=0')
slow = [a.aio_pread(nbd.Buffer(1), n) for n in range(200)]
a.poll(100)
update()
for cookie in slow:
    while not a.aio_command_completed(cookie):
        a.poll(-1)
",
            program = env!("CARGO_BIN_EXE_memnbd"),
        ),
    );
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(990), "{took:?}");
    let shown = http(&server, "GET", &format!("{DISKS}/a"), None).json();
    assert_eq!((&shown["generation"], &shown["spec"]["filters"]), (&json!(0), &json!([])));
}

#[test]
fn number_of_clients_changes_with_those_that_are_connected() {
    require!("nbdsh");
    let server = controlled(&["1M"]);
    let spec = json!({"filters": ["error", "limit"], "parameters": ["1M", "limit=2"]});
    assert_eq!(put(&server, "a", &spec).status, 201);
    nbdsh(
        &server,
        &format!(
            "{OPEN}
import subprocess
def update(*words):
    command = [{program:?}, '--host', 'unix:control', 'update', 'a', '1M', *words]
    subprocess.run(command, check=True)
def refused():
    try:
        open_disk('a')
    except nbd.Error:
        return True
one, two = open_disk('a'), open_disk('a')
assert refused()
update('--filter=error', '--filter=limit', 'limit=3')
three = open_disk('a')
assert refused()
update('--filter=limit', 'limit=1')
assert refused()
one.pread(1, 0); two.pread(1, 0); three.pread(1, 0)
one.shutdown(); two.shutdown()
for attempt in range(20):
    assert refused()
update()
four, five = open_disk('a'), open_disk('a')
update('--filter=time-limit', 'time-limit=1')
six = open_disk('a')
try:
    while True:
        six.pread(1, 0)
except nbd.Error:
    pass
five.pread(1, 0)
",
            program = env!("CARGO_BIN_EXE_memnbd"),
        ),
    );
    let shown = http(&server, "GET", &format!("{DISKS}/a"), None).json();
    assert_eq!(shown["generation"], 1, "only the filter error was removed: {shown}");
}

#[test]
fn clients_are_allowed_and_denied() {
    require!("nbdsh");
    let server = controlled(&["1M"]);
    let spec = json!({"filters": ["ip"], "parameters": ["1M", "deny=all"]});
    assert_eq!(put(&server, "a", &spec).status, 201);
    control(&server, &["snapshot", "disk", "s"]).success();
    control(&server, &["clone", "s", "c", "--filter=ip", "allow=allunix", "deny=all"]).success();
    nbdsh(
        &server,
        &format!(
            "{OPEN}
try:
    open_disk('a')
    assert False
except nbd.Error as error:
    assert 'policy' in error.string, error.string
open_disk('c').pread(1, 0)
"
        ),
    );
    let connect = "GET /v1/tenants/default/disks/a/nbd HTTP/1.1\r\nhost: x\r\n\
                   connection: upgrade\r\nupgrade: nbd\r\n\r\n";
    let answer = super::exchange(&server.path("control"), connect.as_bytes());
    assert!(answer.starts_with(b"HTTP/1.1 403 "), "{:?}", String::from_utf8_lossy(&answer));
    assert_eq!(patch(&server, "a", &json!({"filters": [], "parameters": ["1M"]})).status, 200);
    nbdsh(&server, &format!("{OPEN}\nopen_disk('a').pread(1, 0)"));
}

#[test]
fn limits_of_a_configuration_change_without_a_new_disk() {
    require!("nbdsh");
    let server = controlled(&["1M"]);
    let apply = |filters: &str, parameters: &str| {
        let toml = format!("[disks.a]\nfilters = {filters}\nparameters = {parameters}\n");
        let body = json!({ "toml": toml }).to_string();
        let answer = http(&server, "POST", "/v1/tenants/default/populate", Some(&body));
        assert_eq!(answer.status, 200, "{}", answer.json());
        answer.json()["changes"][0]["action"].as_str().unwrap().to_owned()
    };
    assert_eq!(apply("['limit']", "['1M', 'limit=1']"), "create");
    let refused = "
one = open_disk('a')
try:
    open_disk('a')
    assert False
except nbd.Error:
    pass
";
    nbdsh(&server, &format!("{OPEN}{refused}"));
    assert_eq!(apply("[]", "['1M']"), "refilter");
    nbdsh(&server, &format!("{OPEN}\none, two = open_disk('a'), open_disk('a')"));
}

#[test]
fn what_limits_may_not_be_is_told() {
    let server = controlled(&["--export", "fixed=memory,1M,rate-requests=1000"]);
    for (filters, parameters, words) in [
        (json!(["rate"]), json!(["1M", "rate-file=/etc/passwd"]), "belong on the command line"),
        (json!(["rate"]), json!(["1M", "connection-rate-file=x"]), "belong on the command line"),
        (json!([]), json!(["1M", "rate-file=x"]), "belong on the command line"),
        (json!(["rate"]), json!(["1M", "rate=0"]), "rate: "),
        (json!(["rate", "rate"]), json!(["1M"]), "given twice"),
        (json!(["exitlast"]), json!(["1M"]), "whole server"),
        (json!(["exitwhen"]), json!(["1M", "exit-when-script=id"]), "whole server"),
        (json!(["tls-fallback"]), json!(["1M"]), "whole server"),
        (json!(["ip"]), json!(["1M", "allow=me"]), "it is no rule"),
        (json!(["luks"]), json!(["1M"]), "not supported"),
    ] {
        let spec = json!({"filters": filters, "parameters": parameters});
        let created = put(&server, "a", &spec);
        assert_eq!(created.status, 400, "{spec}");
        assert!(created.problem().contains(words), "{spec}: {}", created.problem());
        let patched = patch(&server, "fixed", &spec);
        assert_eq!(patched.status, 400, "{spec}");
        assert!(patched.problem().contains(words), "{spec}: {}", patched.problem());
    }
    let fixed = patch(&server, "fixed", &json!({"filters": ["limit"], "parameters": ["1M"]}));
    assert_eq!(fixed.status, 409);
    assert!(fixed.problem().contains("command line"), "{}", fixed.problem());
    assert_eq!(patch(&server, "fixed", &json!({"filters": ["error"]})).status, 200);
}
