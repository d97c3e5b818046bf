//! The table of nbdkit's filters is complete and true.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::support::{memnbd, run};

const TABLE: &str = include_str!("nbdkit.md");

/// Where Debian has nbdkit's filters.
const INSTALLED: &str = "/usr/lib/x86_64-linux-gnu/nbdkit/filters";

/// What the table says of each filter.
fn table() -> BTreeMap<&'static str, &'static str> {
    // Two tables: nbdkit's, and those that it has not.
    let sorted = TABLE.split("| filter | here |").skip(1).all(|table| {
        let rows = table.lines().filter_map(|line| line.strip_prefix("| `"));
        rows.filter_map(|row| row.split('`').next()).is_sorted()
    });
    assert!(sorted, "in the order of the names");
    let rows = TABLE.lines().filter_map(|line| line.strip_prefix("| `"));
    let row = |row: &'static str| {
        let (name, rest) = row.split_once("` | ").expect("a name in backticks");
        (name, rest.split_once(" | ").expect("three columns").0)
    };
    let rows: Vec<_> = rows.map(row).collect();
    let table: BTreeMap<_, _> = rows.iter().copied().collect();
    assert_eq!(table.len(), rows.len(), "each name once");
    table
}

/// What the program prints.
fn output(arguments: &[&str]) -> String {
    run(&mut memnbd(Path::new("/"), arguments)).success()
}

/// The names of the built-in components that are filters.
fn built_in_filters() -> Vec<String> {
    let config = output(&["--dump-config"]);
    let components = config.lines().find_map(|line| line.strip_prefix("components="));
    let names = components.expect("the names of the components").split(' ');
    let is_filter = |name: &&str| output(&["--dump-component", name]).contains("\nfilter=true\n");
    names.filter(is_filter).map(str::to_owned).collect()
}

#[test]
fn table_names_every_built_in_filter_and_what_it_names_is_there() {
    let table = table();
    let built_in = built_in_filters();
    for name in &built_in {
        assert_eq!(table.get(&**name), Some(&"filter"), "{name} is built in");
    }
    for (name, here) in table {
        match here {
            // A component may have two names.
            "filter" => {
                assert!(output(&["--dump-component", name]).contains("\nfilter=true\n"), "{name}");
            }
            "server" => {
                let help = output(&["--help", "--component", name]);
                assert!(help.contains(&format!("Component {name}")), "{name}: {help}");
            }
            "no" => {
                let filter = format!("--filter={name}");
                let refused =
                    run(&mut memnbd(Path::new("/"), [&filter, "memory", "1M"])).failure(2);
                let told = format!("the filter {name} of nbdkit is not supported; ");
                assert!(refused.contains(&told), "{refused}");
            }
            other => panic!("{name}: {other}"),
        }
    }
}

#[test]
fn table_names_every_filter_that_is_installed() {
    let Ok(installed) = fs::read_dir(INSTALLED) else {
        assert!(std::env::var_os("CI").is_none(), "nbdkit is not installed");
        eprintln!("skipped: nbdkit is not installed");
        return;
    };
    let table = table();
    for entry in installed {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let name = file.strip_prefix("nbdkit-").and_then(|rest| rest.strip_suffix("-filter.so"));
        let Some(name) = name else { continue };
        assert!(table.contains_key(name), "{name}");
    }
}
