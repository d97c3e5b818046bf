//! The filter `scan`, beside nbdkit's.

use std::fs;

use tempfile::TempDir;

use crate::backends::served;
use crate::mistakes::complaint;
use crate::support::{Server, nbdsh, require};

/// Reads little until the log has so many prefetches and no more, and prints their ranges.
const READ: &str = r#"nbdsh -u "$uri" -c '
import re, time
def prefetched():
    asked = re.findall(" Cache id=.* offset=(0x[0-9a-f]*) count=(0x[0-9a-f]*) ", open("log").read())
    return [(int(offset, 16), int(count, 16)) for offset, count in asked]
for attempt in range(1000):
    h.pread(512, 4096)
    if len(prefetched()) >= COUNT:
        break
    time.sleep(0.01)
for attempt in range(20):
    h.pread(512, 4096)
time.sleep(0.1)
print(prefetched())
'"#;

/// Serves a file of 1 MiB and 512 bytes.
fn prefetched(program: &str, parameters: &[&str], count: usize) -> String {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("disk"), vec![7; (1 << 20) + 512]).unwrap();
    let arguments = ["--filter=scan", "--filter=log", "file", "disk", "logfile=log"];
    let arguments = [&arguments, parameters].concat();
    served(program, directory.path(), &arguments, &READ.replace("COUNT", &count.to_string()))
}

#[test]
fn disk_is_prefetched_once_as_by_nbdkit() {
    require!("nbdkit", "nbdsh");
    for (size, count) in [("scan-size=64k", 17), ("scan-size=2M", 1), ("scan-size=512k", 3)] {
        let parameters = ["scan-ahead=false", size];
        let ours = prefetched("memnbd", &parameters, count);
        assert_eq!(ours, prefetched("nbdkit", &parameters, count), "{size}");
        assert!(
            ours.starts_with("[(0, ") && ours.trim_end().ends_with("512)]") || count == 1,
            "{ours}"
        );
    }
}

#[test]
fn scan_goes_on_behind_reads_and_may_begin_again() {
    require!("nbdsh");
    let ours = prefetched("memnbd", &["scan-size=1M"], 1);
    assert_eq!(ours, "[(4608, 1044480)]\n");
    let ours = prefetched("memnbd", &["scan-size=1M", "scan-forever=true"], 8);
    assert!(ours.starts_with("[(4608, 1044480), (0, 1048576), (1048576, 512), (0, "), "{ours}");
}

#[test]
fn content_is_that_of_the_disk_with_any_filter_that_prefetches() {
    require!("nbdsh");
    let filters = ["--filter=scan", "--filter=cache", "memory", "3M", "scan-size=64k"];
    let server = Server::start(&filters);
    nbdsh(
        &server,
        "
h.pwrite(b'abc' * 1000, 1 << 20)
for offset in range(0, 3 << 20, 1 << 16):
    expected = b'abc' * 1000 if offset == 1 << 20 else bytes(3000)
    assert h.pread(3000, offset) == expected
",
    );
}

#[test]
fn mistakes_are_told() {
    let directory = TempDir::new().unwrap();
    for (parameter, words) in [
        ("scan-size=3k", "scan-size must be a power of two from 512 to 32M, and is 3072"),
        ("scan-clock=false", "scan-clock=false is not supported"),
    ] {
        let error = complaint(directory.path(), 1, &["--filter=scan", "memory", "1M", parameter]);
        assert!(error.contains(words), "{error}");
    }
    let mut server =
        Server::start(&["--filter=scan", "--filter=nocache", "memory", "1M", "cachemode=none"]);
    server.expect_log("the disk beneath does not prefetch");
}
