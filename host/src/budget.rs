//! Limits on the resources that untrusted parties can make the process hold: a tree of budgets.
//!
//! A budget has a limit, part of which may be guaranteed: that much of its parent's limit is
//! reserved when the budget is created. Beyond its guarantee, a budget takes from what its parent
//! has left, in competition with the parent's other children. So even a child that takes all it can
//! leaves the others their guarantees.
//!
//! The module does not know what is counted, such as bytes or connections, or who waits for more.
//!
//! No crate has such a tree: tokio's and async-speed-limit's semaphores have one level, and those of
//! service frameworks count requests by rate.

use crate::sync::{Arc, AtomicU64, Ordering};

/// A limit on the total amount that its holders take together.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Node>);

#[derive(Debug)]
struct Node {
    limit: AtomicU64,
    /// The part of the limit that was taken from the parent when this was created.
    guaranteed: u64,
    used: AtomicU64,
    parent: Option<Budget>,
}

impl Budget {
    /// Creates a budget without a parent.
    pub fn new(limit: u64) -> Self {
        let used = AtomicU64::new(0);
        let (limit, guaranteed) = (AtomicU64::new(limit), limit);
        Self(Arc::new(Node { limit, guaranteed, used, parent: None }))
    }

    /// Creates a budget within this one. If `guaranteed`, or `limit` if that is less, is available
    /// now, it is reserved for the child; otherwise nothing is guaranteed.
    pub fn child(&self, limit: u64, guaranteed: u64) -> Self {
        let guaranteed = guaranteed.min(limit);
        let guaranteed = if self.take(guaranteed) { guaranteed } else { 0 };
        let (limit, used) = (AtomicU64::new(limit), AtomicU64::new(0));
        Self(Arc::new(Node { limit, guaranteed, used, parent: Some(self.clone()) }))
    }

    /// Returns the limit of the budget.
    pub fn limit(&self) -> u64 {
        self.0.limit.load(Ordering::Relaxed)
    }

    /// Changes the limit. What is in use beyond it stays so until it is given back. What was guaranteed
    /// stays reserved.
    pub fn set_limit(&self, limit: u64) {
        self.0.limit.store(limit, Ordering::Relaxed);
    }

    /// Returns the amount in use. For a parent, this includes its children's guarantees and what
    /// they hold beyond them.
    pub fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }

    /// Returns how much can be taken now, if nobody else takes or gives back something.
    pub fn available(&self) -> u64 {
        let used = self.used();
        let own = self.limit().saturating_sub(used);
        let guaranteed = self.0.guaranteed.saturating_sub(used);
        match &self.0.parent {
            Some(parent) => own.min(parent.available().saturating_add(guaranteed)),
            None => own,
        }
    }

    /// Takes an amount, all of it or nothing. Returns true if it was taken.
    pub fn take(&self, amount: u64) -> bool {
        let mut used = self.used();
        loop {
            let Some(sum) = used.checked_add(amount).filter(|&sum| sum <= self.limit()) else {
                return false;
            };
            let from_parent = self.0.beyond(sum) - self.0.beyond(used);
            if !self.0.take_from_parent(from_parent) {
                return false;
            }
            match self.0.change(used, sum) {
                Ok(()) => return true,
                Err(now) => {
                    self.0.give_back_to_parent(from_parent);
                    used = now;
                }
            }
        }
    }

    /// Gives back an amount that was taken.
    pub fn give_back(&self, amount: u64) {
        let mut used = self.used();
        loop {
            debug_assert!(amount <= used, "what is given back was taken");
            let rest = used.saturating_sub(amount);
            match self.0.change(used, rest) {
                Ok(()) => {
                    let to_parent = self.0.beyond(used) - self.0.beyond(rest);
                    return self.0.give_back_to_parent(to_parent);
                }
                Err(now) => used = now,
            }
        }
    }
}

impl Node {
    /// Returns the part of `used` that exceeds the guarantee and so is taken from the parent.
    fn beyond(&self, used: u64) -> u64 {
        used.saturating_sub(self.guaranteed)
    }

    fn change(&self, from: u64, to: u64) -> Result<(), u64> {
        let (acquire, relaxed) = (Ordering::AcqRel, Ordering::Relaxed);
        self.used.compare_exchange_weak(from, to, acquire, relaxed).map(drop)
    }

    fn take_from_parent(&self, amount: u64) -> bool {
        amount == 0 || self.parent.as_ref().is_none_or(|parent| parent.take(amount))
    }

    fn give_back_to_parent(&self, amount: u64) {
        if let Some(parent) = self.parent.as_ref().filter(|_| amount > 0) {
            parent.give_back(amount);
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        debug_assert_eq!(self.used.load(Ordering::Relaxed), 0, "all was given back");
        self.give_back_to_parent(self.guaranteed);
    }
}

/// An amount of a budget, given back when this is dropped.
#[derive(Debug)]
pub struct Held {
    budget: Budget,
    amount: u64,
}

impl Held {
    /// Takes an amount if it is available.
    pub fn take(budget: &Budget, amount: u64) -> Option<Self> {
        budget.take(amount).then(|| Self { budget: budget.clone(), amount })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.give_back(self.amount);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn children_compete_for_what_is_not_guaranteed() {
        let root = Budget::new(100);
        let a = root.child(80, 20);
        let b = root.child(u64::MAX, 20);
        assert_eq!(root.used(), 40);
        assert_eq!((a.available(), b.available()), (80, 80));
        assert!(a.take(80));
        assert_eq!(b.available(), 20);
        assert!(!a.take(1), "its own limit");
        assert_eq!(root.used(), 100);
        assert!(b.take(20), "it has that for sure");
        assert!(!b.take(1));
        a.give_back(50);
        assert!(b.take(50));
        assert!(!b.take(1) && !a.take(1));
        assert!(!b.take(u64::MAX), "sums do not overflow");
        assert_eq!((a.available(), b.available()), (0, 0));
        b.give_back(70);
        a.give_back(30);
        assert_eq!(root.used(), 40);
        drop((a, b));
        assert_eq!(root.used(), 0);
    }

    #[test]
    fn nothing_is_guaranteed_that_is_not_there() {
        let root = Budget::new(100);
        let _a = root.child(100, 60);
        let b = root.child(100, 60);
        assert_eq!(root.used(), 60);
        assert!(b.take(40) && !b.take(1), "it competes for all it takes");
        b.give_back(40);
    }

    #[test]
    fn what_is_held_goes_back() {
        let budget = Budget::new(10);
        let held = Held::take(&budget, 7).unwrap();
        assert!(Held::take(&budget, 4).is_none());
        drop(held);
        assert!(Held::take(&budget, 10).is_some());
        assert_eq!(budget.used(), 0);
    }

    /// Whatever the threads do at once, no sum is ever more than a limit, and nothing is lost.
    #[test]
    fn many_threads_share_a_tree() {
        let root = Budget::new(1000);
        let children: Vec<Budget> = (0..4).map(|_| root.child(600, 100)).collect();
        thread::scope(|scope| {
            for (seed, child) in children.iter().cycle().take(8).enumerate() {
                let root = &root;
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(seed as u64);
                    let mut held = Vec::new();
                    for _ in 0..20_000 {
                        match random.bool() {
                            true => held.extend(Held::take(child, random.u64(0..200))),
                            false => drop(held.pop()),
                        }
                        assert!(child.used() <= 600 && root.used() <= 1000);
                    }
                });
            }
        });
        assert_eq!(root.used(), 400);
        drop(children);
        assert_eq!(root.used(), 0);
    }
}
