//! Limits of how much the clients of an export transfer, and how many requests they make, in a second.
//!
//! A request that exceeds a limit is not refused but waits, and with it all that follows it on its
//! connection. Those who wait for the same limit take turns, in the order in which they came: a request
//! pays for a tenth of a second at a time, so a long one does not keep short ones of other connections
//! waiting for much longer than that.
//!
//! All limits can be changed at any time, also while requests wait for them. This module does not know
//! what a request is for, or how it is held back.

mod bucket;

use std::future::Future;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bucket::Bucket;

/// The number of bits in a byte.
const BITS: u64 = 8;

/// How long clients may exceed a limit after a pause, unless [`Rates::burst`] says otherwise.
pub const BURST: Duration = Duration::from_secs(2);

/// The most that may be transferred and requested in a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// The limit of what is read, and that of what is written, in bits per second; unlimited if `None`.
    /// Other requests transfer nothing.
    pub bits: Option<NonZeroU64>,
    /// The limit of requests of any kind per second; unlimited if `None`.
    pub requests: Option<NonZeroU64>,
    /// What may be caught up on after a pause: as much as the limits allow in this time. Less than 10 ms
    /// counts as 10 ms, for timers are not more precise.
    pub burst: Duration,
}

impl Default for Rates {
    /// Without limits.
    fn default() -> Self {
        Self { bits: None, requests: None, burst: BURST }
    }
}

impl Rates {
    fn is_limited(&self) -> bool {
        self.bits.is_some() || self.requests.is_some()
    }
}

/// What a limit applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All connections to an export together.
    Export,
    /// Each connection by itself.
    Connection,
}

/// What a request transfers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// This many bytes to the client.
    Read(u64),
    /// This many bytes from the client.
    Write(u64),
    /// Nothing that counts.
    Nothing,
}

/// The limits of an export.
#[derive(Default)]
pub struct Limits {
    /// There is a limit.
    limited: AtomicBool,
    /// The limits of all connections together.
    all: Arc<Buckets>,
    settings: Mutex<Settings>,
}

#[derive(Default)]
struct Settings {
    export: Rates,
    connection: Rates,
    /// The limits of the connections that have been limited.
    connections: Vec<Weak<Buckets>>,
}

/// The limits of one party.
#[derive(Default)]
struct Buckets {
    read: Bucket,
    write: Bucket,
    requests: Bucket,
}

impl Limits {
    /// Returns the limits of a scope.
    pub fn rates(&self, scope: Scope) -> Rates {
        let settings = self.settings();
        match scope {
            Scope::Export => settings.export,
            Scope::Connection => settings.connection,
        }
    }

    /// Changes the limits of a scope, also for requests that wait for them.
    pub fn set(&self, scope: Scope, rates: Rates) {
        let mut settings = self.settings();
        match scope {
            Scope::Export => {
                settings.export = rates;
                self.all.set(&rates);
            }
            Scope::Connection => {
                settings.connection = rates;
                settings.connections.retain(|connection| {
                    connection.upgrade().inspect(|buckets| buckets.set(&rates)).is_some()
                });
            }
        }
        let limited = settings.export.is_limited() || settings.connection.is_limited();
        self.limited.store(limited, Ordering::Relaxed);
    }

