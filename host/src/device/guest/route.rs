//! The calls of the interface `routing`, and the properties of a component that a device which stands on
//! others depends on.

use std::future::Future;
use std::io;
use std::time::Duration;

use super::GuestDevice;
use crate::block::{Error, Operation};
use crate::component::{Fault, Request, Results, Route, Rules, StableRoute};

impl GuestDevice {
    /// Returns the locks of requests, or `None` if the component does not route them.
    pub(in crate::device) fn rules(&self) -> Option<Rules> {
        self.component.rules
    }

    /// Returns the name of the export, for messages.
    pub(in crate::device) fn export_name(&self) -> &str {
        &self.export_name
    }

    /// Runs a task that calls the component where it delays nobody else.
    pub(in crate::device) async fn run<F>(&self, task: F) -> io::Result<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.schedule.run(task).await
    }

    /// Returns true if the component has a flush of its own.
    pub(in crate::device) fn flushes(&self) -> bool {
        self.component.capabilities.flush
    }

    /// Returns true if the component zeroes, so that zeroes are not written instead.
    pub(in crate::device) fn zeroes(&self) -> bool {
        self.geometry.capabilities.writable && self.component.capabilities.zero
    }

    /// Returns true if the component reports extents.
    pub(in crate::device) fn has_extents(&self) -> bool {
        self.component.extents
    }

    /// The calls that the only instance got since this was last asked.
    #[cfg(test)]
    pub(in crate::device) async fn take_log(
        &self,
    ) -> Vec<(crate::component::tests::guest::Called, u64, u64)> {
        let mut shard = self.shards.lock(0).await;
        crate::component::tests::guest::take_log(shard.instance_mut()).await
    }

    /// Asks the component where the bytes of a request are. Returns `None` if it does not route.
    pub(in crate::device) async fn route(&self, request: &Request) -> Result<Option<Route>, Error> {
        let mut shard = self.shard(request.span.offset).await?;
        let answer = shard.instance_mut().route(request).await;
        self.kill_on_fault(&mut shard, answer)
    }

    /// Tells the component that the route of a request at `offset` is complete, which was executed again
    /// this often. Returns a time after which it is to be executed once more.
    pub(in crate::device) async fn route_done(
        &self,
        offset: u64,
        token: u64,
        results: Results,
        repeats: u32,
    ) -> Result<Option<Duration>, Error> {
        let mut shard = self.shard(offset).await?;
        let answer = shard.instance_mut().done(token, results, repeats).await;
        self.kill_on_fault(&mut shard, answer)
    }

    /// Asks the component for its stable route of an operation, from an offset on. Returns `None` if there
    /// is none, or no memory for an instance to ask.
    ///
    /// # Errors
    ///
    /// Returns a fault, which the caller must give to [`Self::failed`] if the device is in use.
    pub(in crate::device) async fn stable_route(
        &self,
        operation: Operation,
        offset: u64,
    ) -> Result<Option<StableRoute>, Fault> {
        let Ok(mut shard) = self.shard(offset).await else { return Ok(None) };
        let answer = shard.instance_mut().stable(operation, offset).await;
        answer.inspect_err(|_| shard.stop())
    }

    /// Marks the device as dead, and returns the error for its client.
    pub(in crate::device) fn failed(&self, fault: &Fault) -> Error {
        self.die(fault).into()
    }
}
