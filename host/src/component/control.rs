//! The commands of a component that is in use, checked.

use super::bindings;
use super::breach::Breach;
use super::check::{check_parameters, excerpt, printable, printable_up_to};
use super::contract::{MAX_COMMANDS, MAX_CONTROL_TEXT, MAX_TEXT};
use crate::parameters::{
    Argument, ArgumentError, Parameter, ParameterType, is_name, parse_arguments,
};

/// A command of a component. All texts are printable lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlCommand {
    /// Its name, which is like that of a parameter.
    pub name: String,
    /// One sentence for people.
    pub summary: String,
    /// What it takes: no devices, secrets or outputs.
    pub parameters: Vec<Parameter>,
}

impl ControlCommand {
    /// Parses the words KEY=VALUE that people typed for the command.
    ///
    /// # Errors
    ///
    /// See [`parse_arguments`].
    pub fn parse_arguments(&self, words: &[String]) -> Result<Vec<Argument>, ArgumentError> {
        parse_arguments(&self.parameters, None, false, words)
    }
}

/// Checks the commands of a disk.
pub(super) fn check_commands(said: Vec<bindings::Command>) -> Result<Vec<ControlCommand>, Breach> {
    if said.len() > MAX_COMMANDS {
        return Err(Breach::TooManyCommands(said.len()));
    }
    let texts: usize = said.iter().map(text_len).sum();
    if texts > MAX_CONTROL_TEXT {
        return Err(Breach::CommandTexts(texts));
    }
    let mut commands: Vec<ControlCommand> = Vec::new();
    for bindings::Command { name, summary, parameters } in said {
        if name.len() > MAX_TEXT || !is_name(&name) {
            return Err(Breach::CommandName(excerpt(&name)));
        }
        if commands.iter().any(|other| other.name == name) {
            return Err(Breach::CommandTwice(name));
        }
        let parameters = check_parameters(parameters)?;
        let foreign = parameters.iter().find(|parameter| {
            parameter.kind.link().is_some()
                || matches!(parameter.kind, ParameterType::Secret | ParameterType::Output(_))
        });
        if let Some(foreign) = foreign {
            let parameter = foreign.name.clone();
            return Err(Breach::CommandParameter { command: name, parameter });
        }
        commands.push(ControlCommand { name, summary: printable(&summary), parameters });
    }
    Ok(commands)
}

/// The length of the texts of a command, which are kept as long as the disk is open.
fn text_len(command: &bindings::Command) -> usize {
    let of = |parameter: &bindings::Parameter| {
        let choices = match &parameter.kind {
            bindings::ParameterType::Choice(words) => words.iter().map(String::len).sum(),
            bindings::ParameterType::Output(Some(append)) => append.len(),
            _ => 0,
        };
        let default = parameter.default.as_ref().map_or(0, String::len);
        parameter.name.len() + parameter.summary.len() + choices + default
    };
    let parameters: usize = command.parameters.iter().map(of).sum();
    command.name.len() + command.summary.len() + parameters
}

/// Checks the answer to a command: a text of several lines.
pub(super) fn check_answer(said: &str) -> Result<String, Breach> {
    if said.len() > MAX_CONTROL_TEXT {
        return Err(Breach::CommandAnswer(said.len()));
    }
    let lines = said.split('\n').map(|line| printable_up_to(line, MAX_CONTROL_TEXT));
    Ok(lines.collect::<Vec<_>>().join("\n"))
}
