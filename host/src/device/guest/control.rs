//! Commands to a component that is in use.

use std::sync::Arc;

use super::GuestDevice;
use crate::block::{Error, ErrorCode};
use crate::component::{ControlCommand, Fault};
use crate::parameters::Argument;

impl GuestDevice {
    /// Returns the commands that the component takes.
    pub(in crate::device) fn commands(&self) -> &[ControlCommand] {
        &self.component.commands
    }

    /// Carries out a command. It must be driven to its end.
    pub(in crate::device) async fn control(
        self: Arc<Self>,
        command: &str,
        arguments: &[Argument],
    ) -> Result<String, Error> {
        let (device, command, arguments) = (self.clone(), command.to_owned(), arguments.to_vec());
        let calling = async move {
            // A disk with commands has one instance.
            let mut shard = device.shard(0).await?;
            let answer = shard.instance_mut().control(&command, &arguments).await;
            device.kill_on_fault(&mut shard, answer)
        };
        self.schedule.run(calling).await.map_err(|_| Error::from(ErrorCode::NoMem))?
    }

    /// Marks the device as dead after a panic of the host at a command.
    pub(in crate::device) fn panicked_at_command(&self) -> Error {
        self.die(&Fault::Panic).into()
    }
}
