//! Which component is meant, and what it is told.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use crate::component::{BuiltIn, Component, Description};

/// The component that is meant where none is named.
pub(super) const DEFAULT: &str = "memory";

/// Starts to load the component that most will want, while the command line is read: a quarter of a
/// millisecond less until the server is ready, and as much of another processor in vain for those
/// who want something else. Without a thread to do so, it is loaded later.
pub(super) fn prepare_default() {
    let prepare = || BuiltIn::find(DEFAULT).map(BuiltIn::prepare);
    *preparing() = thread::Builder::new().name("prepare".into()).spawn(prepare).ok();
}

/// Waits until [`prepare_default`] has done its work: before the process becomes another user, which a
/// thread that is just ending might miss.
pub(super) fn await_default() {
    if let Some(thread) = preparing().take() {
        // Whoever needs the component is told of errors.
        let _ = thread.join();
    }
}

fn preparing() -> MutexGuard<'static, Option<JoinHandle<Option<()>>>> {
    static PREPARING: Mutex<Option<JoinHandle<Option<()>>>> = Mutex::new(None);
    PREPARING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The component that the command line names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// None was named.
    Default,
    /// This one.
    Named(String),
}

/// The names of the built-in components.
pub(super) fn names() -> Vec<&'static str> {
    BuiltIn::ALL.iter().map(BuiltIn::name).collect()
}

/// Separates the component from its parameters: it is what `--component` says, else the first
/// parameter unless that is a value. The name need not be that of a component, see [`find`].
pub(super) fn choose<'a>(option: Option<&str>, parameters: &'a [String]) -> (Choice, &'a [String]) {
    if let Some(name) = option {
        return (Choice::Named(name.to_owned()), parameters);
    }
    match parameters.split_first() {
        Some((first, rest)) if !is_value(first) => (Choice::Named(first.clone()), rest),
        _ => (Choice::Default, parameters),
    }
}

/// Whether a first word is a value, KEY=VALUE or a bare one for the default component, whose main
/// parameter is a size. Paths and names of components are neither.
fn is_value(word: &str) -> bool {
    let is_number = || !word.starts_with(|c: char| c.is_alphabetic() || c == '_');
    split(word).is_some() || (!is_path(word) && is_number())
}

/// Whether a word means a file rather than a built-in component.
fn is_path(word: &str) -> bool {
    word.contains('/') || word.ends_with(".wasm")
}

/// A built-in component; `.wasm` may follow its name.
fn built_in(name: &str) -> Option<BuiltIn> {
    BuiltIn::find(name.strip_suffix(".wasm").unwrap_or(name))
}

/// Where a component comes from.
pub(super) enum Source {
    /// The bytes of a file.
    File(Vec<u8>),
    BuiltIn(BuiltIn),
}

/// Finds the component of a name. A path, which has a slash or ends in `.wasm`, means a file, and
/// where there is none of that name, the built-in component. Anything else is the name of a
/// built-in component, whatever files there are.
///
/// # Errors
///
/// What is wrong with the name, as a sentence.
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
        (Err(error), _) => Err(format!("component {name:?}: {error}")),
    }
}

/// Checks that a name is a path or that of a built-in component. Whether the file is there is not
/// looked at.
///
/// # Errors
///
/// That there is no such component, with what may have been meant, as a sentence.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    if is_path(name) || built_in(name).is_some() {
        return Ok(());
    }
    let guess = match nearest(name) {
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

/// The built-in component whose name was perhaps misspelt.
fn nearest(name: &str) -> Option<&'static str> {
    let distance = |other: &str| strsim::damerau_levenshtein(&name.to_lowercase(), other);
    let near = names().into_iter().map(|other| (distance(other), other)).min()?;
    // Of more than a third of the letters, another word is meant.
    (near.0 <= near.1.len() / 3).then_some(near.1)
}

/// What logs call the component of a file.
pub(super) fn short_name(name: &str) -> String {
    let stem = Path::new(name).file_stem().unwrap_or_default();
    stem.to_string_lossy().into_owned()
}

