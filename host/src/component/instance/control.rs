//! The calls of the interface `control`.

use super::{Instance, breach_of};
use crate::block::Error;
use crate::component::bindings;
use crate::component::call::Call;
use crate::component::control::{ControlCommand, check_answer, check_commands};
use crate::component::fault::Fault;
use crate::parameters::Argument;

impl Instance {
    /// Returns the commands of the disk, or `None` if the component has none.
    pub(super) async fn commands(&mut self) -> Result<Option<Vec<ControlCommand>>, Fault> {
        let Some(control) = self.functions.control else { return Ok(None) };
        let commands = self.call(Call::Commands, control.commands, ()).await?;
        check_commands(commands).map(Some).map_err(breach_of(Call::Commands))
    }

    /// Carries out one of the commands of the disk, and returns the component's text.
    pub async fn control(
        &mut self,
        command: &str,
        arguments: &[Argument],
    ) -> Result<Result<String, Error>, Fault> {
        let call = Call::Control;
        let Some(control) = self.functions.control else {
            return Ok(Err(crate::block::ErrorCode::Inval.into()));
        };
        let arguments = bindings::Argument::list(arguments);
        let execute = control.execute;
        match self.call(call, execute, (command.to_owned(), arguments)).await? {
            Ok(text) => check_answer(&text).map(Ok).map_err(breach_of(call)),
            Err(error) => Ok(Err(self.error(call, error))),
        }
    }
}
