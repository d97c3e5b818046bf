//! The exports that a component offers.

use std::sync::Arc;

use super::{DiskConfig, OpenError};
use crate::component::{Below, Listed};
use crate::compute::Compute;

/// Lists the exports that a component offers, which may use the devices of `below`. Returns `None` if it
/// does not know them.
///
/// # Errors
///
/// Returns an error if the component refuses, or fails.
pub(in crate::device) async fn list_exports(
    config: DiskConfig,
    below: Arc<dyn Below>,
) -> Result<Option<Listed>, OpenError> {
    let listing = async move {
        let instance = config.component.start(config.budgets.memory.clone()).await;
        let mut instance = instance.map_err(OpenError::Fault)?;
        instance.stand_on(below);
        let listed = instance.list_exports(config.read_only, &config.arguments).await;
        listed.map_err(OpenError::Fault)?.map_err(OpenError::Refused)
    };
    Compute::default().run(Box::pin(listing)).await.map_err(OpenError::Threads)?
}
