//! Tables, in Markdown, that name tests.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

/// Where there are tests.
const SOURCES: [&str; 4] = ["host/src", "host/program/src", "plugin", "tests"];

/// The rows of the tables in a text whose first column is called `id`.
pub(crate) fn rows(text: &str) -> Vec<Vec<&str>> {
    text.lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| id "))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect()
}

/// The names in a cell, separated by commas, of which there is no test.
pub(crate) fn unknown<'a>(cell: &'a str, known: &HashSet<String>) -> Vec<&'a str> {
    let is_known = |test: &str| {
        let name = test.strip_prefix('`').and_then(|test| test.strip_suffix('`'));
        name.is_some_and(|name| known.contains(name))
    };
    cell.split(", ").filter(|test| !is_known(test)).collect()
}

/// The names of all tests.
pub(crate) fn known_tests() -> HashSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut known = HashSet::new();
    SOURCES.iter().for_each(|directory| collect(&root.join(directory), &mut known));
    known
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
