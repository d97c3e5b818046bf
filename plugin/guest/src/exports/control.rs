//! The exports of `control` and `listing` for types that implement [`Control`] or [`Listing`].

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::{Component, Opened};
use crate::bindings::control::exports::memnbd::block::control as contract;
use crate::bindings::listing::exports::memnbd::block::listing;
use crate::bindings::memnbd::block::types;
use crate::{Argument, Command, Control, Listed, Listing};

impl<C: Opened + Control> contract::Guest for Component<C> {
    fn commands() -> Vec<contract::Command> {
        let commands = Self::with(|disk| disk.commands());
        commands.into_iter().map(contract::Command::from).collect()
    }

    fn execute(command: String, arguments: Vec<types::Argument>) -> Result<String, types::Error> {
        let arguments: Vec<_> = arguments.into_iter().map(Argument::from).collect();
        Self::call(|disk| disk.execute(&command, &arguments))
    }
}

impl From<Command> for contract::Command {
    fn from(command: Command) -> Self {
        Self {
            name: command.name.to_string(),
            summary: command.summary.to_string(),
            parameters: command.parameters.into_iter().map(types::Parameter::from).collect(),
        }
    }
}

impl<L: Opened + Listing> listing::Guest for Component<L> {
    fn exports(request: types::OpenRequest) -> Result<listing::Listed, types::Error> {
        let Listed { exports, default } = L::exports(&request.into())?;
        let exports = exports.into_iter().map(|export| listing::ListedExport {
            name: export.name,
            description: export.description,
        });
        Ok(listing::Listed { exports: exports.collect(), default })
    }
}
