//! Everything that must never happen has tests that hold it, which exist, or a reason why it is only argued.

use crate::support::{known_tests, rows, unknown};

const TABLE: &str = include_str!("threats.md");

/// The parties, by the letter with which the rows about them begin, and how many rows each has: none may
/// get lost.
const PARTIES: [(char, &str, usize); 6] = [
    ('C', "## A component", 10),
    ('L', "## A client", 7),
    ('T', "## A tenant with a token", 12),
    ('I', "## An image", 4),
    ('U', "## Another user of the machine", 5),
    ('A', "## The administrator", 5),
];

/// What stands in place of tests where there are none.
const ARGUED: &str = "argued: ";

/// How many rows are only argued. Whoever adds one has to say so here.
const ONLY_ARGUED: usize = 3;

#[test]
fn everything_that_must_never_happen_names_tests_that_exist() {
    let (known, rows) = (known_tests(), rows(TABLE));
    let (mut missing, mut argued, mut at) = (Vec::new(), 0, rows.iter());
    for (letter, title, count) in PARTIES {
        assert!(TABLE.lines().any(|line| line == title), "{title}");
        for number in 1..=count {
            let row = at.next().unwrap_or_else(|| panic!("{letter}-{number} is missing"));
            let [id, never, tests] = row[..] else { panic!("three columns: {row:?}") };
            assert_eq!(id, format!("{letter}-{number}"));
            assert!(never.ends_with('.'), "{id}: {never}");
            match tests.strip_prefix(ARGUED) {
                Some(reason) => {
                    assert!(reason.len() > 60 && reason.ends_with('.'), "{id}: {reason}");
                    argued += 1;
                }
                None => {
                    let unknown = unknown(tests, &known).into_iter();
                    missing.extend(unknown.map(|test| format!("{id}: {test:?}")));
                }
            }
        }
    }
    assert_eq!(at.next(), None);
    assert_eq!(argued, ONLY_ARGUED);
    assert!(missing.is_empty(), "there are no such tests: {missing:#?}");
}