/// The parameters as the component's `open` takes them.
///
/// # Errors
///
/// Which of them it does not know, or misses, and which it has.
pub(super) fn parameters(
    description: &Description,
    values: &[String],
) -> Result<Vec<(String, String)>, String> {
    let mut parameters: Vec<(String, String)> = Vec::new();
    for value in values {
        let (key, value) = match split(value) {
            Some((key, value)) => (key, value),
            None => match &description.bare_parameter {
                Some(bare) => (bare.as_str(), value.as_str()),
                None => {
                    return Err(format!(
                        "{value:?} is not KEY=VALUE, and {} has no parameter for bare values; {}",
                        description.name,
                        known(description)
                    ));
                }
            },
        };
        if !description.parameters.iter().any(|parameter| parameter.name == key) {
            let name = &description.name;
            return Err(format!("{name} has no parameter {key:?}; {}", known(description)));
        }
        if let Some((_, first)) = parameters.iter().find(|(name, _)| name == key) {
            return Err(format!(
                "parameter {key:?} is given twice, as {first:?} and as {value:?} (what is not \
                 KEY=VALUE is a value of {:?})",
                description.bare_parameter.as_deref().unwrap_or("no parameter")
            ));
        }
        parameters.push((key.to_owned(), value.to_owned()));
    }
    let given = |name: &str| parameters.iter().any(|(key, _)| key == name);
    match description.parameters.iter().find(|p| p.required && !given(&p.name)) {
        Some(missing) => Err(format!(
            "{} needs the parameter {:?}: {}",
            description.name, missing.name, missing.summary
        )),
        None => Ok(parameters),
    }
}

/// `KEY=VALUE`, where the key could be a name of a parameter: anything else is a bare value.
fn split(text: &str) -> Option<(&str, &str)> {
    let (key, value) = text.split_once('=')?;
    let name = key.starts_with(|c: char| c.is_ascii_alphabetic())
        && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    name.then_some((key, value))
}

fn known(description: &Description) -> String {
    match description.parameters.as_slice() {
        [] => "it has no parameters".into(),
        parameters => {
            let names: Vec<&str> = parameters.iter().map(|p| p.name.as_str()).collect();
            format!("it has {}", names.join(", "))
        }
    }
}

/// What a component says of itself and its parameters, for `--help`.
pub(super) fn help(component: &Component) -> String {
    let Description { name, version, summary, parameters, bare_parameter } =
        component.description();
    let mut text = format!("\nComponent {name} {version}: {summary}\n");
    for parameter in parameters {
        let mut notes = Vec::new();
        if parameter.required {
            notes.push("required".to_owned());
        }
        if bare_parameter.as_deref() == Some(parameter.name.as_str()) {
            notes.push(format!("{}= may be left out", parameter.name));
        }
        if let Some(default) = &parameter.default {
            notes.push(format!("default: {default}"));
        }
        let notes = match notes.as_slice() {
            [] => String::new(),
            notes => format!(" [{}]", notes.join("; ")),
        };
        text.push_str(&format!(
            "  {}=VALUE\n          {}{notes}\n",
            parameter.name, parameter.summary
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::component::Parameter;

    fn description() -> Description {
        let parameter = |name: &str, required| Parameter {
            name: name.into(),
            summary: format!("the {name}"),
            required,
            default: None,
        };
        Description {
            name: "memory".into(),
            version: "0".into(),
            summary: String::new(),
            parameters: vec![parameter("size", true), parameter("mode", false)],
            bare_parameter: Some("size".into()),
        }
    }

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
            assert_eq!(nearest(typed), meant, "{typed:?}");
        }
    }

    #[test]
    fn bare_values_are_for_the_main_parameter() {
        let parse = |values: &[&str]| parameters(&description(), &strings(values));
        let pairs = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect::<Vec<(String, String)>>()
        };
        assert_eq!(parse(&["2G", "mode=x=y"]), Ok(pairs(&[("size", "2G"), ("mode", "x=y")])));
        assert_eq!(parse(&["/a=b"]), Ok(pairs(&[("size", "/a=b")])));
        assert!(parse(&[]).unwrap_err().contains("\"size\": the size"));
        assert!(parse(&["size=1", "x=1"]).unwrap_err().contains("it has size, mode"));
        assert!(parse(&["1", "size=1"]).unwrap_err().contains("given twice"));
    }
}
