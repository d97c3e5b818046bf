//! Exports in a configuration: other names of disks, and snapshots that are served.

use std::collections::HashSet;

use toml::de::DeTable;

use super::parse::{Author, Mistake, boolean, entries, quoted, string, strings, table, unknown};
use super::{Configured, ConfiguredExport};
use crate::control::{ExportSpec, MAX_DISKS, MAX_WEIGHT, check_name};

/// The keys of an export.
const EXPORT_KEYS: [&str; 6] = ["disk", "snapshot", "read_only", "tls", "filters", "parameters"];

/// Reads the exports that a configuration has besides these disks.
pub(super) fn read_exports(
    root: &DeTable<'_>,
    disks: &[Configured],
    author: Author,
) -> Result<Vec<ConfiguredExport>, Mistake> {
    let of_disks: HashSet<&str> = disks.iter().map(|disk| disk.name.as_str()).collect();
    let mut weight: usize = disks.iter().map(|disk| disk.spec.weight()).sum();
    let mut exports = Vec::new();
    for (index, (name, at, value)) in entries(root).into_iter().enumerate() {
        let wrong = |problem: String| Mistake { at, message: problem };
        check_name(name).map_err(wrong)?;
        let of_export = |problem: &str| wrong(format!("the export {}: {problem}", quoted(name)));
        if of_disks.contains(name) {
            return Err(of_export(
                "there is a disk of this name, and clients find disks and exports by the same names; choose \
                 another one",
            ));
        }
        if disks.len() + index >= MAX_DISKS {
            return Err(wrong(format!(
                "there are too many disks and exports; at most {MAX_DISKS} are possible"
            )));
        }
        let spec = read_export(table(value, name, "[exports.NAME]")?, author)?;
        let spec = spec.checked().map_err(|problem| of_export(&problem))?;
        weight += spec.weight();
        if weight > MAX_WEIGHT {
            return Err(of_export(&format!(
                "the texts of the disks and of the exports up to this one are too long; all together take \
                 at most {MAX_WEIGHT} bytes"
            )));
        }
        exports.push(ConfiguredExport { name: name.to_owned(), spec, at });
    }
    Ok(exports)
}

fn read_export(table: &DeTable<'_>, author: Author) -> Result<ExportSpec, Mistake> {
    let mut spec = ExportSpec::default();
    for (key, at, value) in entries(table) {
        match key {
            "disk" => spec.disk = Some(string(value, key, "\"scratch\"")?),
            "snapshot" if author == Author::Server => {
                let message = "snapshots are taken while the server runs and end with it, so no export of \
                               its own configuration serves one; memnbd apply can create such exports";
                return Err(Mistake { at, message: message.into() });
            }
            "snapshot" => spec.snapshot = Some(string(value, key, "\"clean\"")?),
            "read_only" => spec.read_only = boolean(value, key)?,
            "tls" => spec.tls = boolean(value, key)?,
            "filters" => spec.filters = strings(value, key, "[\"limit\"]")?,
            "parameters" => spec.parameters = strings(value, key, "[\"limit=4\"]")?,
            _ => return Err(unknown(key, at, "an export", &EXPORT_KEYS)),
        }
    }
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    #[test]
    fn exports_are_read_with_all_their_keys() {
        let text = "[exports.b]\ndisk = 'a'\nread_only = true\ntls = true\n\
                    filters = ['limit']\nparameters = ['limit=4']\n[exports.c]\nsnapshot = 's'\n[disks.a]\n";
        let config = parse(text.into(), Author::Api).unwrap();
        let [b, c] = &config.exports[..] else { panic!("two exports") };
        let spec = ExportSpec {
            disk: Some("a".into()),
            snapshot: None,
            read_only: true,
            tls: true,
            filters: vec!["limit".into()],
            parameters: vec!["limit=4".into()],
        };
        assert_eq!((b.name.as_str(), &b.spec), ("b", &spec));
        assert!(c.spec.read_only, "snapshots do not change");
        assert_eq!(config.located(None, "c", "x"), "line 7, column 10: x");
        assert_eq!(config.located(None, "a", "x"), "line 9, column 8: x");
    }

    #[test]
    fn mistakes_are_told_with_the_place() {
        for (text, problem) in [
            ("[exports.a]", "line 1, column 10: the export \"a\": an export has either a disk"),
            ("[exports.a]\ndisk = 'x'\nsnapshot = 's'", "line 3, column 1: snapshots are taken"),
            ("[exports.a]\ndisk = 5", "line 2, column 8: disk: it is a string"),
            ("[exports.a]\ntls = 'no'", "line 2, column 7: tls: it is true or false"),
            ("[exports.a]\nfilter = 'no'", "did you mean \"filters\"?"),
            ("[disks.a]\n[exports.a]\ndisk = 'a'", "line 2, column 10: the export \"a\": there is"),
            ("[exports.'']", "line 1, column 10: the name of a disk"),
            ("exports = 5", "line 1, column 11: exports: it is a table"),
            ("[tenants.t]\nexports.a = {}", "line 2, column 9: the export \"a\""),
            (
                "[tenants.t]\nquotas.disks = 1\ndisks.x = {}\nexports.y = { disk = 'x' }",
                "has 1 disks and 1 exports here, and its quota is 1",
            ),
        ] {
            let told = parse(format!("{text}\n[disks.other]\n"), Author::Server).unwrap_err();
            assert!(told.contains(problem), "{text}: {told}");
        }
    }
}
