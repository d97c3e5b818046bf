//! `/metrics`, read by the parser of Prometheus' own client for Python, which is strict.

use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::process::Command;

use serde_json::{Value, json};

use super::{controlled, http, put};
use crate::support::{Server, guest, nbdsh, require, run};

/// Prints the samples: name, labels, value.
const PARSE: &str = "
import json, sys
from prometheus_client.openmetrics import parser
samples = []
for family in parser.text_string_to_metric_families(open(sys.argv[1]).read()):
    assert family.type != 'unknown' and family.documentation, family
    samples += [(sample.name, sample.labels, sample.value) for sample in family.samples]
print(json.dumps(samples))
";

/// What was scraped.
struct Scraped(Vec<(String, Value, f64)>);

impl Scraped {
    fn new(server: &Server) -> Self {
        let answer = http(server, "GET", "/metrics", None);
        assert_eq!(answer.status, 200);
        let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
        assert!(answer.head.contains(kind), "{}", answer.head);
        let file = server.path("metrics.txt");
        fs::write(&file, &answer.body).unwrap();
        let mut python = Command::new("/usr/bin/python3");
        let samples = run(python.args(["-c", PARSE]).arg(file)).success();
        Self(serde_json::from_str(&samples).unwrap())
    }

    /// The values of the series that have these labels among theirs.
    fn all(&self, name: &str, labels: &Value) -> Vec<f64> {
        let wanted = labels.as_object().unwrap();
        let fits = |of: &Value| wanted.iter().all(|(key, value)| of.get(key) == Some(value));
        let found = self.0.iter().filter(|(of, labels, _)| of == name && fits(labels));
        found.map(|&(_, _, value)| value).collect()
    }

    #[track_caller]
    fn one(&self, name: &str, labels: &Value) -> f64 {
        let all = self.all(name, labels);
        assert_eq!(all.len(), 1, "{name} {labels}: {all:?}");
        all[0]
    }
}

#[test]
fn what_clients_ask_for_is_counted() {
    require!("nbdsh");
    let server = controlled(&["16M"]);
    let spec = json!({"filters": ["error"], "parameters": ["1M", "error-pread=ENOSPC", "error-pread-rate=1"]});
    put(&server, "a", &spec);
    put(&server, "idle", &json!({"parameters": ["1M"]}));
    nbdsh(
        &server,
        "
import nbd
for name in ['disk', 'a']:
    c = nbd.NBD()
    c.set_strict_mode(0)
    c.set_export_name(name)
    c.connect_unix('socket')
    for i in range(3):
        c.pwrite(bytearray(65536), 65536 * i)
    try:
        c.pread(4096, 0)
        assert name == 'disk'
    except nbd.Error as error:
        assert name == 'a' and error.errno == 'ENOSPC', error
    try:
        c.pread(4096, 1 << 40)
        assert False
    except nbd.Error as error:
        assert error.errno == 'EINVAL', error
    c.shutdown()
",
    );
    let scraped = Scraped::new(&server);
    for disk in ["disk", "a"] {
        let of = |operation| json!({"tenant": "default", "disk": disk, "operation": operation});
        let of_disk = json!({"tenant": "default", "disk": disk});
        assert_eq!(scraped.one("memnbd_requests_total", &of("write")), 3.0);
        assert_eq!(scraped.one("memnbd_request_bytes_total", &of("write")), 196_608.0);
        assert_eq!(scraped.one("memnbd_requests_total", &of("read")), 1.0);
        let count = scraped.one("memnbd_request_duration_seconds_count", &of("write"));
        assert_eq!(count, 3.0);
        assert_eq!(scraped.all("memnbd_requests_total", &of("trim")), [0.0; 0]);
        assert_eq!(scraped.one("memnbd_refused_requests_total", &of_disk), 1.0);
        assert!(scraped.one("memnbd_disk_memory_bytes", &of_disk) >= 196_608.0);
    }
    let errors = |disk, code| json!({"disk": disk, "code": code});
    assert_eq!(scraped.one("memnbd_errors_total", &errors("a", "ENOSPC")), 1.0);
    assert_eq!(scraped.one("memnbd_errors_total", &errors("a", "EINVAL")), 1.0);
    assert_eq!(scraped.all("memnbd_errors_total", &errors("disk", "ENOSPC")), [0.0; 0]);
    assert_eq!(scraped.all("memnbd_requests_total", &json!({"disk": "idle"})), [0.0; 0]);
    assert_eq!(scraped.one("memnbd_disk_size_bytes", &json!({"disk": "disk"})), 16_777_216.0);
    assert_eq!(scraped.one("memnbd_disks", &json!({"state": "live"})), 2.0);
    let none = json!({});
    assert!(
        scraped.one("memnbd_memory_bytes", &none)
            <= scraped.one("memnbd_memory_limit_bytes", &none)
    );
    assert_eq!(scraped.one("memnbd_snapshots", &none), 0.0);
    assert!(scraped.one("process_cpu_seconds_total", &none) > 0.0);
    assert!(scraped.one("process_resident_memory_bytes", &none) > 1e6);
}

