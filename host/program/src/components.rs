//! Selecting a component, and its parameters.

use std::fs;
use std::io;
use std::path::Path;

use super::{file, sandbox};
use memnbd::component::{BuiltIn, Description};
use memnbd::parameters::{key_value, nearest};

/// The component that is used if none is named.
pub(super) const DEFAULT: &str = "memory";

/// Loads the default component, which most users want. The server is ready a quarter of a millisecond
/// earlier if this is done while the command line is parsed; if another component is used, that much
/// time of another processor is wasted.
pub(super) fn prepare_default() {
    if let Some(default) = BuiltIn::find(DEFAULT) {
        default.prepare();
    }
}

/// The component that the command line names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// No component was named.
    Default,
    /// The component with this name.
    Named(String),
}

/// Returns the names of the built-in components and of the native backend.
pub(super) fn names() -> Vec<&'static str> {
    let mut names: Vec<_> = BuiltIn::ALL.iter().map(BuiltIn::name).chain([file::NAME]).collect();
    names.sort_unstable();
    names
}

/// Separates the component from its parameters. The component is the value of `--component`, or
/// else the first parameter unless that is a value. The name is not checked; see [`find`].
pub(super) fn choose<'a>(option: Option<&str>, parameters: &'a [String]) -> (Choice, &'a [String]) {
    if let Some(name) = option {
        return (Choice::Named(name.to_owned()), parameters);
    }
    match parameters.split_first() {
        Some((first, rest)) if !is_value(first) => (Choice::Named(first.clone()), rest),
        _ => (Choice::Default, parameters),
    }
}

/// Returns true if a first word is a value: KEY=VALUE, or a bare value for the default component,
/// whose main parameter is a size. Paths and names of components are not values.
fn is_value(word: &str) -> bool {
    let is_number = || !word.starts_with(|c: char| c.is_alphabetic() || c == '_');
    key_value(word).is_some() || (!is_path(word) && is_number())
}

/// Returns true if a word names a file rather than a built-in component.
pub(super) fn is_path(word: &str) -> bool {
    word.contains('/') || word.ends_with(".wasm")
}

/// Returns a name for [`find`], where the paths of components begin at a directory.
pub(super) fn located(name: &str, directory: &Path) -> String {
    if !is_path(name) {
        return name.to_owned();
    }
    let path = directory.join(name);
    match built_in(name) {
        Some(found) if !path.is_file() => found.name().to_owned(),
        _ => path.to_string_lossy().into_owned(),
    }
}

/// Returns the built-in component with this name, which may end in `.wasm`.
fn built_in(name: &str) -> Option<BuiltIn> {
    BuiltIn::find(name.strip_suffix(".wasm").unwrap_or(name))
}

/// Returns the component that serves these words, and the words for it: a built-in component may be
/// another one for some parameters.
pub(super) fn for_words(name: &str, words: &[String]) -> (String, Vec<String>) {
    let same = || (name.to_owned(), words.to_vec());
    let Some(named) = built_in(name).filter(|_| !is_path(name) || !Path::new(name).exists()) else {
        return same();
    };
    // Parameters for this layer may be written NAME.KEY=VALUE.
    let own = |word: &String| {
        let rest = word.strip_prefix(named.name()).and_then(|rest| rest.strip_prefix('.'));
        rest.filter(|rest| key_value(rest).is_some()).unwrap_or(word).to_owned()
    };
    let own: Vec<String> = words.iter().map(own).collect();
    let serving = named.for_parameters(&own);
    if serving.name() == named.name() {
        return same();
    }
    let readdressed = |(word, own): (&String, String)| match *word == own {
        true => own,
        false => format!("{}.{own}", serving.name()),
    };
    (serving.name().to_owned(), words.iter().zip(own).map(readdressed).collect())
}

/// Where a component comes from.
pub(super) enum Source {
    /// The bytes of a file.
    File(Vec<u8>),
    BuiltIn(BuiltIn),
}

/// Finds the component with this name. A path, which contains a slash or ends in `.wasm`, names a
/// file, or a built-in component if there is no such file. Anything else names a built-in
/// component, even if there is a file of that name.
///
/// # Errors
///
/// Returns a message if there is no such component, or its file cannot be read.
pub(super) fn find(name: &str) -> Result<Source, String> {
    check_name(name)?;
    if !is_path(name)
        && let Some(found) = built_in(name)
    {
        return Ok(Source::BuiltIn(found));
    }
    let is_directory = Path::new(name).is_dir();
    match (fs::read(name), built_in(name)) {
        (Ok(wasm), _) => Ok(Source::File(wasm)),
        (Err(error), Some(found)) if is_directory || error.kind() == io::ErrorKind::NotFound => {
            Ok(Source::BuiltIn(found))
        }
        (Err(error), None) if error.kind() == io::ErrorKind::NotFound => Err(format!(
            "component {name:?}: no such file, and the built-in components are {}",
            names().join(", ")
        )),
        (Err(error), _) => {
            Err(format!("component {name:?}: {}", sandbox::explained(Path::new(name), error)))
        }
    }
}

