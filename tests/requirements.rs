//! The table of what the specification asks of a server is complete, and the tests that it names
//! exist.

use crate::support::{known_tests, rows, unknown};

const TABLE: &str = include_str!("requirements.md");

/// How many rows it has: none may get lost.
const ROWS: usize = 257;

#[test]
fn every_requirement_names_tests_that_exist() {
    let (known, rows) = (known_tests(), rows(TABLE));
    assert_eq!(rows.len(), ROWS);
    let mut missing = Vec::new();
    for row in rows {
        let [id, level, _, _, tests] = row[..] else { panic!("five columns: {row:?}") };
        assert!(level.contains("MUST") || level.contains("SHOULD") || level == "MAY", "{id}");
        missing.extend(unknown(tests, &known).into_iter().map(|test| format!("{id}: {test:?}")));
    }
    assert!(missing.is_empty(), "there are no such tests: {missing:#?}");
}