#[test]
fn names_of_disks_are_only_text() {
    require!("nbdsh");
    let server = controlled(&["1M"]);
    let name = "a\"} 1\nfake{x=\"\\\u{e4}";
    let path: String = name.bytes().map(|byte| format!("%{byte:02x}")).collect();
    assert_eq!(put(&server, &path, &json!({"parameters": ["1M"]})).status, 201);
    let code = format!(
        "
import nbd
c = nbd.NBD()
c.set_export_name(bytes.fromhex('{}').decode())
c.connect_unix('socket')
c.pread(512, 0)
c.shutdown()
",
        path.replace('%', "")
    );
    nbdsh(&server, &code);
    let scraped = Scraped::new(&server);
    let labels = json!({"disk": name, "operation": "read"});
    assert_eq!(scraped.one("memnbd_requests_total", &labels), 1.0);
    assert_eq!(scraped.all("fake", &json!({})), [0.0; 0]);
}

#[test]
fn time_that_is_waited_for_limits_is_counted() {
    require!("nbdsh");
    let server = controlled(&["--filter=rate", "1M", "rate-requests=5", "burstiness=0.1"]);
    nbdsh(
        &server,
        "
for i in range(4):
    h.pread(512, 0)
",
    );
    let throttled = Scraped::new(&server).one("memnbd_throttled_seconds_total", &json!({}));
    assert!(throttled > 0.1, "{throttled}");
}

#[test]
fn components_that_fail_are_counted_with_their_time() {
    require!("nbdsh");
    let directory = tempfile::TempDir::new().unwrap();
    let component = directory.path().join("bad.wasm");
    guest(&component, &[("write", "unreachable")]);
    let grant = format!("component:bad={}", component.display());
    let mut server = controlled(&["--grant", &grant, "1M"]);
    server.allow_log("trapped");
    assert_eq!(put(&server, "bad", &json!({"component": "bad"})).status, 201);
    nbdsh(
        &server,
        "
import nbd
c = nbd.NBD()
c.set_export_name('bad')
c.connect_unix('socket')
for i in range(2):
    try:
        c.pwrite(bytearray(512), 0)
        assert False
    except nbd.Error as error:
        assert error.errno == 'EIO', error
c.shutdown()
",
    );
    let scraped = Scraped::new(&server);
    let bad = json!({"disk": "bad"});
    assert_eq!(scraped.one("memnbd_component_faults_total", &bad), 1.0);
    assert!(scraped.one("memnbd_component_cpu_seconds_total", &bad) > 0.0);
    assert_eq!(scraped.one("memnbd_errors_total", &json!({"disk": "bad", "code": "EIO"})), 2.0);
}

#[test]
fn scrapes_that_nobody_reads_keep_nobody_waiting() {
    let server = controlled(&["1M"]);
    // They are small, so they are taken by the sockets' buffers: none waits for another.
    let mut unread = Vec::new();
    for _ in 0..20 {
        let mut stream = UnixStream::connect(server.path("control")).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        unread.push(stream);
    }
    assert_eq!(http(&server, "GET", "/metrics", None).status, 200);
}

#[test]
fn disks_beyond_a_thousand_are_summed_up() {
    require!("nbdsh");
    let server = controlled(&["1M"]);
    let disks: serde_json::Map<String, Value> =
        (0..1001).map(|disk| (format!("d{disk:04}"), json!({"parameters": ["64k"]}))).collect();
    let body = json!({ "disks": disks }).to_string();
    assert_eq!(http(&server, "POST", "/v1/tenants/default/populate", Some(&body)).status, 200);
    let read_all = "
import nbd
for disk in ['disk'] + ['d%04d' % i for i in range(1001)]:
    c = nbd.NBD()
    c.set_export_name(disk)
    c.connect_unix('socket')
    c.pread(512, 0)
    c.shutdown()
";
    nbdsh(&server, read_all);
    let scraped = Scraped::new(&server);
    let reads = scraped.all("memnbd_requests_total", &json!({"operation": "read"}));
    assert_eq!((reads.len(), reads.iter().sum::<f64>()), (1001, 1002.0));
    let others = json!({"tenant": "", "disk": ""});
    assert_eq!(scraped.one("memnbd_requests_total", &others), 2.0);
    assert_eq!(http(&server, "DELETE", "/v1/tenants/default/disks/d1000", None).status, 204);
    let scraped = Scraped::new(&server);
    assert_eq!(scraped.one("memnbd_requests_total", &others), 2.0, "counters never become less");
}
