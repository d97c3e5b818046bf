//! Files that are named to be written to.

use std::path::Path;

use super::{Argument, Value};
use crate::output::{Output, Outputs};

/// A file that a parameter names to be written to.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputFile {
    path: String,
    /// The boolean parameter that says whether what the file has is kept.
    append: Option<String>,
    output: Option<Output>,
}

impl OutputFile {
    pub(super) fn new(path: &str, append: Option<&str>) -> Self {
        Self { path: path.to_owned(), append: append.map(str::to_owned), output: None }
    }

    /// Returns the path, as it was given.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Replaces the path.
    pub fn set_path(&mut self, path: String) {
        self.path = path;
    }

    /// Returns the output, once it is known.
    pub fn output(&self) -> Option<&Output> {
        self.output.as_ref()
    }
}

/// Finds the outputs that arguments name. Relative paths begin at a directory. Nothing is opened.
pub fn assign_outputs(arguments: &mut [Argument], outputs: &Outputs, directory: &Path) {
    let is_true: Vec<String> = arguments
        .iter()
        .filter(|argument| argument.value == Value::Boolean(true))
        .map(|argument| argument.name.clone())
        .collect();
    for Argument { value, .. } in arguments {
        if let Value::Output(file) = value {
            let append = file.append.as_ref().is_some_and(|name| is_true.contains(name));
            file.output = Some(outputs.get(directory.join(&file.path), append));
        }
    }
}

/// Returns the outputs that arguments name, as far as they are known, in their order.
pub fn outputs(arguments: &[Argument]) -> impl Iterator<Item = &Output> {
    arguments.iter().filter_map(|argument| match &argument.value {
        Value::Output(file) => file.output(),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::parameters::ParameterType;

    #[test]
    fn content_is_kept_if_the_parameter_says_so() {
        for (name, append, kept) in
            [("logappend", true, true), ("logappend", false, false), ("other", true, false)]
        {
            let directory = TempDir::new().unwrap();
            let path = directory.path().join("log");
            fs::write(&path, "before").unwrap();
            let kind = ParameterType::Output(Some("logappend".into()));
            let argument = |name: &str, value| Argument { name: name.into(), value };
            let mut arguments = [
                argument("logfile", kind.parse("log").unwrap()),
                argument(name, Value::Boolean(append)),
            ];
            assign_outputs(&mut arguments, &Outputs::default(), directory.path());
            let Value::Output(file) = &arguments[0].value else { panic!("an output") };
            file.output().unwrap().open().unwrap();
            assert_eq!(fs::read(path).unwrap().is_empty(), !kept);
        }
    }
}
