//! Times in which nothing is answered.

use core::time::Duration;

use memnbd_guest::{Error, MAX_DELAY, OpenRequest, uptime};

/// Stalls that come at regular times.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stalls {
    /// The time from the beginning of one to that of the next.
    every: Duration,
    /// How long one lasts.
    length: Duration,
    /// The moment from which times count.
    start: Duration,
}

impl Stalls {
    /// Returns the stalls that a request to open a disk asks for.
    pub(crate) fn open(request: &OpenRequest) -> Result<Option<Self>, Error> {
        let given = ["delay-stall-every", "delay-stall-for"].map(|name| request.duration(name));
        let (every, length) = match given {
            [None, None] => return Ok(None),
            [Some(every), Some(length)] => (every, length),
            _ => {
                return Err(Error::EINVAL
                    .because("delay-stall-every and delay-stall-for must be given together"));
            }
        };
        if length >= every || length > MAX_DELAY {
            return Err(Error::EINVAL.because(
                "delay-stall-for must be shorter than delay-stall-every, and at most 10 minutes",
            ));
        }
        Ok((!length.is_zero()).then(|| Self { every, length, start: uptime() }))
    }

    /// Returns how long the stall goes on in which a request arrives; zero outside of stalls.
    pub(crate) fn rest(&self) -> Duration {
        let passed = uptime().saturating_sub(self.start);
        if passed < self.every {
            return Duration::ZERO;
        }
        let within = passed.as_nanos() % self.every.as_nanos();
        // Shorter than the remainder's divisor, a time that was given.
        self.length.saturating_sub(Duration::from_nanos(within as u64))
    }
}

#[cfg(test)]
mod tests {
    use memnbd_guest::{Value, testing};

    use super::*;

    fn open(every: Option<u64>, length: Option<u64>) -> Result<Option<Stalls>, Error> {
        let mut request = OpenRequest::default();
        for (name, seconds) in [("delay-stall-every", every), ("delay-stall-for", length)] {
            if let Some(seconds) = seconds {
                request = request.with(name, Value::Duration(Duration::from_secs(seconds)));
            }
        }
        Stalls::open(&request)
    }

    #[test]
    fn stalls_come_again_and_again() {
        testing::advance(Duration::from_secs(7));
        let stalls = open(Some(10), Some(3)).unwrap().unwrap();
        let rests: Vec<u64> = (0..34)
            .map(|_| {
                let rest = stalls.rest().as_secs();
                testing::advance(Duration::from_secs(1));
                rest
            })
            .collect();
        let mut expected = vec![0; 34];
        for start in [10, 20, 30] {
            expected[start..start + 3].copy_from_slice(&[3, 2, 1]);
        }
        assert_eq!(rests, expected);
    }

    #[test]
    fn both_times_are_given_and_stalls_end_before_the_next() {
        assert!(open(None, None).unwrap().is_none());
        assert!(open(Some(5), Some(0)).unwrap().is_none());
        assert!(open(Some(5), None).is_err() && open(None, Some(5)).is_err());
        assert!(open(Some(5), Some(5)).is_err() && open(Some(2000), Some(601)).is_err());
    }
}
