//! Which module of the library uses which, and which crates can be published. Each module uses only those
//! that come before it here, so there are no circles, and whoever wants another arrow has to say so in this
//! table.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The modules of `host/src`, and what each of them may use.
const LAYERS: &[(&str, &[&str])] = &[
    ("clock", &[]),
    ("sync", &[]),
    ("machine", &[]),
    ("throttle", &[]),
    ("owned_file", &[]),
    ("output", &[]),
    ("transport", &[]),
    ("block", &[]),
    ("budget", &["sync"]),
    ("access", &[]),
    ("places", &["budget"]),
    ("rate", &[]),
    ("compute", &["machine"]),
    ("confinement", &[]),
    ("client_log", &["throttle"]),
    ("tls", &["access", "transport"]),
    ("nbd", &["block"]),
    ("parameters", &["block", "output"]),
    (
        "component",
        &[
            "block",
            "budget",
            "compute",
            "confinement",
            "machine",
            "output",
            "parameters",
            "throttle",
        ],
    ),
    (
        "device",
        &[
            "block",
            "budget",
            "clock",
            "component",
            "compute",
            "machine",
            "output",
            "parameters",
            "sync",
            "throttle",
        ],
    ),
    (
        "exports",
        &[
            "access",
            "block",
            "budget",
            "component",
            "device",
            "parameters",
            "places",
            "rate",
            "throttle",
        ],
    ),
    ("remote", &["block", "device", "nbd"]),
    ("last_flush", &["exports"]),
    (
        "connection",
        &[
            "access",
            "block",
            "device",
            "exports",
            "machine",
            "nbd",
            "places",
            "rate",
            "tls",
            "transport",
        ],
    ),
    (
        "server",
        &[
            "access",
            "block",
            "client_log",
            "connection",
            "exports",
            "last_flush",
            "nbd",
            "owned_file",
            "places",
            "tls",
            "transport",
        ],
    ),
    (
        "embed",
        &[
            "component",
            "connection",
            "device",
            "exports",
            "machine",
            "nbd",
            "output",
            "parameters",
            "server",
        ],
    ),
];

/// The files of a module that are not tests.
fn files(path: &Path, found: &mut Vec<PathBuf>) {
    let name = path.file_stem().unwrap_or_default();
    if name == "tests" {
        return;
    }
    match fs::read_dir(path) {
        Ok(entries) => entries.for_each(|entry| files(&entry.unwrap().path(), found)),
        Err(_) => found.push(path.to_owned()),
    }
}

/// The modules that the code of a file names, without its comments and tests.
fn used(text: &str) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let mut modules = BTreeSet::new();
    for line in lines {
        for (at, word) in line.match_indices("crate::") {
            let rest = &line[at + word.len()..];
            let end = rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
            modules.insert(rest[..end].to_owned());
        }
    }
    modules
}

#[test]
fn modules_use_what_is_below_them() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src");
    for (index, (module, allowed)) in LAYERS.iter().enumerate() {
        let below: Vec<&str> = LAYERS[..index].iter().map(|(module, _)| *module).collect();
        for used in *allowed {
            assert!(below.contains(used), "{module} may use {used}, which is not below it");
        }
        let mut found = Vec::new();
        for path in [sources.join(module), sources.join(module).with_extension("rs")] {
            if path.exists() {
                files(&path, &mut found);
            }
        }
        assert!(!found.is_empty(), "there is no module {module}");
        let uses: BTreeSet<String> =
            found.iter().flat_map(|file| used(&fs::read_to_string(file).unwrap())).collect();
        let expected: BTreeSet<String> =
            allowed.iter().chain([module]).map(|&used| used.to_owned()).collect();
        let more: Vec<_> = uses.difference(&expected).collect();
        assert!(more.is_empty(), "{module} uses {more:?}, which it may not");
        let unused: Vec<_> = allowed.iter().filter(|&&used| !uses.contains(used)).collect();
        assert!(unused.is_empty(), "{module} does not use {unused:?} any more");
    }
}

#[test]
fn every_module_has_its_place() {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src/lib.rs");
    let text = fs::read_to_string(library).unwrap();
    let declared: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod "))
        .map(|line| line.trim_end_matches(';'))
        .collect();
    let placed: BTreeSet<&str> = LAYERS.iter().map(|(module, _)| *module).collect();
    assert_eq!(declared, placed);
}

#[test]
fn crates_need_only_those_that_are_published() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let workspace = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let members = workspace.split('"').filter(|text| text.starts_with("plugin/"));
    let manifests: Vec<String> = ["host", "host/program"]
        .into_iter()
        .chain(members)
        .map(|member| fs::read_to_string(root.join(member).join("Cargo.toml")).unwrap())
        .collect();
    let name = |manifest: &String| {
        let name = manifest.lines().find_map(|line| line.strip_prefix("name = "));
        name.expect("it has a name").trim_matches('"').to_owned()
    };
    let is_published = |manifest: &&String| !manifest.contains("publish = false");
    let published: BTreeSet<String> = manifests.iter().filter(is_published).map(name).collect();
    assert!(published.contains("memnbd") && published.len() < manifests.len());
    for manifest in &manifests {
        // One without a version is for tests, and not a part of the package.
        let needed = manifest.lines().filter_map(|line| line.split_once(" = { version"));
        for (needed, _) in needed.filter(|(needed, _)| needed.starts_with("memnbd")) {
            assert!(published.contains(needed), "{} needs {needed}", name(manifest));
        }
    }
}
