//! The table of requirements is complete, and the tests that it names exist.

const TABLE: &str = include_str!("requirements.md");

/// How many rows it has: none may get lost.
const ROWS: usize = 257;

/// Where the tests are that the table puts in quotes.
const SOURCES: [&str; 15] = [
    include_str!("../../block.rs"),
    include_str!("../codes.rs"),
    include_str!("../read.rs"),
    include_str!("../text.rs"),
    include_str!("admission.rs"),
    include_str!("contexts.rs"),
    include_str!("extended.rs"),
    include_str!("greeting.rs"),
    include_str!("hostile.rs"),
    include_str!("info.rs"),
    include_str!("options.rs"),
    include_str!("requirements.rs"),
    include_str!("structured.rs"),
    include_str!("tls.rs"),
    include_str!("transmission.rs"),
];

#[test]
fn every_requirement_names_tests_that_exist() {
    let rows: Vec<Vec<&str>> = TABLE
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| id "))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    assert_eq!(rows.len(), ROWS);
    for row in rows {
        let [id, level, _, _, tests] = row[..] else { panic!("five columns: {row:?}") };
        assert!(level.contains("MUST") || level.contains("SHOULD") || level == "MAY", "{id}");
        for test in tests.split(", ") {
            let Some(name) = test.strip_prefix('`').and_then(|test| test.strip_suffix('`')) else {
                assert!(matches!(test, "connection" | "e2e"), "{id}: {test}");
                continue;
            };
            let definition = format!("#[test]\n    fn {name}()");
            let indented = SOURCES.iter().any(|source| source.contains(&definition));
            let definition = format!("#[test]\nfn {name}()");
            let top = SOURCES.iter().any(|source| source.contains(&definition));
            assert!(indented || top, "{id}: there is no test {name}");
        }
    }
}
