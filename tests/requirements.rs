//! The table of what the specification asks of a server is complete, and the tests that it names
//! exist.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

const TABLE: &str = include_str!("requirements.md");

/// How many rows it has: none may get lost.
const ROWS: usize = 257;

/// Where there are tests.
const SOURCES: [&str; 4] = ["host/src", "host/program/src", "plugin", "tests"];

#[test]
fn every_requirement_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut known = HashSet::new();
    SOURCES.iter().for_each(|directory| collect(&root.join(directory), &mut known));
    let rows: Vec<Vec<&str>> = TABLE
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| id "))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    assert_eq!(rows.len(), ROWS);
    let mut unknown = Vec::new();
    for row in rows {
        let [id, level, _, _, tests] = row[..] else { panic!("five columns: {row:?}") };
        assert!(level.contains("MUST") || level.contains("SHOULD") || level == "MAY", "{id}");
        for test in tests.split(", ") {
            let name = test.strip_prefix('`').and_then(|test| test.strip_suffix('`'));
            if !name.is_some_and(|name| known.contains(name)) {
                unknown.push(format!("{id}: {test:?}"));
            }
        }
    }
    assert!(unknown.is_empty(), "there are no such tests: {unknown:#?}");
}

/// Adds the names of the tests in all files of a directory.
fn collect(directory: &Path, known: &mut HashSet<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.ends_with("target") {
                continue;
            }
            collect(&path, known);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let lines = text.lines().map(str::trim);
            for (attribute, function) in lines.clone().zip(lines.skip(1)) {
                let function = function.trim_start_matches("pub(crate) ");
                let function = function.trim_start_matches("async ").strip_prefix("fn ");
                let test = attribute == "#[test]" || attribute.starts_with("#[tokio::test");
                if let (true, Some(function)) = (test, function) {
                    known.extend(function.split_once('(').map(|(name, _)| name.to_owned()));
                }
            }
        }
    }
}
