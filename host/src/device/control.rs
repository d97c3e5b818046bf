//! Commands to devices that are in use.

use std::fmt;
use std::sync::Arc;

use super::guest::GuestDevice;
use crate::block::Error;
use crate::component::ControlCommand;
use crate::parameters::{ArgumentError, nearest};

/// A component in use that takes commands. It keeps the device open.
#[derive(Clone)]
pub struct Control {
    component: String,
    device: Arc<GuestDevice>,
}

impl Control {
    pub(super) fn new(component: &str, device: Arc<GuestDevice>) -> Self {
        Self { component: component.to_owned(), device }
    }

    /// Returns the name of the component.
    pub fn component(&self) -> &str {
        &self.component
    }

    /// Returns the commands.
    pub fn commands(&self) -> &[ControlCommand] {
        self.device.commands()
    }

    /// Carries out a command, with arguments KEY=VALUE, between two requests of the device. Returns the
    /// component's answer for people, which may have several lines or be empty. The command is carried
    /// out even if the future is dropped once it was polled. It must be polled inside of a tokio runtime.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such command, if the arguments are not those that it takes, or if
    /// the component refuses it or fails.
    pub async fn execute(&self, command: &str, words: &[String]) -> Result<String, ControlError> {
        let commands = self.commands();
        let Some(found) = commands.iter().find(|one| one.name == command) else {
            let known: Vec<String> = commands.iter().map(|one| one.name.clone()).collect();
            let nearest = nearest(command, known.iter().map(String::as_str)).map(str::to_owned);
            return Err(ControlError::Unknown { command: command.to_owned(), nearest, known });
        };
        let arguments = found.parse_arguments(words).map_err(ControlError::Arguments)?;
        let (device, command) = (self.device.clone(), command.to_owned());
        // A component must not be left in the middle of a call.
        let task = async move { device.control(&command, &arguments).await };
        let done = tokio::spawn(task).await;
        done.unwrap_or_else(|_| Err(self.device.panicked_at_command()))
            .map_err(ControlError::Refused)
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Control").field(&self.component).finish()
    }
}

/// Why a command was not carried out.
#[derive(Debug)]
pub enum ControlError {
    /// There is no such command.
    Unknown {
        /// The command.
        command: String,
        /// The command that was probably meant.
        nearest: Option<String>,
        /// The names of all commands.
        known: Vec<String>,
    },
    /// The arguments are not those that it takes.
    Arguments(ArgumentError),
    /// The component refused it, or has failed.
    Refused(Error),
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { command, nearest, known } => {
                write!(f, "there is no command {command:?}")?;
                if let Some(nearest) = nearest {
                    write!(f, " (did you mean {nearest:?}?)")?;
                }
                match known.is_empty() {
                    true => f.write_str("; there are none"),
                    false => write!(f, "; there are {}", known.join(", ")),
                }
            }
            Self::Arguments(error) => error.fmt(f),
            Self::Refused(error) => match &error.message {
                Some(message) => write!(f, "{message} ({})", error.code),
                None => write!(f, "the component refused it ({})", error.code),
            },
        }
    }
}

impl std::error::Error for ControlError {}