/// Checks that a name is a path or the name of a built-in component. It does not check whether the
/// file exists.
///
/// # Errors
///
/// Returns a message, with a suggestion if possible, if there is no such component.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    if is_path(name) || name == file::NAME || built_in(name).is_some() {
        return Ok(());
    }
    let guess = match nearest(name, names()) {
        _ if Path::new(name).is_file() => format!("; did you mean the file \"./{name}\"?"),
        Some(nearest) => format!("; did you mean {nearest:?}?"),
        None => ".".into(),
    };
    Err(format!(
        "unknown component {name:?}{guess} The built-in components are {}; a component in a file \
         is named with its path, as ./{name}.wasm",
        names().join(", ")
    ))
}

/// Returns the name of a component in the log: the file name without its extension.
pub(super) fn short_name(name: &str) -> String {
    let stem = Path::new(name).file_stem().unwrap_or_default();
    stem.to_string_lossy().into_owned()
}

/// Returns the description of a component and its parameters, for `--help`.
pub(super) fn help(description: &Description) -> String {
    let Description { name, version, summary, parameters, bare_parameter, other_parameters } =
        description;
    let mut text = format!("\nComponent {name} {version}: {summary}\n");
    for parameter in parameters {
        let mut notes = Vec::new();
        if parameter.required {
            notes.push("required".to_owned());
        }
        if bare_parameter.as_deref() == Some(parameter.name.as_str()) {
            notes.push(format!("{}= may be left out", parameter.name));
        }
        if parameter.repeatable {
            notes.push("may be given several times".to_owned());
        }
        if let Some(default) = &parameter.default {
            notes.push(format!("default: {default}"));
        }
        let notes = match notes.as_slice() {
            [] => String::new(),
            notes => format!(" [{}]", notes.join("; ")),
        };
        text.push_str(&format!(
            "  {}={}\n          {}{notes}\n",
            parameter.name,
            parameter.kind.usage(),
            parameter.summary
        ));
    }
    if *other_parameters {
        text.push_str("  NAME=TEXT\n          parameters with other names are accepted as well\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(values: &[&str]) -> Vec<String> {
        values.iter().map(|&value| value.to_owned()).collect()
    }

    #[test]
    fn the_component_may_come_first() {
        let named = |name: &str| Choice::Named(name.into());
        let typed = strings(&["memory", "size=1"]);
        assert_eq!(choose(None, &typed), (named("memory"), &typed[1..]));
        let typed = strings(&["./a.wasm"]);
        assert_eq!(choose(None, &typed), (named("./a.wasm"), &typed[1..]));
        let typed = strings(&["2G"]);
        assert_eq!(choose(None, &typed), (Choice::Default, &typed[..]));
        let typed = strings(&["memory"]);
        assert_eq!(choose(Some("pattern"), &typed), (named("pattern"), &typed[..]));
    }

    #[test]
    fn first_words_are_values_or_name_a_component() {
        for word in ["2G", "-1", "+1", ".5", "", "*", "size=2G", "file=./a.wasm", "a-b_9=/x/y=z"] {
            assert!(is_value(word), "{word:?}");
        }
        for word in ["memory", "memroy", "_x", "\u{e4}", "./2G", "2/3", "2.wasm", "./size=1"] {
            assert!(!is_value(word), "{word:?}");
        }
    }

    #[test]
    fn words_may_select_another_component() {
        let served = |name: &str, words: &[&str]| {
            let (name, words) = for_words(name, &strings(words));
            format!("{name} {}", words.join(" "))
        };
        assert_eq!(served("memory", &["1G", "allocator=sparse"]), "memory 1G allocator=sparse");
        assert_eq!(served("memory", &["1G", "allocator=zstd"]), "memory-zstd 1G allocator=zstd");
        assert_eq!(served("memory.wasm", &["allocator=zstd"]), "memory-zstd allocator=zstd");
        assert_eq!(
            served("memory", &["memory.size=1G", "memory.allocator=zstd", "delay.rdelay=1"]),
            "memory-zstd memory-zstd.size=1G memory-zstd.allocator=zstd delay.rdelay=1"
        );
        assert_eq!(served("./memory.wasm", &["allocator=zstd"]), "./memory.wasm allocator=zstd");
        assert_eq!(served("data", &["0", "allocator=zstd"]), "data 0 allocator=zstd");
        assert_eq!(served("file", &["file=x"]), "file file=x");
    }

    #[test]
    fn paths_of_components_begin_at_a_directory() {
        let directory = Path::new("/nowhere");
        for (name, expected) in [
            ("memory", "memory"),
            ("memroy", "memroy"),
            ("memory.wasm", "memory"),
            ("./other.wasm", "/nowhere/./other.wasm"),
            ("other.wasm", "/nowhere/other.wasm"),
            ("/a/other.wasm", "/a/other.wasm"),
        ] {
            assert_eq!(located(name, directory), expected);
        }
    }

    #[test]
    fn misspelt_names_are_near_the_right_ones() {
        for (typed, meant) in [
            ("memroy", Some("memory")),
            ("Memory", Some("memory")),
            ("mem", None),
            ("memoryy", Some("memory")),
            ("patern", Some("pattern")),
            ("foo", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, names()), meant, "{typed:?}");
        }
    }
}
