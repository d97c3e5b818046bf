//! A share of the processors for the guests of several disks together.
//!
//! The time that guests compute is taken from an account, which is refilled at the rate of the share. While
//! nothing is left, requests that need a guest wait before they begin. Those that have begun go on: what they
//! take beyond the account is a debt, which is paid before others begin.
//!
//! What a request takes is known only afterwards, so each is charged a little when it begins, which it gets
//! back when it ends. Otherwise all that come at once would begin before the first of them is charged.
//!
//! - `account`: what is left of a share.
//! - `processors`: how large it is.
//!
//! The module does not know whose guests these are, or how requests are held back. The crate governor, by
//! which `rate` limits requests, has no debts: it knows the price of what passes before it does.

mod account;
mod processors;

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use crate::clock;
use crate::device::held_back::{COUNTED, HeldBack};
use account::Account;
pub use processors::{NotProcessors, Processors};

/// A share of the processors that several disks have together. Clones are of the same share.
#[derive(Clone, Debug, Default)]
pub struct GuestTime(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// There is a limit.
    limited: AtomicBool,
    account: Mutex<Account>,
    /// Notified when a request may begin that the account did not allow.
    changed: Notify,
    held_back: HeldBack,
}

/// A request that has begun. It gets its deposit back when this is dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct Begun(GuestTime);

impl GuestTime {
    /// Sets the share, without a limit if `None`, also for requests that wait.
    pub fn set(&self, share: Option<Processors>) {
        let mut account = self.account();
        account.set(share, clock::nanos());
        self.0.limited.store(share.is_some(), Ordering::Relaxed);
        drop(account);
        self.0.changed.notify_waiters();
    }

    /// Returns true if there is a limit.
    #[inline]
    pub fn is_limited(&self) -> bool {
        self.0.limited.load(Ordering::Relaxed)
    }

    /// Returns how many processors the guests used lately, in thousandths. 0 without a limit, for nothing is
    /// counted then.
    pub fn load(&self) -> u64 {
        self.account().load(clock::nanos())
    }

    /// Returns the time for which requests were held back. Of those of a connection, one at a time counts.
    pub fn held_back(&self) -> Duration {
        self.0.held_back.time()
    }

    /// Takes time that guests have used.
    #[inline]
    pub(crate) fn charge(&self, time: Duration) {
        if self.is_limited() {
            self.account().charge(time, clock::nanos());
        }
    }

    /// Begins a request, unless it has to wait. Nothing is to be kept if there is no limit.
    pub(crate) fn try_begin(&self) -> Result<Option<Begun>, MustWait> {
        if !self.is_limited() {
            return Ok(None);
        }
        let _turn = self.0.held_back.try_turn().ok_or(MustWait)?;
        match self.account().begin(clock::nanos()) {
            Ok(()) => Ok(Some(Begun(self.clone()))),
            Err(_) => Err(MustWait),
        }
    }

    /// Begins a request when there is time for it. Those who wait take turns, in the order in which they
    /// came.
    pub(crate) async fn begin(self) -> Begun {
        let mut turn = self.0.held_back.turn().await;
        loop {
            let mut changed = pin!(self.0.changed.notified());
            changed.as_mut().enable();
            let begun = self.account().begin(clock::nanos());
            let Err(wait) = begun else { break };
            tokio::select! {
                () = sleep(wait.min(COUNTED)) => {}
                () = changed => {}
            }
            turn.count();
        }
        drop(turn);
        Begun(self.clone())
    }

    /// Waits until a request may begin.
    pub async fn wait(self) {
        if self.try_begin().is_err() {
            drop(self.begin().await);
        }
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.0.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nothing is left of the share, or others wait for it.
#[derive(Debug)]
pub(crate) struct MustWait;

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.account().end();
        self.0.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processors(number: f64) -> Option<Processors> {
        Some(number.try_into().unwrap())
    }

    #[tokio::test]
    async fn who_waits_begins_when_the_limit_is_raised_or_removed() {
        let time = GuestTime::default();
        assert!(time.try_begin().unwrap().is_none(), "there is no limit");
        for share in [processors(1000.0), None] {
            time.set(processors(0.001));
            time.charge(Duration::from_secs(30));
            assert!(time.try_begin().is_err());
            let waiting = tokio::spawn(time.clone().begin());
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert!(!waiting.is_finished());
            time.set(share);
            let limit = Duration::from_secs(30);
            drop(tokio::time::timeout(limit, waiting).await.expect("it may begin").unwrap());
            assert!(time.held_back() >= Duration::from_millis(20));
            time.set(None);
        }
    }
}
