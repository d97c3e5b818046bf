//! What may be named by those who control the server without having its rights.
//!
//! The person at the command line may name any path. Whoever comes through the control API names
//! grants: the administrator gave each a name, a kind and a path, with `--grant`.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use memnbd::parameters::{Argument, ParameterType, SecretSource, Value, is_name, nearest};

use super::components;

/// What `--grant` expects.
const FORM: &str = "it is written KIND:NAME=PATH, where KIND is component, file, read-only-file, \
                    directory, read-only-directory, output or secret";

/// The kinds of grants, as they are written.
pub(super) const KINDS: [&str; 7] =
    ["component", "file", "read-only-file", "directory", "read-only-directory", "output", "secret"];

/// The kind of a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Component,
    File,
    Directory,
    Output,
    Secret,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Component => "component",
            Self::File => "file",
            Self::Directory => "directory",
            Self::Output => "output",
            Self::Secret => "secret",
        }
    }
}

/// A path that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) path: PathBuf,
    pub(super) read_only: bool,
}

/// All grants of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Grants(BTreeMap<(Kind, String), Grant>);

impl Grants {
    /// Parses the values of `--grant`. Relative paths begin at a directory.
    ///
    /// # Errors
    ///
    /// Returns a message if a value makes no sense.
    pub(super) fn parse(texts: &[OsString], directory: &Path) -> Result<Self, String> {
        let mut grants = Self::default();
        for text in texts {
            let wrong = |problem: &str| format!("--grant {}: {problem}", text.display());
            let (kind, name, path) = split(text).ok_or_else(|| wrong(FORM))?;
            grants.insert(kind, name, &directory.join(path)).map_err(|problem| wrong(&problem))?;
        }
        Ok(grants)
    }

    /// Adds a grant of one of the [`KINDS`].
    ///
    /// # Errors
    ///
    /// Returns a message if there is no such kind, or the name makes no sense or is taken.
    pub(super) fn insert(&mut self, kind: &str, name: &str, path: &Path) -> Result<(), String> {
        let (kind, read_only) = match kind {
            "component" => (Kind::Component, true),
            "file" => (Kind::File, false),
            "read-only-file" => (Kind::File, true),
            "directory" => (Kind::Directory, false),
            "read-only-directory" => (Kind::Directory, true),
            "output" => (Kind::Output, false),
            "secret" => (Kind::Secret, true),
            _ => return Err(FORM.into()),
        };
        if !is_name(name) {
            return Err(
                "the name must be ASCII letters, digits, - and _, beginning with a letter".into()
            );
        }
        if kind == Kind::Component && components::names().contains(&name) {
            return Err("a built-in component has this name; choose another one".into());
        }
        let grant = Grant { path: path.to_owned(), read_only };
        match self.0.insert((kind, name.to_owned()), grant) {
            Some(_) => Err("this name is given twice; each kind has its own names".into()),
            None => Ok(()),
        }
    }

