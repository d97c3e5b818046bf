//! The request to open a disk, with typed access to its arguments.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use crate::{Lower, Output};

/// What the host asks for when it opens a disk.
///
/// The host has checked the arguments: names and types are those that `describe` declares, and all
/// required ones are present. The accessors return the first argument of that name, or `None` if
/// there is none of that type.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OpenRequest {
    /// The name that clients use, possibly empty.
    pub export_name: String,
    /// True if nothing will be written.
    pub read_only: bool,
    /// The arguments in the order of the command line.
    pub arguments: Vec<Argument>,
    /// The memory that all instances of this disk may have together, in bytes.
    pub memory_limit: u64,
    /// The only client of the disk, or `None` if clients share it.
    pub client: Option<Client>,
}

/// What the host knows of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// True if the connection is encrypted.
    pub tls: bool,
    /// Where it comes from, for people. It may be empty.
    pub peer: String,
}

/// A parameter that was given.
#[derive(Clone, Debug, PartialEq)]
pub struct Argument {
    /// The name of the parameter.
    pub name: String,
    /// The value, of the parameter's type.
    pub value: Value,
}

/// The parsed value of a parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// The value of a text or a choice.
    Text(String),
    /// The value of a boolean.
    Boolean(bool),
    /// The value of a number.
    Number(i64),
    /// The value of a size, in bytes.
    Size(u64),
    /// The value of a duration.
    Duration(Duration),
    /// The value of a probability, from 0 to 1.
    Probability(f64),
    /// The value of a device or a file.
    Device(Lower),
    /// The value of a secret.
    Secret(Vec<u8>),
    /// The value of an output.
    Output(Output),
}

impl OpenRequest {
    /// Adds an argument, for tests.
    #[must_use]
    pub fn with(mut self, name: &str, value: Value) -> Self {
        self.arguments.push(Argument { name: name.to_string(), value });
        self
    }

    /// Returns the request with other arguments: all arguments of the names in `changes` are replaced by
    /// those. For filters whose parameters can be changed while they are in use, with
    /// [`Command::set`](crate::Command::set).
    #[must_use]
    pub fn changed(&self, changes: &[Argument]) -> Self {
        let mut changed = self.clone();
        changed
            .arguments
            .retain(|argument| changes.iter().all(|change| change.name != argument.name));
        changed.arguments.extend_from_slice(changes);
        changed
    }

    /// Returns the values of all arguments with this name.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &Value> {
        self.arguments
            .iter()
            .filter(move |argument| argument.name == name)
            .map(|argument| &argument.value)
    }

    /// Returns the value of a text or a choice.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values(name).find_map(|value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// Returns the value of a boolean.
    pub fn boolean(&self, name: &str) -> Option<bool> {
        self.values(name).find_map(|value| match value {
            Value::Boolean(boolean) => Some(*boolean),
            _ => None,
        })
    }

    /// Returns the value of a number.
    pub fn number(&self, name: &str) -> Option<i64> {
        self.values(name).find_map(|value| match value {
            Value::Number(number) => Some(*number),
            _ => None,
        })
    }

    /// Returns the value of a size, in bytes.
    pub fn size(&self, name: &str) -> Option<u64> {
        self.values(name).find_map(|value| match value {
            Value::Size(size) => Some(*size),
            _ => None,
        })
    }

    /// Returns the value of a duration.
    pub fn duration(&self, name: &str) -> Option<Duration> {
        self.values(name).find_map(|value| match value {
            Value::Duration(duration) => Some(*duration),
            _ => None,
        })
    }

    /// Returns the value of a probability.
    pub fn probability(&self, name: &str) -> Option<f64> {
        self.values(name).find_map(|value| match value {
            Value::Probability(probability) => Some(*probability),
            _ => None,
        })
    }

    /// Returns the value of a device or a file.
    pub fn device(&self, name: &str) -> Option<Lower> {
        self.values(name).find_map(|value| match value {
            Value::Device(device) => Some(*device),
            _ => None,
        })
    }

    /// Returns the value of an output.
    pub fn output(&self, name: &str) -> Option<Output> {
        self.values(name).find_map(|value| match value {
            Value::Output(output) => Some(*output),
            _ => None,
        })
    }

    /// Returns the value of a secret.
    pub fn secret(&self, name: &str) -> Option<&[u8]> {
        self.values(name).find_map(|value| match value {
            Value::Secret(bytes) => Some(bytes.as_slice()),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_found_by_name_and_type() {
        let request = OpenRequest::default()
            .with("size", Value::Size(512))
            .with("file", Value::Text("a".into()))
            .with("file", Value::Text("b".into()));
        assert_eq!(request.size("size"), Some(512));
        assert_eq!(request.number("size"), None);
        assert_eq!(request.size("length"), None);
        assert_eq!(request.text("file"), Some("a"));
        assert_eq!(request.values("file").count(), 2);
    }

    #[test]
    fn changes_replace_all_arguments_of_their_names() {
        let text = |text: &str| Value::Text(text.into());
        let request = OpenRequest::default()
            .with("file", text("a"))
            .with("size", Value::Size(512))
            .with("file", text("b"));
        let changes = OpenRequest::default().with("file", text("c")).with("mode", text("d"));
        let changed = request.changed(&changes.arguments);
        let expected = OpenRequest::default()
            .with("size", Value::Size(512))
            .with("file", text("c"))
            .with("mode", text("d"));
        assert_eq!(changed, expected);
    }
}
