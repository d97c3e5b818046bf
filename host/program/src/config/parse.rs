//! From TOML to disks. Every mistake is reported with its line and column.

use std::collections::BTreeMap;

use memnbd::parameters::nearest;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::exports::read_exports;
use super::tenants::{read_tenants, read_tokens};
use super::{Config, Configured, ConfiguredGrant};
use crate::control::{DiskSpec, MAX_DISKS, MAX_WEIGHT, check_name};

/// The tables of a configuration.
const TABLES: [&str; 5] = ["disks", "exports", "grants", "tenants", "tokens"];

/// The keys of a disk.
const DISK_KEYS: [&str; 8] =
    ["component", "snapshot", "filters", "parameters", "read_only", "labels", "ttl", "ephemeral"];

/// The longest text of a configuration that a message repeats, in characters.
const MAX_QUOTED: usize = 64;

/// Who wrote a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Author {
    /// Somebody with the server's rights, who may give grants.
    Server,
    /// Somebody who uses the control API.
    Api,
}

/// A mistake at an offset in the text.
pub(super) struct Mistake {
    pub(super) at: usize,
    pub(super) message: String,
}

pub(super) type Entry<'a, 'i> = (&'a str, usize, &'a Spanned<DeValue<'i>>);

/// Parses a configuration.
///
/// # Errors
///
/// Returns a message with the line and column of the first mistake.
pub(crate) fn parse(text: String, author: Author) -> Result<Config, String> {
    match read(&text, author) {
        Ok(config) => Ok(Config { text, ..config }),
        Err(Mistake { at, message }) => Err(located(&text, at, &message)),
    }
}

/// Adds the place of an offset in a text to a message. Lines and columns begin at 1; columns count
/// characters.
pub(super) fn located(text: &str, at: usize, message: &str) -> String {
    let before = text.get(..at).unwrap_or(text);
    let line = before.bytes().filter(|&byte| byte == b'\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |end| end + 1);
    let column = before[start..].chars().count() + 1;
    format!("line {line}, column {column}: {message}")
}

/// Reads a configuration, without keeping its text.
fn read(text: &str, author: Author) -> Result<Config, Mistake> {
    let root = DeTable::parse(text).map_err(|error| Mistake {
        at: error.span().map_or(text.len(), |span| span.start),
        message: format!("this is not TOML: {}", error.message().replace('\n', "; ")),
    })?;
    let (mut disks, mut exports, mut grants) = (None, None, Vec::new());
    let (mut tenants, mut tokens) = (None, Vec::new());
    for (key, at, value) in entries(root.get_ref()) {
        match key {
            "disks" => disks = Some(read_disks(table(value, "disks", "[disks.NAME]")?, author)?),
            "exports" => exports = Some(table(value, "exports", "[exports.NAME]")?),
            "grants" if author == Author::Server => {
                grants = read_grants(table(value, "grants", "[grants.KIND]")?)?;
            }
            "tenants" if author == Author::Server => {
                tenants = Some(read_tenants(table(value, "tenants", "[tenants.NAME]")?)?);
            }
            "tokens" if author == Author::Server => {
                tokens = read_tokens(table(value, "tokens", "[tokens.NAME]")?)?;
            }
            "tenants" | "tokens" => {
                let message = "tenants and tokens are made by the administrator, in the file of --config, or \
                               one by one through the control API";
                return Err(Mistake { at, message: message.into() });
            }
            "grants" => {
                let message = "grants are given by the administrator, in the file of --config or \
                               with --grant, and not through the control API";
                return Err(Mistake { at, message: message.into() });
            }
            _ => return Err(unknown(key, at, "a configuration", &TABLES)),
        }
    }
    if disks.is_none() && tenants.is_none() {
        // A file that is being written may be empty, and does not stand for no disks.
        let message = "there is no table \"disks\"; where there are no disks, write [disks]";
        return Err(Mistake { at: text.len(), message: message.into() });
    }
    let (disks, tenants) = (disks.unwrap_or_default(), tenants.unwrap_or_default());
    let exports = exports.map(|exports| read_exports(exports, &disks, author)).transpose()?;
    let exports = exports.unwrap_or_default();
    Ok(Config { disks, exports, grants, tenants, tokens, text: String::new() })
}

pub(super) fn read_disks(table: &DeTable<'_>, author: Author) -> Result<Vec<Configured>, Mistake> {
    let mut disks = Vec::new();
    let mut weight = 0;
    for (index, (name, at, value)) in entries(table).into_iter().enumerate() {
        let wrong = |problem: String| Mistake { at, message: problem };
        check_name(name).map_err(wrong)?;
        if index >= MAX_DISKS {
            return Err(wrong(format!(
                "there are too many disks; at most {MAX_DISKS} are possible"
            )));
        }
        let of_disk = |problem: String| wrong(format!("the disk {}: {problem}", quoted(name)));
        let spec = read_disk(self::table(value, name, "[disks.NAME]")?, author)?;
        let spec = spec.checked().map_err(of_disk)?;
        weight += spec.weight();
        if weight > MAX_WEIGHT {
            return Err(of_disk(format!(
                "the texts of the disks up to this one are too long; all together take at most \
                 {MAX_WEIGHT} bytes"
            )));
        }
        disks.push(Configured { name: name.to_owned(), spec, at });
    }
    Ok(disks)
}

fn read_disk(table: &DeTable<'_>, author: Author) -> Result<DiskSpec, Mistake> {
    let mut spec = DiskSpec { component: None, ..DiskSpec::default() };
    for (key, at, value) in entries(table) {
        match key {
            "component" => spec.component = Some(string(value, key, "\"memory\"")?),
            "snapshot" if author == Author::Server => {
                let message = "snapshots are taken while the server runs and end with it, so no disk of \
                               its own configuration begins with one; memnbd apply can create such disks";
                return Err(Mistake { at, message: message.into() });
            }
            "snapshot" => spec.snapshot = Some(string(value, key, "\"clean\"")?),
            "filters" => spec.filters = strings(value, key, "[\"error\"]")?,
            "parameters" => spec.parameters = strings(value, key, "[\"size=1G\"]")?,
            "read_only" => spec.read_only = boolean(value, key)?,
            "ttl" => {
                let ttl = string(value, key, "\"10m\"")?.parse();
                let at = value.span().start;
                let wrong = |problem| Mistake { at, message: format!("ttl: {problem}") };
                spec.ttl = Some(ttl.map_err(wrong)?);
            }
            "ephemeral" => spec.ephemeral = boolean(value, key)?,
            "labels" => {
                let labels = self::table(value, key, "{ suite = \"nightly\" }")?;
                let label = |(key, _, value): Entry<'_, '_>| {
                    Ok((key.to_owned(), string(value, key, "\"nightly\"")?))
                };
                let labels: Result<BTreeMap<_, _>, Mistake> =
                    entries(labels).into_iter().map(label).collect();
                spec.labels = labels?;
            }
            _ => return Err(unknown(key, at, "a disk", &DISK_KEYS)),
        }
    }
    Ok(spec)
}

pub(super) fn read_grants(table: &DeTable<'_>) -> Result<Vec<ConfiguredGrant>, Mistake> {
    let mut grants = Vec::new();
    for (kind, at, value) in entries(table) {
        if !crate::grants::KINDS.contains(&kind) {
            return Err(unknown(kind, at, "grants", &crate::grants::KINDS));
        }
        for (name, at, value) in entries(self::table(value, kind, "NAME = \"PATH\"")?) {
            let path = string(value, name, "the path \"/images/golden.img\"")?;
            let (kind, name) = (kind.to_owned(), name.to_owned());
            grants.push(ConfiguredGrant { kind, name, path, at });
        }
    }
    Ok(grants)
}

/// Returns the entries of a table in the order of the text, with the offsets of their keys.
pub(super) fn entries<'a, 'i>(table: &'a DeTable<'i>) -> Vec<Entry<'a, 'i>> {
    let entry = |(key, value): (&'a Spanned<_>, &'a Spanned<DeValue<'i>>)| -> Entry<'a, 'i> {
        let key: &'a Spanned<std::borrow::Cow<'i, str>> = key;
        (key.get_ref().as_ref(), key.span().start, value)
    };
    let mut entries: Vec<Entry<'a, 'i>> = table.iter().map(entry).collect();
    entries.sort_by_key(|&(_, at, _)| at);
    entries
}

pub(super) fn table<'a, 'i>(
    value: &'a Spanned<DeValue<'i>>,
    key: &str,
    example: &str,
) -> Result<&'a DeTable<'i>, Mistake> {
    match value.get_ref() {
        DeValue::Table(table) => Ok(table),
        other => Err(other_type(value, key, &format!("a table, as {example}"), other)),
    }
}

pub(super) fn boolean(value: &Spanned<DeValue<'_>>, key: &str) -> Result<bool, Mistake> {
    match value.get_ref() {
        DeValue::Boolean(boolean) => Ok(*boolean),
        other => Err(other_type(value, key, "true or false", other)),
    }
}

pub(super) fn string(
    value: &Spanned<DeValue<'_>>,
    key: &str,
    example: &str,
) -> Result<String, Mistake> {
    match value.get_ref() {
        DeValue::String(text) => Ok(text.as_ref().to_owned()),
        other => Err(other_type(value, key, &format!("a string, as {example}"), other)),
    }
}

pub(super) fn strings(
    value: &Spanned<DeValue<'_>>,
    key: &str,
    example: &str,
) -> Result<Vec<String>, Mistake> {
    match value.get_ref() {
        DeValue::Array(items) => {
            let what = format!("an item of {key}");
            items.iter().map(|item| string(item, &what, example)).collect()
        }
        other => Err(other_type(value, key, &format!("an array of strings, as {example}"), other)),
    }
}

pub(super) fn other_type(
    value: &Spanned<DeValue<'_>>,
    key: &str,
    expected: &str,
    given: &DeValue<'_>,
) -> Mistake {
    let given = given.type_str();
    Mistake {
        at: value.span().start,
        message: format!("{}: it is {expected}; this is of the type {given}", shortened(key)),
    }
}

pub(super) fn unknown(key: &str, at: usize, what: &str, known: &[&str]) -> Mistake {
    let guess = nearest(key, known.iter().copied())
        .map_or_else(String::new, |near| format!("; did you mean {near:?}?"));
    let known = known.join(", ");
    let key = quoted(key);
    Mistake { at, message: format!("{key} is not a key of {what}; the keys are {known}{guess}") }
}

pub(super) fn quoted(text: &str) -> String {
    format!("{:?}", shortened(text))
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTED) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Config, String> {
        parse(text.to_owned(), Author::Server)
    }

    #[test]
    fn disks_are_in_the_order_of_the_text() {
        let config = parsed(
            "[grants.file]\na = 'b'\n[disks.z]\nparameters = ['1M']\n\
             [disks.a]\ncomponent = 'data'\nfilters = ['x', 'y']\nread_only = true\nlabels.k = 'v'",
        );
        let config = config.unwrap();
        let names: Vec<&str> = config.disks.iter().map(|disk| disk.name.as_str()).collect();
        assert_eq!(names, ["z", "a"]);
        let spec = DiskSpec { parameters: vec!["1M".into()], ..DiskSpec::default() };
        assert_eq!(config.disks[0].spec, spec);
        let spec = DiskSpec {
            component: Some("data".into()),
            filters: vec!["x".into(), "y".into()],
            read_only: true,
            labels: [("k".to_owned(), "v".to_owned())].into(),
            ..DiskSpec::default()
        };
        assert_eq!(config.disks[1].spec, spec);
        assert_eq!(config.grants[0].path, "b");
        assert_eq!(config.located(None, "a", "x"), "line 5, column 8: x");
        assert_eq!(config.located(None, "b", "x"), "x");
    }

    #[test]
    fn places_count_lines_and_characters() {
        let text = "a\n\u{e4}\u{e4}b\n";
        for (at, place) in [
            (0, "line 1, column 1: x"),
            (1, "line 1, column 2: x"),
            (2, "line 2, column 1: x"),
            (6, "line 2, column 3: x"),
            (8, "line 3, column 1: x"),
            (99, "line 3, column 1: x"),
        ] {
            assert_eq!(located(text, at, "x"), place);
        }
    }

    #[test]
    fn any_text_is_parsed_or_refused() {
        let pieces = [
            "[",
            "]",
            "[[",
            "]]",
            "disks",
            ".",
            "a",
            "=",
            "'",
            "\"",
            "\n",
            "{",
            "}",
            ",",
            "1",
            "#",
            "\\",
            "grants",
            "file",
            "parameters",
            "\u{e4}",
            "'''",
            " ",
            "labels",
            "true",
            "e9",
        ];
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let length = random.usize(..24);
            let text: String = (0..length).map(|_| pieces[random.usize(..pieces.len())]).collect();
            if let Err(problem) = parsed(&text) {
                assert!(problem.starts_with("line "), "{text:?}: {problem}");
            }
        }
    }

    #[test]
    fn api_gives_no_grants() {
        let text = "[disks]\n[grants.file]\na = '/'";
        assert!(parsed(text).is_ok());
        let problem = parse(text.into(), Author::Api).unwrap_err();
        assert!(problem.starts_with("line 2, column 2: grants are given"), "{problem}");
    }
}
