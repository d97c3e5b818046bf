//! What the component is told beside requests, and the end of the disk.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::GuestDevice;
use crate::block::{Error, ErrorCode};

impl GuestDevice {
    /// Tells the component that a flush of its lower devices begins. Returns the token for its end, or
    /// `None` if it does not want to know.
    pub(in crate::device) async fn flush_began(&self) -> Result<Option<u64>, Error> {
        if !self.component.events {
            return Ok(None);
        }
        // A disk with events has one instance.
        let mut shard = self.shard(0).await?;
        let answer = shard.instance_mut().flush_began().await;
        self.kill_on_fault(&mut shard, answer.map(Ok))
    }

    /// Tells the component that a flush has ended.
    pub(in crate::device) async fn flush_ended(
        &self,
        token: u64,
        result: Option<ErrorCode>,
    ) -> Result<(), Error> {
        let mut shard = self.shard(0).await?;
        let answer = shard.instance_mut().flush_ended(token, result).await;
        self.kill_on_fault(&mut shard, answer.map(Ok))
    }

    /// Returns true if [`Self::close`] has anything to do.
    pub(super) fn must_close(&self) -> bool {
        self.component.events || !self.outputs.is_empty()
    }

    /// Tells the component once that the disk is about to be closed, and waits for its outputs.
    pub(super) async fn close(self: Arc<Self>) -> Result<(), Error> {
        let mut told = Ok(());
        if self.component.events && !self.is_dead() && !self.closing.swap(true, Ordering::Relaxed) {
            let device = self.clone();
            let telling = async move {
                let mut shard = device.shard(0).await?;
                let answer = shard.instance_mut().closing().await;
                device.kill_on_fault(&mut shard, answer.map(Ok))
            };
            told = self.schedule.run(telling).await.unwrap_or(Err(ErrorCode::Io.into()));
        }
        for output in &self.outputs {
            output.drain().await;
        }
        told
    }
}