    /// Returns all grants, with their kinds.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Kind, &Grant)> {
        self.0.iter().map(|((kind, _), grant)| (*kind, grant))
    }

    /// Returns the names of a kind, in order.
    pub(super) fn names(&self, kind: Kind) -> impl Iterator<Item = &str> {
        self.0.keys().filter(move |(other, _)| *other == kind).map(|(_, name)| name.as_str())
    }

    /// Finds a grant.
    ///
    /// # Errors
    ///
    /// Returns a message if there is none of this name.
    pub(super) fn find(&self, kind: Kind, name: &str) -> Result<&Grant, String> {
        self.0.get(&(kind, name.to_owned())).ok_or_else(|| {
            let kind_name = kind.name();
            let guess = nearest(name, self.names(kind))
                .map_or_else(String::new, |near| format!("; did you mean {near:?}?"));
            format!(
                "{name:?} is not the name of a {kind_name} that the administrator granted{guess}"
            )
        })
    }

    /// Returns the name by which the program finds a component: that of a built-in one, or the path of
    /// one that was granted.
    ///
    /// # Errors
    ///
    /// Returns a message if there is neither.
    pub(super) fn component(&self, name: &str) -> Result<String, String> {
        if components::names().contains(&name) {
            return Ok(name.to_owned());
        }
        let grant = self.find(Kind::Component, name).map_err(|error| {
            format!("{error}; the built-in components are {}", components::names().join(", "))
        })?;
        grant.path.to_str().map(str::to_owned).ok_or_else(|| {
            format!(
                "the path of the component {name:?} is not UTF-8; the administrator must rename it"
            )
        })
    }

    /// Replaces the names of files, outputs and secrets in the arguments of a component by what they stand for.
    ///
    /// # Errors
    ///
    /// Returns a message if a name stands for nothing.
    pub(super) fn designate(&self, arguments: &mut [Argument]) -> Result<(), String> {
        for Argument { name: parameter, value } in arguments {
            let of_parameter = |error| format!("{parameter}: {error}");
            match value {
                Value::File(name, link) => {
                    let grant = self.find(Kind::File, name).map_err(of_parameter)?;
                    link.writes &= !grant.read_only;
                    *name = utf8(&grant.path).map_err(of_parameter)?;
                }
                Value::Output(file) => {
                    let grant = self.find(Kind::Output, file.path()).map_err(of_parameter)?;
                    file.set_path(utf8(&grant.path).map_err(of_parameter)?);
                }
                Value::Secret(secret) => {
                    let name = match secret.source() {
                        SecretSource::Text(name) => name.clone(),
                        // The notation of the command line, and the path is not repeated.
                        SecretSource::File(_) | SecretSource::Descriptor(_) => {
                            return Err(of_parameter(
                                "it is the name of a secret that the administrator granted, and \
                                 not +PATH or -FD"
                                    .into(),
                            ));
                        }
                    };
                    let grant = self.find(Kind::Secret, &name);
                    // Whoever wrote a secret instead of a name must not find it in a message.
                    let grant = grant.map_err(|_| {
                        of_parameter(
                            "this is not the name of a secret that the administrator granted"
                                .into(),
                        )
                    })?;
                    // Whoever reads a pipe waits for its writer.
                    if !grant.path.is_file() {
                        return Err(of_parameter(format!(
                            "the granted secret {name:?} is not a regular file"
                        )));
                    }
                    let notation = format!("+{}", utf8(&grant.path).map_err(of_parameter)?);
                    *value = ParameterType::Secret
                        .parse(&notation)
                        .map_err(|error| of_parameter(error.to_string()))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Replaces the names in the arguments of the native backend by paths. Returns true if what they stand
    /// for is read-only.
    ///
    /// # Errors
    ///
    /// Returns a message if a name stands for nothing.
    pub(super) fn designate_file(&self, arguments: &mut [Argument]) -> Result<bool, String> {
        let mut read_only = false;
        for Argument { name: parameter, value } in arguments {
            let kind = match parameter.as_str() {
                "file" => Kind::File,
                "dir" => Kind::Directory,
                "fd" | "dirfd" => {
                    return Err(format!(
                        "{parameter}= is for the command line; use file= with the name of a file \
                         that the administrator granted"
                    ));
                }
                _ => continue,
            };
            if let Value::Text(name) = value {
                let of_parameter = |error| format!("{parameter}: {error}");
                let grant = self.find(kind, name).map_err(of_parameter)?;
                read_only |= grant.read_only;
                *name = utf8(&grant.path).map_err(of_parameter)?;
            }
        }
        Ok(read_only)
    }
}

fn utf8(path: &Path) -> Result<String, String> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| "the granted path is not UTF-8; the administrator must rename it".into())
}

/// Splits `KIND:NAME=PATH`.
fn split(text: &OsStr) -> Option<(&str, &str, &Path)> {
    let bytes = text.as_bytes();
    let colon = bytes.iter().position(|&byte| byte == b':')?;
    let equals = colon + bytes[colon..].iter().position(|&byte| byte == b'=')?;
    let kind = std::str::from_utf8(&bytes[..colon]).ok()?;
    let name = std::str::from_utf8(&bytes[colon + 1..equals]).ok()?;
    let path = OsStr::from_bytes(&bytes[equals + 1..]);
    (!path.is_empty()).then_some((kind, name, Path::new(path)))
}

#[cfg(test)]
mod tests {
    use memnbd::parameters::Link;

    use super::*;

    fn grants(texts: &[&str]) -> Result<Grants, String> {
        let texts: Vec<OsString> = texts.iter().map(OsString::from).collect();
        Grants::parse(&texts, Path::new("/here"))
    }

    #[test]
    fn grants_have_a_kind_a_name_and_a_path() {
        let grants = grants(&["file:a=/x=y,z", "read-only-file:b=c", "secret:a=s"]).unwrap();
        let grant = |path: &str, read_only| Grant { path: path.into(), read_only };
        assert_eq!(grants.find(Kind::File, "a"), Ok(&grant("/x=y,z", false)));
        assert_eq!(grants.find(Kind::File, "b"), Ok(&grant("/here/c", true)));
        assert_eq!(grants.find(Kind::Secret, "a"), Ok(&grant("/here/s", true)));
        let error = grants.find(Kind::Directory, "a").unwrap_err();
        assert_eq!(error, "\"a\" is not the name of a directory that the administrator granted");
    }

    #[test]
    fn mistakes_are_told_with_the_rule() {
        for (texts, words) in [
            (&["a"][..], "KIND:NAME=PATH"),
            (&["file:a"], "KIND:NAME=PATH"),
            (&["file:a="], "KIND:NAME=PATH"),
            (&["disk:a=b"], "KIND:NAME=PATH"),
            (&["file:a/b=c"], "ASCII letters"),
            (&["component:memory=./m.wasm"], "built-in"),
            (&["file:a=b", "read-only-file:a=c"], "twice"),
        ] {
            let error = grants(texts).unwrap_err();
            assert!(error.contains(words) && error.starts_with("--grant "), "{error}");
        }
    }

    #[test]
    fn components_are_built_in_or_granted() {
        let grants = grants(&["component:mine=/m.wasm"]).unwrap();
        assert_eq!(grants.component("memory"), Ok("memory".into()));
        assert_eq!(grants.component("mine"), Ok("/m.wasm".into()));
        for name in ["/m.wasm", "./memory.wasm", "memory.wasm", "mine.wasm", ""] {
            assert!(grants.component(name).unwrap_err().contains("built-in components"), "{name}");
        }
    }

    #[test]
    fn files_and_secrets_are_names() {
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("key");
        std::fs::write(&key, "hunter2\n").unwrap();
        let key = key.display().to_string();
        let secrets = [format!("secret:k={key}"), "secret:pipe=/dev/null".into()];
        let grants = grants(&["read-only-file:a=/a", &secrets[0], &secrets[1]]).unwrap();
        let link = Link { writes: true, ..Link::default() };
        let file = |name: &str| Value::File(name.into(), link);
        let secret = |text: &str| ParameterType::Secret.parse(text).unwrap();
        let designated = |value: Value| {
            let mut arguments = [Argument { name: "x".into(), value }];
            grants.designate(&mut arguments)?;
            let [Argument { value, .. }] = arguments;
            Ok::<_, String>(value)
        };
        assert_eq!(designated(file("a")), Ok(Value::File("/a".into(), Link::default())));
        for path in ["/a", "../a", "/etc/shadow", ""] {
            assert!(designated(file(path)).unwrap_err().starts_with("x: "), "{path}");
        }
        assert_eq!(designated(secret("k")), Ok(secret(&format!("+{key}"))));
        assert!(designated(secret("pipe")).unwrap_err().contains("not a regular file"));
        for text in ["+/k", "-3", "hunter2"] {
            let error = designated(secret(text)).unwrap_err();
            assert!(error.contains("granted") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn outputs_are_names() {
        let grants = grants(&["output:log=/var/log/disks"]).unwrap();
        let designated = |text: &str| {
            let value = ParameterType::Output(None).parse(text).unwrap();
            let mut arguments = [Argument { name: "logfile".into(), value }];
            grants.designate(&mut arguments).map(|()| match &arguments[0].value {
                Value::Output(file) => file.path().to_owned(),
                other => panic!("{other:?}"),
            })
        };
        assert_eq!(designated("log"), Ok("/var/log/disks".into()));
        assert!(designated("/etc/passwd").unwrap_err().starts_with("logfile: "));
    }

    #[test]
    fn native_files_are_names() {
        let grants = grants(&["read-only-file:a=/a", "directory:d=/d"]).unwrap();
        let designated = |name: &str, value: Value| {
            let mut arguments = [Argument { name: name.into(), value }];
            let read_only = grants.designate_file(&mut arguments)?;
            let [Argument { value, .. }] = arguments;
            Ok::<_, String>((value, read_only))
        };
        let text = |text: &str| Value::Text(text.into());
        assert_eq!(designated("file", text("a")), Ok((text("/a"), true)));
        assert_eq!(designated("dir", text("d")), Ok((text("/d"), false)));
        assert!(designated("file", text("/a")).is_err());
        assert!(designated("file", text("d")).is_err());
        assert!(designated("fd", Value::Number(3)).is_err());
        assert!(designated("dirfd", Value::Number(3)).is_err());
        assert_eq!(designated("cache", text("none")), Ok((text("none"), false)));
    }
}
