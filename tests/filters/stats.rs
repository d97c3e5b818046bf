//! The filter `stats`.

use std::fs;

use tempfile::TempDir;

use super::saying;
use crate::backends::served;
use crate::mistakes::complains;
use crate::support::{Server, nbdsh, require};

/// Requests of a few sizes, such that each is as frequent as no other of its kind: nbdkit forgets sizes
/// that are equally frequent.
const REQUESTS: &str = r#"
for n in range(200): h.pwrite(b"x" * 4096, n * 4096)
for n in range(60): h.pwrite(b"x" * 512, n * 512 + 512)
for n in range(10): h.pwrite(b"x" * 65536, n * 65536)
for n in range(300): h.pread(8192, n * 2048)
for n in range(20): h.pread(100, n * 100 + 4)
for n in range(3): h.trim(65536, n * 65536)
h.trim(4096, 4096)
for n in range(2): h.zero(1 << 19, n << 19)
h.cache(65536, 0)
h.flush()
"#;

/// The lines of a report without times and rates, and without what is only in one of both.
fn lines(report: &str) -> Vec<String> {
    let counts = |line: &str| match line.split_once(" ops, ") {
        // The time, the bytes, the rates.
        Some((count, rest)) => format!("{count} {}", rest.split(", ").nth(1).unwrap()),
        // nbdkit gives the bytes of all sizes.
        None => line.split(" reqs, ").next().unwrap().to_owned(),
    };
    let lines = report.lines().filter(|line| !line.contains("Latency"));
    lines.map(counts).filter(|line| !line.is_empty()).collect()
}

#[test]
fn report_is_that_of_nbdkit() {
    require!("nbdkit", "nbdsh");
    for parameters in [&[][..], &["statsthreshold=99"], &["statsthreshold=0"]] {
        let arguments = ["--filter=stats", "memory", "1M", "statsfile=report"];
        let arguments = [&arguments[..], parameters].concat();
        let [ours, theirs] = ["memnbd", "nbdkit"].map(|program| {
            let directory = TempDir::new().unwrap();
            served(program, directory.path(), &arguments, &saying(REQUESTS));
            lines(&fs::read_to_string(directory.path().join("report")).unwrap())
        });
        // A size that is asked for once has no share with nbdkit.
        let of_many = |lines: &[String]| {
            let end = lines.iter().position(|line| line.starts_with("trim:")).unwrap();
            lines[..end].to_vec()
        };
        assert!(ours.len() > 6, "{ours:?}");
        assert_eq!(of_many(&ours), of_many(&theirs), "{parameters:?}");
        let totals = |lines: &[String]| -> Vec<String> {
            lines.iter().filter(|line| !line.starts_with(' ')).cloned().collect()
        };
        assert_eq!(totals(&ours), totals(&theirs));
    }
}

#[test]
fn times_are_those_of_the_disk_beneath() {
    require!("nbdsh");
    let directory = TempDir::new().unwrap();
    let script = r#"nbdsh -u "$uri" -c 'h.pwrite(b"x" * 512, 0)' -c 'h.pread(512, 0)'"#;
    let filters = ["--filter=stats", "--filter=delay", "memory", "1M", "delay-write=50ms"];
    served("memnbd", directory.path(), &[&filters[..], &["statsfile=report"]].concat(), script);
    let beneath = fs::read_to_string(directory.path().join("report")).unwrap();
    let seconds = |report: &str, name: &str| -> f64 {
        let line = report.lines().find(|line| line.starts_with(name)).unwrap();
        line.split(", ").nth(1).unwrap().strip_suffix(" s").unwrap().parse().unwrap()
    };
    assert!(seconds(&beneath, "write") >= 0.05, "{beneath}");
    assert!(beneath.contains("longest 5") && beneath.contains(" ms\n"), "{beneath}");
}

#[test]
fn report_is_appended_if_that_is_wanted() {
    require!("nbdsh");
    let directory = TempDir::new().unwrap();
    let report = directory.path().join("report");
    fs::write(&report, "before\n").unwrap();
    let script = r#"nbdsh -u "$uri" -c 'h.pread(512, 0)'"#;
    let arguments = ["--filter=stats", "memory", "1M", "statsfile=report", "statsappend=true"];
    served("memnbd", directory.path(), &arguments, script);
    served("memnbd", directory.path(), &arguments, script);
    let text = fs::read_to_string(&report).unwrap();
    assert!(text.starts_with("before\ntotal: 1 ops"), "{text}");
    assert_eq!(text.matches("total: ").count(), 2);
    served("memnbd", directory.path(), &arguments[..4], script);
    assert_eq!(fs::read_to_string(&report).unwrap().matches("total: ").count(), 1);
}

#[test]
fn failures_and_several_clients_are_counted() {
    require!("nbdsh");
    let filters = ["--filter=stats", "--filter=error", "memory", "1M"];
    let parameters = ["error-nth=10", "statsfile=report"];
    let directory = TempDir::new().unwrap();
    let script = r#"nbdsh -u "$uri" -c '
import os
c = nbd.NBD()
c.connect_uri(os.environ["uri"])
failed = 0
for n in range(100):
    try:
        [h, c][n % 2].pwrite(bytes(512), n * 512)
    except nbd.Error:
        failed += 1
assert failed == 10
'"#;
    let script = format!("export uri\n{script}");
    served("memnbd", directory.path(), &[&filters[..], &parameters].concat(), &script);
    let report = fs::read_to_string(directory.path().join("report")).unwrap();
    assert!(report.contains("write: 90 ops") && report.contains("  Failed: 10 ops\n"), "{report}");
}

#[test]
fn filter_works_without_a_file() {
    require!("nbdsh");
    let server = Server::start(&["--filter=stats", "memory", "1M"]);
    nbdsh(&server, "h.pwrite(b'x' * 512, 0); assert h.pread(512, 0) == b'x' * 512");
}

#[test]
fn mistakes_are_told() {
    for (parameters, code, words) in [
        (&["statsfile=none/report"][..], 1, "statsfile: "),
        (&["statsfile=a", "statsthreshold=101"], 2, "statsthreshold"),
        (&["statsfile=a", "statsappend=x"], 2, "statsappend"),
    ] {
        complains(code, &[&["--filter=stats", "memory", "1M"], parameters].concat(), &[words]);
    }
}
