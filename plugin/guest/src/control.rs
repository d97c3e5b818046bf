//! The trait of components that take commands while they are in use.

use alloc::string::String;
use alloc::vec::Vec;

use crate::{Argument, Backend, Description, Error, Parameter, ParameterType};

/// A disk that takes commands while clients use it: to switch a fault on, or to change its rate.
///
/// Such a disk has one instance, so it must not be
/// [`INTERCHANGEABLE`](crate::Capabilities::INTERCHANGEABLE). The macro [`control!`](crate::control!)
/// exports the trait, next to [`backend!`](crate::backend!) or [`filter!`](crate::filter!).
///
/// ```
/// use memnbd_guest::{
///     Argument, Backend, Command, Control, Description, Disk, Error, OpenRequest, Parameter, Value,
/// };
///
/// /// A disk that repeats a byte, which can be changed.
/// struct Repeat {
///     byte: u8,
/// }
///
/// impl Backend for Repeat {
///     fn describe() -> Description {
///         Description::new("repeat", env!("CARGO_PKG_VERSION"), "a disk that repeats one byte")
///     }
///
///     fn open(_request: &OpenRequest) -> Result<Self, Error> {
///         Ok(Self { byte: 0 })
///     }
///
///     fn disk(&self) -> Disk {
///         Disk::new(1 << 20)
///     }
///
///     fn read(&mut self, _offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
///         buffer.fill(self.byte);
///         Ok(())
///     }
/// }
///
/// impl Control for Repeat {
///     fn commands(&self) -> Vec<Command> {
///         let byte = Parameter::number("byte", "the byte", 0, 255).required();
///         vec![Command::new("set", "changes the byte").parameter(byte)]
///     }
///
///     fn execute(&mut self, _command: &str, arguments: &[Argument]) -> Result<String, Error> {
///         if let [Argument { value: Value::Number(byte), .. }] = arguments {
///             self.byte = *byte as u8;
///         }
///         Ok(String::new())
///     }
/// }
///
/// memnbd_guest::backend!(Repeat);
/// memnbd_guest::control!(Repeat);
/// ```
pub trait Control: Backend {
    /// Returns the commands. The host asks once, after `open`.
    fn commands(&self) -> Vec<Command>;

    /// Carries out one of the commands, with arguments that the host has checked. The answer is for
    /// whoever gave the command.
    ///
    /// What the command changes takes effect at once. A filter that has to take back what
    /// [`stable`](crate::Filter::stable) answered calls [`withdraw_routes`](crate::withdraw_routes).
    ///
    /// # Errors
    ///
    /// An error is an answer, too. The disk stays in use.
    fn execute(&mut self, command: &str, arguments: &[Argument]) -> Result<String, Error>;
}

/// A command to a disk that is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Its name, for which the rules of parameters hold.
    pub name: &'static str,
    /// One sentence: what it does.
    pub summary: &'static str,
    /// What it takes: no devices, files, secrets or outputs.
    pub parameters: Vec<Parameter>,
}

impl Command {
    /// Returns a command without parameters.
    pub const fn new(name: &'static str, summary: &'static str) -> Self {
        Self { name, summary, parameters: Vec::new() }
    }

    /// Returns the command `set`, which changes parameters of a disk: those of its
    /// [`describe`](Backend::describe), but for devices, files,
    /// secrets and outputs.
    pub fn set(description: Description) -> Self {
        let mut parameters = description.parameters;
        parameters.retain(|parameter| {
            use ParameterType::{Device, File, Output, Secret};
            !matches!(parameter.kind, Device(_) | File(_) | Secret | Output(_))
        });
        for parameter in &mut parameters {
            parameter.required = false;
            parameter.default = None;
        }
        Self { name: "set", summary: "changes parameters; the others stay as they are", parameters }
    }

    /// Adds a parameter.
    #[must_use]
    pub fn parameter(mut self, parameter: Parameter) -> Self {
        self.parameters.push(parameter);
        self
    }
}
