//! The difference of snapshots and disks.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::bitmaps::{BLOCK, SINCE_ONE, changed, changes, extents, map, script, sh};
use super::{DISKS, control, controlled, http};
use crate::support::{Server, require};

const SNAPSHOTS: &str = "/v1/tenants/default/snapshots";

/// Returns the extents that `memnbd diff` tells, which end in their sum.
fn diff(server: &Server, from: &str, other: &str) -> Vec<(u64, u64)> {
    let told = control(server, &["diff", from, other]).success();
    let (lines, total) = told.trim_end().rsplit_once('\n').unwrap_or(("", told.trim_end()));
    let pair = |line: &str| {
        let (offset, length) = line.split_once(' ').unwrap();
        (offset.parse().unwrap(), length.parse().unwrap())
    };
    let list: Vec<(u64, u64)> = lines.lines().map(pair).collect();
    let sum: u64 = list.iter().map(|(_, length)| length).sum();
    assert!(total.starts_with(&format!("total {sum} of ")), "{total}");
    list
}

#[test]
fn difference_is_that_of_the_bitmap() {
    require!("nbdinfo", "qemu-io");
    let server = controlled(&["1M"]);
    let mut random = fastrand::Rng::with_seed(5);
    let mut change = || {
        let changes = changes(&mut random, false);
        sh(&server, &format!("qemu-io -f raw {changes} $(uri large)"));
    };
    control(&server, &["create", "large", "1T"]).success();
    change();
    for name in ["one", "two", "three"] {
        control(&server, &["snapshot", "large", name]).success();
        change();
        sh(&server, "qemu-io -f raw -c 'write -q 700G 1' $(uri large)");
    }
    for name in ["one", "two", "three"] {
        let bitmap = map(&server, "large", &format!("qemu:dirty-bitmap:{name}"));
        assert_eq!(diff(&server, name, "large"), extents(&bitmap, &[1]));
    }
    control(&server, &["clone", "three", "clone", "--read-only"]).success();
    let bitmap = map(&server, "clone", "qemu:dirty-bitmap:one");
    assert_eq!(diff(&server, "one", "three"), extents(&bitmap, &[1]));
}

#[test]
fn snapshots_and_disks_that_stem_from_the_same_data_are_compared() {
    require!("qemu-io", "nbdinfo");
    let server = changed();
    sh(
        &server,
        "$memnbd snapshot golden two
        qemu-io -f raw -c 'write -q -P 2 20M 1' $(uri golden)
        $memnbd clone one c
        qemu-io -f raw -c 'write -q -P 2 20M 64k' -c 'write -q -P 1 30M 1' $(uri c)
        $memnbd snapshot c three
        $memnbd snapshot disk alien
        $memnbd rm --snapshot one
        $memnbd clone two r --read-only",
    );
    let union = |parts: &[(u64, u64)]| {
        let all: BTreeSet<(u64, u64)> = SINCE_ONE.iter().chain(parts).copied().collect();
        all.into_iter().collect::<Vec<_>>()
    };
    let (at_20, at_30) = ((20 << 20, BLOCK), (30 << 20, BLOCK));
    assert_eq!(diff(&server, "two", "golden"), [at_20]);
    assert_eq!(diff(&server, "two", "r"), []);
    assert_eq!(diff(&server, "two", "two"), []);
    // By way of a snapshot that was deleted.
    assert_eq!(diff(&server, "two", "three"), union(&[at_20, at_30]));
    assert_eq!(diff(&server, "three", "two"), union(&[at_20, at_30]));
    assert_eq!(diff(&server, "three", "golden"), union(&[at_20, at_30]));
    assert_eq!(diff(&server, "two", "c"), union(&[at_20, at_30]));
    assert_eq!(diff(&server, "three", "c"), []);
    // A name that a disk and a snapshot have.
    control(&server, &["snapshot", "golden", "c"]).success();
    assert_eq!(diff(&server, "two", "c"), [at_20]);
    let disk = control(&server, &["diff", "two", "c", "--disk", "--json"]).success();
    let disk: Value = serde_json::from_str(&disk).unwrap();
    assert_eq!((&disk["size"], &disk["granularity"]), (&json!(64 << 20), &json!(BLOCK)));
    assert_eq!(disk["extents"].as_array().unwrap().len(), 5);
    assert_eq!(disk["total"], 6 * BLOCK);
    let refused = |words: &[&str]| control(&server, words).failure(1);
    for words in [["diff", "two", "alien"], ["diff", "two", "disk"], ["diff", "alien", "golden"]] {
        let error = refused(&words);
        assert!(error.contains("do not stem from the same data"), "{error}");
    }
    let error = refused(&["diff", "none", "golden"]);
    assert!(error.contains("there is no snapshot \"none\""), "{error}");
    let error = refused(&["diff", "two", "none"]);
    assert!(error.contains("there is no snapshot and no disk \"none\""), "{error}");
}

#[test]
fn differences_come_in_parts() {
    require!("nbdsh");
    let server = controlled(&["1G"]);
    control(&server, &["snapshot", "disk", "one"]).success();
    script(
        &server,
        "
c = open_disk('disk')
for block in range(0, 400, 2):
    c.pwrite(b'x', block << 16)
",
    );
    control(&server, &["snapshot", "disk", "two"]).success();
    for of in [format!("{SNAPSHOTS}/two"), format!("{DISKS}/disk")] {
        let (mut start, mut blocks, mut parts) = (0, Vec::new(), 0);
        loop {
            let path = format!("{of}/diff?from=one&start={start}&limit=7");
            let part = http(&server, "GET", &path, None).json();
            let extents = part["extents"].as_array().unwrap();
            assert!((1..=7).contains(&extents.len()));
            assert!(extents.iter().all(|extent| extent["length"] == BLOCK));
            let offset = |extent: &Value| extent["offset"].as_u64().unwrap() / BLOCK;
            blocks.extend(extents.iter().map(offset));
            parts += 1;
            match part["next"].as_u64() {
                Some(next) => start = next,
                None => break,
            }
        }
        assert_eq!((blocks, parts), ((0..400).step_by(2).collect::<Vec<u64>>(), 29));
    }
    let long = control(&server, &["diff", "one", "two"]).success();
    assert_eq!(long.lines().count(), 201);
    let snapshot = format!("{SNAPSHOTS}/two/diff");
    for (query, status, words) in [
        ("", 400, "from"),
        ("?from=one&start=-1", 400, "start"),
        ("?from=one&start=1073741824", 400, "less than the size, which is 1073741824"),
        ("?from=one&limit=0", 400, "from 1 to 10000"),
        ("?from=one&limit=10001", 400, "from 1 to 10000"),
        ("?from=one&colour=1", 400, "colour"),
        ("?from=once", 404, "did you mean \"one\""),
    ] {
        let answer = http(&server, "GET", &format!("{snapshot}{query}"), None);
        let problem = answer.problem();
        assert_eq!(answer.status, status, "{query}: {problem}");
        assert!(problem.contains(words), "{query}: {problem}");
    }
    let described = http(&server, "GET", "/v1/openapi.json", None).json();
    for of in ["disks/{disk}", "snapshots/{snapshot}"] {
        let path = format!("/v1/tenants/{{tenant}}/{of}/diff");
        assert!(described["paths"][path]["get"]["responses"]["409"].is_object());
    }
}
