//! The calls of the interface `events`.

use super::Instance;
use crate::block::ErrorCode;
use crate::component::bindings;
use crate::component::call::Call;
use crate::component::fault::Fault;

impl Instance {
    /// Says that a flush begins. Returns the token for its end, or `None` if the component does not want to
    /// know.
    pub async fn flush_began(&mut self) -> Result<Option<u64>, Fault> {
        match self.functions.events {
            Some(events) => self.call(Call::FlushBegan, events.flush_began, ()).await.map(Some),
            None => Ok(None),
        }
    }

    /// Says that a flush has ended.
    pub async fn flush_ended(
        &mut self,
        token: u64,
        result: Option<ErrorCode>,
    ) -> Result<(), Fault> {
        let Some(events) = self.functions.events else { return Ok(()) };
        let result = result.map(bindings::ErrorCode::from);
        self.call_any(Call::FlushEnded(token), events.flush_ended, (token, result)).await
    }

    /// Says that the disk is about to be closed.
    pub async fn closing(&mut self) -> Result<(), Fault> {
        match self.functions.events {
            Some(events) => self.call_any(Call::Closing, events.closing, ()).await,
            None => Ok(()),
        }
    }
}
