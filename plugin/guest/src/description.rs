//! The description of a component and of its parameters.

use alloc::vec::Vec;

use crate::MAX_SIZE;

/// The description of a component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The name of the component, for example `memory`.
    pub name: &'static str,
    /// The component's own version.
    pub version: &'static str,
    /// A one-line summary.
    pub summary: &'static str,
    /// All parameters, in the order in which to show them.
    pub parameters: Vec<Parameter>,
    /// The parameter that a bare value on the command line sets.
    pub bare_parameter: Option<&'static str>,
    /// True if parameters with other names are accepted as well, as text.
    pub other_parameters: bool,
}

impl Description {
    /// Returns the description of a component without parameters.
    pub const fn new(name: &'static str, version: &'static str, summary: &'static str) -> Self {
        Self {
            name,
            version,
            summary,
            parameters: Vec::new(),
            bare_parameter: None,
            other_parameters: false,
        }
    }

    /// Adds a parameter.
    #[must_use]
    pub fn parameter(mut self, parameter: Parameter) -> Self {
        self.parameters.push(parameter);
        self
    }

    /// Declares which parameter a bare value sets: with `size`, `memory 2G` means `size=2G`.
    #[must_use]
    pub fn bare_parameter(mut self, name: &'static str) -> Self {
        self.bare_parameter = Some(name);
        self
    }

    /// Accepts parameters with other names as well, each as text, at most once.
    #[must_use]
    pub fn other_parameters(mut self) -> Self {
        self.other_parameters = true;
        self
    }
}

/// A parameter of a component, given as `KEY=VALUE`. Parameters are optional and not repeatable
/// unless declared otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// The key: ASCII letters, digits, `-` and `_`, beginning with a letter.
    pub name: &'static str,
    /// One sentence: what the parameter means.
    pub summary: &'static str,
    /// The values that the parameter takes.
    pub kind: ParameterType,
    /// True if the disk cannot be opened without the parameter.
    pub required: bool,
    /// True if the parameter may be given several times.
    pub repeatable: bool,
    /// What holds without the parameter, for people.
    pub default: Option<&'static str>,
}

/// The type of a parameter. The host parses the user's text and reports mistakes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParameterType {
    /// Any text.
    Text,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// `true` or `false`, or one of their synonyms.
    Boolean,
    /// An integer in a range that includes both ends.
    Number(i64, i64),
    /// A number of bytes in a range that includes both ends.
    Size(u64, u64),
    /// A time.
    Duration,
    /// A probability, from 0 to 1.
    Probability,
    /// The name of another export of the server.
    Device(Link),
    /// The path of a regular file or block device.
    File(Link),
    /// A password or a key.
    Secret,
    /// The path of a file to write to. What the file has is kept if the boolean parameter of this name
    /// is true, and discarded otherwise.
    Output(Option<&'static str>),
}

/// How a component uses a lower device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// It writes. Without this the device is not writable for the component.
    pub writes: bool,
    /// It relies on a content that nobody changes but itself.
    pub unshared: bool,
    /// If the user names no device, the host makes an empty one in memory.
    pub scratch: bool,
}

impl Link {
    /// The component reads what others may change.
    pub const READS: Self = Self { writes: false, unshared: false, scratch: false };
}

impl Parameter {
    /// Returns an optional parameter of any type.
    pub const fn new(name: &'static str, summary: &'static str, kind: ParameterType) -> Self {
        Self { name, summary, kind, required: false, repeatable: false, default: None }
    }

    /// Returns a parameter that is any text.
    pub const fn text(name: &'static str, summary: &'static str) -> Self {
        Self::new(name, summary, ParameterType::Text)
    }

    /// Returns a parameter that is one of `words`.
    pub const fn choice(
        name: &'static str,
        summary: &'static str,
        words: &'static [&'static str],
    ) -> Self {
        Self::new(name, summary, ParameterType::Choice(words))
    }

    /// Returns a parameter that is true or false.
    pub const fn boolean(name: &'static str, summary: &'static str) -> Self {
        Self::new(name, summary, ParameterType::Boolean)
    }

    /// Returns a parameter that is an integer from `minimum` to `maximum`.
    pub const fn number(
        name: &'static str,
        summary: &'static str,
        minimum: i64,
        maximum: i64,
    ) -> Self {
        Self::new(name, summary, ParameterType::Number(minimum, maximum))
    }

    /// Returns a parameter that is a number of bytes, up to that of the largest disk.
    pub const fn size(name: &'static str, summary: &'static str) -> Self {
        Self::new(name, summary, ParameterType::Size(0, MAX_SIZE))
    }

    /// Returns a parameter that is a time.
    pub const fn duration(name: &'static str, summary: &'static str) -> Self {
        Self::new(name, summary, ParameterType::Duration)
    }

    /// Returns a parameter that is a probability.
    pub const fn probability(name: &'static str, summary: &'static str) -> Self {
        Self::new(name, summary, ParameterType::Probability)
    }

    /// Returns a parameter that is another export of the server, which the component uses as a
    /// [`Lower`](crate::Lower) device: read-only, unless it [`writes`](Self::writes). If it is named
    /// `base`, the component works as a filter.
    pub const fn device(name: &'static str, summary: &'static str) -> Self {
        Self::new(name, summary, ParameterType::Device(Link::READS))
    }

    /// Returns a parameter that is a file, which the component uses as a [`Lower`](crate::Lower)
    /// device: read-only, unless it [`writes`](Self::writes).
    pub const fn file(name: &'static str, summary: &'static str) -> Self {
        Self::new(name, summary, ParameterType::File(Link::READS))
    }

    /// Returns a parameter that is a password or a key.
    pub const fn secret(name: &'static str, summary: &'static str) -> Self {
        Self::new(name, summary, ParameterType::Secret)
    }

    /// Returns a parameter that is a file, a pipe or a terminal to which the component writes, as an
    /// [`Output`](crate::Output). What a file has is discarded, unless the boolean parameter `append` is
    /// true.
    pub const fn output(
        name: &'static str,
        summary: &'static str,
        append: Option<&'static str>,
    ) -> Self {
        Self::new(name, summary, ParameterType::Output(append))
    }

    /// Says that the component writes to the device or file.
    #[must_use]
    pub const fn writes(mut self) -> Self {
        if let ParameterType::Device(link) | ParameterType::File(link) = &mut self.kind {
            link.writes = true;
        }
        self
    }

    /// Says that the component relies on a content of the device that nobody changes but itself. Clients
    /// get an export that is used so for reading only. A file is not protected from other programs.
    #[must_use]
    pub const fn unshared(mut self) -> Self {
        if let ParameterType::Device(link) | ParameterType::File(link) = &mut self.kind {
            link.unshared = true;
        }
        self
    }

    /// Says that the component writes to the device, and that the host makes one if the user names none:
    /// a sparse disk in memory, as large as a disk can be, which is discarded with this disk.
    #[must_use]
    pub const fn scratch(mut self) -> Self {
        if let ParameterType::Device(link) = &mut self.kind {
            link.writes = true;
            link.scratch = true;
        }
        self
    }

    /// Makes the parameter required.
    #[must_use]
    pub const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// Allows the parameter to be given several times.
    #[must_use]
    pub const fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }

    /// Documents what holds without the parameter. The host does not pass this to the component.
    #[must_use]
    pub const fn default(mut self, text: &'static str) -> Self {
        self.default = Some(text);
        self
    }
}
