//! Zeroing and trimming, of spans that may be as long as the device.

use tokio::task::consume_budget;

use super::shard::Locked;
use super::{GuestDevice, Unavailable};
use crate::block::{Error, ErrorCode, Span};
use crate::device::Cancelled;
use crate::device::zero::{MAX_WRITTEN, ZEROES, Zero};

impl GuestDevice {
    pub(super) async fn zero(&self, zero: Zero, cancelled: &Cancelled) -> Result<(), Error> {
        let emulated = !self.component.capabilities.zero;
        let in_steps = emulated || zero.keep_allocated && self.shards.is_striped();
        if in_steps && zero.span.length > MAX_WRITTEN {
            return Err(if zero.fast { ErrorCode::NotSup } else { ErrorCode::Overflow }.into());
        }
        let zeroed = if emulated {
            Err(ErrorCode::NotSup.into())
        } else if zero.keep_allocated || self.shards.few_stripes(zero.span) {
            self.zero_stripes(zero, cancelled).await
        } else {
            self.zero_shards(zero).await
        };
        match zeroed {
            Err(Error { code: ErrorCode::NotSup, .. }) if !zero.fast => {
                if zero.span.length > MAX_WRITTEN {
                    return Err(ErrorCode::Overflow.into());
                }
                self.write_zeroes(zero.span, cancelled).await?;
            }
            zeroed => zeroed?,
        }
        self.flush_instead_of_fua(zero.fua).await
    }

    /// Zeroes stripe by stripe. Stops early if the client has gone away.
    async fn zero_stripes(&self, zero: Zero, cancelled: &Cancelled) -> Result<(), Error> {
        let mut left = zero.span;
        while left.length > 0 && !cancelled.is_cancelled() {
            let part = self.shards.first_stripe(left);
            let shard = self.shard(part.offset).await?;
            self.zero_one(shard, Zero { span: part, ..zero }).await?;
            left = left.after(part.length);
            consume_budget().await;
        }
        Ok(())
    }

    /// Calls every shard once. Those that are started come first: the others may need the memory
    /// that they free.
    async fn zero_shards(&self, zero: Zero) -> Result<(), Error> {
        let mut others = Vec::new();
        for index in 0..self.shards.count() {
            let shard = self.shards.lock(index).await;
            match shard.is_started() {
                true => self.zero_one(shard, zero).await?,
                false => others.push(index),
            }
            consume_budget().await;
        }
        for index in others {
            let shard = self.started(index).await.map_err(|unavailable| match unavailable {
                Unavailable::Dead => ErrorCode::Io,
                Unavailable::NoMemory => ErrorCode::NoSpc,
            })?;
            self.zero_one(shard, zero).await?;
            consume_budget().await;
        }
        Ok(())
    }

    async fn zero_one(&self, mut shard: Locked, zero: Zero) -> Result<(), Error> {
        let fua = zero.fua && self.component.capabilities.fua;
        let instance = shard.instance_mut();
        let answer = instance.zero(zero.span, fua, zero.keep_allocated, zero.fast).await;
        self.kill_on_fault(&mut shard, answer)?;
        self.drop_if_empty(&mut shard).await
    }

    /// Emulates `zero` by writing. Stops early if the client has gone away.
    async fn write_zeroes(&self, span: Span, cancelled: &Cancelled) -> Result<(), Error> {
        let mut left = span;
        while left.length > 0 && !cancelled.is_cancelled() {
            let part = Span { offset: left.offset, length: left.length.min(ZEROES.len() as u64) };
            let part = self.first_transfer(part);
            let mut shard = self.shard(part.offset).await?;
            let zeroes = &ZEROES[..part.length as usize];
            let answer = shard.instance_mut().write(part.offset, zeroes, false).await;
            self.kill_on_fault(&mut shard, answer)?;
            drop(shard);
            left = left.after(part.length);
            consume_budget().await;
        }
        Ok(())
    }

    pub(super) async fn trim(&self, span: Span, fua: bool) -> Result<(), Error> {
        let component_fua = fua && self.component.capabilities.fua;
        if self.shards.few_stripes(span) {
            let mut left = span;
            while left.length > 0 {
                let part = self.shards.first_stripe(left);
                self.trim_one(self.shards.index(part.offset), part, component_fua).await?;
                left = left.after(part.length);
            }
        } else {
            for index in 0..self.shards.count() {
                self.trim_one(index, span, component_fua).await?;
            }
        }
        self.flush_instead_of_fua(fua).await
    }

    async fn trim_one(&self, index: usize, span: Span, fua: bool) -> Result<(), Error> {
        let mut shard = self.shards.lock(index).await;
        if self.is_dead() {
            return Err(ErrorCode::Io.into());
        }
        if !shard.is_started() {
            if self.shards.is_striped() {
                // It was never started, or was dropped when it was empty: there is nothing to trim.
                return Ok(());
            }
            drop(shard);
            shard = self.shard(span.offset).await?;
        }
        let answer = shard.instance_mut().trim(span, fua).await;
        self.kill_on_fault(&mut shard, answer)?;
        self.drop_if_empty(&mut shard).await?;
        drop(shard);
        consume_budget().await;
        Ok(())
    }

    /// Drops the instance of a shard that holds nothing, to free its memory. An instance whose
    /// memory has not grown is kept, for starting it again would cost more.
    async fn drop_if_empty(&self, shard: &mut Locked) -> Result<(), Error> {
        if !self.shards.is_striped() || !shard.instance().has_grown() {
            return Ok(());
        }
        let stored = shard.instance_mut().stored().await;
        if self.kill_on_fault(shard, stored.map(Ok))? == 0 {
            self.shards.stop(shard);
        }
        Ok(())
    }
}