    /// Returns the limits of a new connection.
    fn buckets(&self) -> Arc<Buckets> {
        let buckets = Arc::new(Buckets::default());
        let mut settings = self.settings();
        buckets.set(&settings.connection);
        settings.connections.retain(|connection| connection.strong_count() > 0);
        settings.connections.push(Arc::downgrade(&buckets));
        buckets
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buckets {
    fn set(&self, rates: &Rates) {
        self.read.set(rates.bits, rates.burst);
        self.write.set(rates.bits, rates.burst);
        self.requests.set(rates.requests, rates.burst);
    }

    /// Returns what a request costs: one of the requests, and the bits that it transfers.
    fn costs(&self, transfer: Transfer) -> [(&Bucket, u64); 2] {
        let (bucket, bytes) = match transfer {
            Transfer::Read(bytes) => (&self.read, bytes),
            Transfer::Write(bytes) => (&self.write, bytes),
            Transfer::Nothing => (&self.read, 0),
        };
        [(&self.requests, 1), (bucket, bytes.saturating_mul(BITS))]
    }
}

/// A connection's access to the limits of its export.
pub struct Allowance {
    limits: Arc<Limits>,
    /// Those of several exports together.
    shared: Option<Arc<Limits>>,
    /// The limits of the connection, from when it was first limited.
    own: Option<Arc<Buckets>>,
}

/// A future that ends when a request may be executed. Dropping it gives up the turn.
pub type Payment = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Allowance {
    /// Creates the access of a new connection.
    pub fn new(limits: Arc<Limits>) -> Self {
        Self { limits, shared: None, own: None }
    }

    /// Returns an access that these limits hold for as well: those of several exports together. Their limits
    /// for each connection do not matter.
    #[must_use]
    pub fn sharing(self, shared: Option<Arc<Limits>>) -> Self {
        Self { shared, ..self }
    }

    /// Returns true if there is any limit.
    #[inline]
    pub fn is_limited(&self) -> bool {
        let is_limited = |limits: &Arc<Limits>| limits.limited.load(Ordering::Relaxed);
        is_limited(&self.limits) || self.shared.as_ref().is_some_and(is_limited)
    }

    /// Charges a request. Returns what to wait for if it exceeds a limit.
    #[cold]
    pub fn charge(&mut self, transfer: Transfer) -> Option<Payment> {
        let own = self.own.get_or_insert_with(|| self.limits.buckets());
        // The connection's own limits come first, so that one that waits for those takes nothing from
        // others.
        let shared = self.shared.as_ref().map(|shared| shared.all.clone());
        let payers = [Some(own.clone()), Some(self.limits.all.clone()), shared];
        let paid =
            costs(&payers, transfer).take_while(|(bucket, cost)| bucket.try_take(*cost)).count();
        if paid == costs(&payers, transfer).count() {
            return None;
        }
        Some(Box::pin(async move {
            for (bucket, cost) in costs(&payers, transfer).skip(paid) {
                bucket.take(cost).await;
            }
        }))
    }
}

/// Returns what all of these charge for a request, in this order.
fn costs(
    payers: &[Option<Arc<Buckets>>; 3],
    transfer: Transfer,
) -> impl Iterator<Item = (&Bucket, u64)> {
    payers.iter().flatten().flat_map(move |buckets| buckets.costs(transfer))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn bits(bits: u64) -> Rates {
        let burst = Duration::from_millis(10);
        Rates { bits: NonZeroU64::new(bits), requests: None, burst }
    }

    fn requests(requests: u64) -> Rates {
        Rates { bits: None, requests: NonZeroU64::new(requests), ..bits(1) }
    }

    fn limits(scope: Scope, rates: Rates) -> Arc<Limits> {
        let limits = Arc::new(Limits::default());
        limits.set(scope, rates);
        assert_eq!(limits.rates(scope), rates);
        limits
    }

    async fn pay(allowance: &mut Allowance, transfer: Transfer) {
        if let Some(payment) = allowance.charge(transfer) {
            payment.await;
        }
    }

    /// How long so many requests take.
    async fn time(allowance: &mut Allowance, transfer: Transfer, count: usize) -> f64 {
        let start = Instant::now();
        for _ in 0..count {
            pay(allowance, transfer).await;
        }
        start.elapsed().as_secs_f64()
    }

    #[tokio::test]
    async fn nothing_is_charged_where_there_is_no_limit() {
        let limits = limits(Scope::Export, Rates::default());
        let mut allowance = Allowance::new(limits.clone());
        assert!(!allowance.is_limited());
        assert!(allowance.charge(Transfer::Read(u64::MAX)).is_none());
        limits.set(Scope::Connection, requests(1));
        assert!(allowance.is_limited());
        limits.set(Scope::Connection, Rates::default());
        assert!(!allowance.is_limited());
    }

    #[tokio::test]
    async fn reads_and_writes_have_limits_of_their_own_and_all_else_is_free() {
        let mut allowance = Allowance::new(limits(Scope::Export, bits(800_000)));
        for transfer in [Transfer::Read, Transfer::Write] {
            // 10 ms are there at the start.
            assert!(allowance.charge(transfer(1000)).is_none());
            assert!(allowance.charge(Transfer::Nothing).is_none());
            let took = time(&mut allowance, transfer(5000), 4).await;
            assert!(took >= 0.199, "20 kB at 100 kB/s: {took}");
        }
    }

    #[tokio::test]
    async fn requests_are_limited_whatever_they_do() {
        let mut allowance = Allowance::new(limits(Scope::Connection, requests(100)));
        assert!(allowance.charge(Transfer::Nothing).is_none());
        let took = time(&mut allowance, Transfer::Nothing, 20).await;
        assert!(took >= 0.199, "{took}");
    }

    #[tokio::test]
    async fn limit_of_an_export_is_for_all_and_that_of_a_connection_for_each() {
        let pair = |scope| {
            let limits = limits(scope, requests(100));
            [Allowance::new(limits.clone()), Allowance::new(limits)]
        };
        let [mut one, mut other] = pair(Scope::Connection);
        assert!(one.charge(Transfer::Nothing).is_none());
        assert!(one.charge(Transfer::Nothing).is_some());
        assert!(other.charge(Transfer::Nothing).is_none());
        let [mut one, mut other] = pair(Scope::Export);
        assert!(one.charge(Transfer::Nothing).is_none());
        assert!(other.charge(Transfer::Nothing).is_some());
    }

    #[tokio::test]
    async fn shared_limits_hold_for_several_exports_together() {
        let shared = limits(Scope::Export, requests(100));
        let access = || Allowance::new(Arc::default()).sharing(Some(shared.clone()));
        let [mut one, mut other] = [access(), access()];
        assert!(one.is_limited());
        assert!(one.charge(Transfer::Nothing).is_none());
        let took = time(&mut other, Transfer::Nothing, 20).await;
        assert!(took >= 0.199, "{took}");
        shared.set(Scope::Export, Rates::default());
        assert!(!one.is_limited());
    }

    #[tokio::test]
    async fn short_requests_do_not_wait_for_long_ones_of_others() {
        let limits = limits(Scope::Export, bits(8_000_000));
        let mut greedy = Allowance::new(limits.clone());
        // 100 s.
        let long = tokio::spawn(greedy.charge(Transfer::Read(100_000_000)).unwrap());
        tokio::task::yield_now().await;
        let mut modest = Allowance::new(limits);
        let took = time(&mut modest, Transfer::Read(1000), 3).await;
        assert!(took < 20.0, "{took}");
        assert!(!long.is_finished());
        long.abort();
    }

    #[tokio::test]
    async fn changes_are_for_those_who_wait_as_well() {
        for scope in [Scope::Export, Scope::Connection] {
            let limits = limits(scope, bits(8));
            let mut allowance = Allowance::new(limits.clone());
            let waiting = tokio::spawn(allowance.charge(Transfer::Write(1 << 30)).unwrap());
            tokio::task::yield_now().await;
            limits.set(scope, bits(1 << 40));
            let limit = Duration::from_secs(30);
            tokio::time::timeout(limit, waiting).await.expect("it is faster now").unwrap();
            let waiting = {
                limits.set(scope, bits(8));
                tokio::spawn(allowance.charge(Transfer::Write(1 << 30)).unwrap())
            };
            tokio::task::yield_now().await;
            limits.set(scope, Rates::default());
            tokio::time::timeout(limit, waiting).await.expect("there is no limit now").unwrap();
        }
    }

    #[tokio::test]
    async fn whoever_gives_up_leaves_the_turn_to_the_next() {
        let limits = limits(Scope::Export, requests(20));
        let mut one = Allowance::new(limits.clone());
        assert!(one.charge(Transfer::Nothing).is_none());
        let waiting = one.charge(Transfer::Read(1)).unwrap();
        let waiting = tokio::spawn(waiting);
        tokio::task::yield_now().await;
        waiting.abort();
        let _ = waiting.await;
        let mut other = Allowance::new(limits);
        let limit = Duration::from_secs(30);
        let paid = pay(&mut other, Transfer::Nothing);
        tokio::time::timeout(limit, paid).await.expect("it is its turn");
    }

    #[test]
    fn connections_that_are_gone_are_forgotten() {
        let limits = limits(Scope::Connection, requests(1));
        for _ in 0..100 {
            let _ = Allowance::new(limits.clone()).charge(Transfer::Nothing);
        }
        assert!(limits.settings().connections.len() <= 2);
    }
}
