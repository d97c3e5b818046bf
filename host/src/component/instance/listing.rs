//! The call of the interface `listing`.

use super::{Instance, breach_of};
use crate::component::bindings;
use crate::component::call::Call;
use crate::component::check::refusal;
use crate::component::fault::Fault;
use crate::component::listing::{Listed, check_listed};
use crate::parameters::Argument;

impl Instance {
    /// Lists the exports of the component, or returns `None` if it does not know them. The instance can
    /// only be dropped afterwards.
    ///
    /// # Errors
    ///
    /// The inner error is the component's message.
    pub async fn list_exports(
        &mut self,
        read_only: bool,
        arguments: &[Argument],
    ) -> Result<Result<Option<Listed>, String>, Fault> {
        let Some(exports) = self.functions.listing else { return Ok(Ok(None)) };
        let request = self.open_request("", read_only, arguments);
        match self.call(Call::ListExports, exports, (request,)).await? {
            Ok(said) => {
                let listed = check_listed(said).map_err(breach_of(Call::ListExports))?;
                Ok(Ok(Some(listed)))
            }
            Err(error) => Ok(Err(refusal(error))),
        }
    }

    /// Returns the request to open a disk, or to list the exports.
    pub(super) fn open_request(
        &self,
        export_name: &str,
        read_only: bool,
        arguments: &[Argument],
    ) -> bindings::OpenRequest {
        bindings::OpenRequest {
            export_name: export_name.to_owned(),
            read_only,
            arguments: bindings::Argument::list(arguments),
            memory_limit: self.store.data().share().limit(),
            client: self.client.clone().map(bindings::Client::from),
        }
    }
}
