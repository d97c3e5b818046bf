//! Requests that are executed again.

use alloc::collections::BTreeMap;

/// The most requests of which something is kept.
const MAX_REQUESTS: usize = 1 << 14;

/// What a filter keeps of requests that failed and are executed again, by their tokens
/// ([`Filter::repeat`](crate::Filter::repeat)).
///
/// It takes no memory for requests that succeed, and a bounded amount for the others: those whose clients
/// have gone away are not completed, and are forgotten some time.
///
/// ```
/// let mut attempts = memnbd_guest::Repeats::<u32>::new();
/// let token = attempts.token();
/// *attempts.failed(token).unwrap() += 1;
/// *attempts.failed(token).unwrap() += 1;
/// assert_eq!(attempts.ended(token), Some(2));
/// assert_eq!(attempts.ended(token), None);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Repeats<T> {
    requests: BTreeMap<u64, T>,
    next: u64,
    /// Requests with lower tokens may have been forgotten.
    known: u64,
}

impl<T: Default> Repeats<T> {
    /// Creates an empty collection.
    pub const fn new() -> Self {
        Self { requests: BTreeMap::new(), next: 0, known: 0 }
    }

    /// Returns the token of another request: a number less than 2^63.
    pub fn token(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// Returns what is kept of a request that has failed: the default value at first. Returns `None` if
    /// the request may have been forgotten, so that the filter must give up; else it could be repeated
    /// for ever.
    pub fn failed(&mut self, token: u64) -> Option<&mut T> {
        if !self.requests.contains_key(&token) {
            if token < self.known {
                return None;
            }
            if self.requests.len() >= MAX_REQUESTS {
                let (&oldest, _) = self.requests.first_key_value()?;
                if token < oldest {
                    return None;
                }
                self.requests.remove(&oldest);
                self.known = oldest + 1;
            }
        }
        Some(self.requests.entry(token).or_default())
    }

    /// Removes what is kept of a request that is not executed again. Returns `None` if there is nothing.
    pub fn ended(&mut self, token: u64) -> Option<T> {
        self.requests.remove(&token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_requests_are_forgotten_and_not_taken_for_new_ones() {
        let mut attempts = Repeats::<u32>::new();
        let early = attempts.token();
        for _ in 0..MAX_REQUESTS {
            let token = attempts.token();
            *attempts.failed(token).unwrap() += 1;
        }
        assert_eq!(attempts.failed(early), None, "it is older than all that are kept");
        let last = attempts.token();
        assert_eq!(attempts.failed(last), Some(&mut 0));
        assert_eq!(attempts.requests.len(), MAX_REQUESTS);
        assert_eq!(attempts.failed(1), None);
        assert_eq!(attempts.failed(2), Some(&mut 1));
        assert_eq!(attempts.ended(2), Some(1));
        assert_eq!(attempts.failed(early), None, "although there is room");
        assert_eq!(attempts.failed(last), Some(&mut 0));
    }
}
