//! A filter that delays requests to another disk, like nbdkit's filter `delay`. It simulates a slow
//! or remote disk.
//!
//! The parameters are those of nbdkit: `rdelay` or `delay-read`, `wdelay` for writes, zeroing and
//! trims at once, and `delay-write`, `delay-zero`, `delay-trim`, `delay-extents` and `delay-cache`.
//! Of several that set the same delay, the last one holds. With `delay-fast-zero=false`, fast
//! zeroing fails at once while zeroing is delayed; otherwise it is delayed like other zeroing.
//!
//! `delay-jitter` is an addition to nbdkit's: each delay that is given, even as 0, becomes longer
//! by a random time up to this one.
//!
//! A delay lasts up to 10 minutes, including the jitter. Delayed requests occupy neither this
//! component nor a thread, and any number of them can wait at the same time. Requests without a
//! delay cost no call of this component.
//!
//! The command `set KEY=VALUE...` changes parameters while the disk is in use.
//!
//! nbdkit's `delay-open` and `delay-close` do not exist here: a component is opened once for a
//! disk, and does not learn of the connections of clients. Flushing is never delayed, as in nbdkit.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use memnbd_guest::{
    Argument, Backend, Capabilities, Command, Control, Description, Disk, Error, Filter, Lower,
    MAX_DELAY, OpenRequest, Operation, Parameter, Request, Route, StableRoute, Value, random_u64,
    withdraw_routes,
};

/// The parameters that are delays, with their summaries and the operations that they delay.
const DELAYS: [(&str, &str, &[Operation]); 8] = [
    ("rdelay", "the delay of reads", &[Operation::Read]),
    ("delay-read", "the same as rdelay", &[Operation::Read]),
    (
        "wdelay",
        "the delay of writes, zeroing and trims",
        &[Operation::Write, Operation::Zero, Operation::Trim],
    ),
    ("delay-write", "the delay of writes", &[Operation::Write]),
    ("delay-zero", "the delay of zeroing", &[Operation::Zero]),
    ("delay-trim", "the delay of trims", &[Operation::Trim]),
    ("delay-extents", "the delay of block status requests", &[Operation::Extents]),
    ("delay-cache", "the delay of prefetching", &[Operation::Cache]),
];

/// The open disk.
#[derive(Clone, Debug)]
pub struct Delay {
    base: Lower,
    size: u64,
    /// The delay of each operation, if one was given.
    delays: [Option<Duration>; Operation::ALL.len()],
    /// The longest time that is added to a delay.
    jitter: Duration,
    /// False if fast zeroing fails at once instead of being delayed.
    fast_zero: bool,
    /// What the settings were made of.
    request: OpenRequest,
}

impl Delay {
    /// Sets the delays that an argument gives.
    fn set(&mut self, argument: &Argument) -> Result<(), Error> {
        let Value::Duration(delay) = argument.value else { return Ok(()) };
        if delay.checked_add(self.jitter).is_none_or(|longest| longest > MAX_DELAY) {
            let name = &argument.name;
            return Err(Error::EINVAL.because(if self.jitter.is_zero() {
                format!("{name} must be at most 10 minutes")
            } else {
                format!("{name} and delay-jitter together must be at most 10 minutes")
            }));
        }
        for (name, _, operations) in DELAYS {
            if name == argument.name {
                for operation in operations {
                    self.delays[*operation as usize] = Some(delay);
                }
            }
        }
        Ok(())
    }

    /// Returns true if requests of this operation can have to wait.
    fn delays(&self, operation: Operation) -> bool {
        self.delays[operation as usize]
            .is_some_and(|delay| !delay.is_zero() || !self.jitter.is_zero())
    }

    /// Returns true if fast zeroing fails at once.
    fn refuses_fast_zero(&self) -> bool {
        !self.fast_zero && self.delays(Operation::Zero)
    }
}

/// Returns a random time from zero to `longest`.
fn random_up_to(longest: Duration) -> Duration {
    if longest.is_zero() {
        return Duration::ZERO;
    }
    // At most 10 minutes, which is far below 2^64 nanoseconds.
    let choices = longest.as_nanos() + 1;
    Duration::from_nanos(((u128::from(random_u64()) * choices) >> 64) as u64)
}

impl Backend for Delay {
    fn describe() -> Description {
        let description =
            Description::new("delay", env!("CARGO_PKG_VERSION"), "another disk, with delays")
                .parameter(Parameter::device("base", "the device beneath").writes().required());
        DELAYS
            .iter()
            .fold(description, |description, (name, summary, _)| {
                description.parameter(Parameter::duration(name, summary).default("0"))
            })
            .parameter(
                Parameter::boolean(
                    "delay-fast-zero",
                    "whether fast zeroing is delayed; otherwise it fails at once",
                )
                .default("true"),
            )
            .parameter(
                Parameter::duration(
                    "delay-jitter",
                    "the longest random time that is added to each delay that is given",
                )
                .default("0"),
            )
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        let jitter = request.duration("delay-jitter").unwrap_or(Duration::ZERO);
        let mut disk = Self {
            base,
            size: base.geometry().size,
            delays: [None; Operation::ALL.len()],
            jitter,
            fast_zero: request.boolean("delay-fast-zero").unwrap_or(true),
            request: request.clone(),
        };
        for argument in &request.arguments {
            if argument.name != "delay-jitter" {
                disk.set(argument)?;
            }
        }
        if !jitter.is_zero() && disk.delays.iter().all(Option::is_none) {
            return Err(Error::EINVAL
                .because("delay-jitter needs a delay that it adds to, such as rdelay=0"));
        }
        Ok(disk)
    }

    fn disk(&self) -> Disk {
        let mut disk = Disk::above(&self.base.geometry());
        if self.refuses_fast_zero() {
            disk.capabilities |= Capabilities::FAST_ZERO;
        }
        disk
    }
}

impl Filter for Delay {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        if request.fast && self.refuses_fast_zero() {
            return Err(Error::ENOTSUP);
        }
        let route = self.base.pass(request);
        Ok(match self.delays[request.operation as usize] {
            Some(delay) => route.delayed(delay + random_up_to(self.jitter)),
            None => route,
        })
    }

    fn stable(&mut self, operation: Operation, offset: u64) -> Option<StableRoute> {
        if self.delays(operation) {
            return None;
        }
        self.base.pass_until(offset, self.size)
    }
}

impl Control for Delay {
    fn commands(&self) -> Vec<Command> {
        vec![Command::set(Self::describe())]
    }

    fn execute(&mut self, _: &str, arguments: &[Argument]) -> Result<String, Error> {
        *self = Self::open(&self.request.changed(arguments))?;
        withdraw_routes();
        Ok(String::new())
    }
}

memnbd_guest::filter!(Delay);
memnbd_guest::control!(Delay);

#[cfg(test)]
mod tests {
    use memnbd_guest::testing;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn request() -> OpenRequest {
        let capabilities = Capabilities::WRITABLE | Capabilities::ZERO;
        OpenRequest::default().with("base", Value::Device(testing::device(1000, capabilities)))
    }

    /// Opens a disk with these delays.
    fn open(delays: &[(&str, Duration)]) -> Result<Delay, Error> {
        let request = delays
            .iter()
            .fold(request(), |request, (name, delay)| request.with(name, Value::Duration(*delay)));
        Delay::open(&request)
    }

    /// The delay of each operation in seconds. `None` is a stable route.
    fn seconds(disk: &mut Delay) -> [Option<u64>; 6] {
        Operation::ALL.map(|operation| match disk.stable(operation, 10) {
            Some(stable) => {
                assert_eq!(stable, StableRoute::new(disk.base.at(10), 990));
                None
            }
            None => {
                let route = disk.route(&Request::new(operation, 10, 20)).unwrap();
                assert_eq!(route.segments, Route::lower(disk.base.at(10), 20).segments);
                Some(route.delay.as_secs())
            }
        })
    }

    #[test]
    fn only_operations_with_a_delay_are_routed_one_by_one() {
        assert_eq!(seconds(&mut open(&[]).unwrap()), [None; 6]);
        assert_eq!(seconds(&mut open(&[("rdelay", Duration::ZERO)]).unwrap()), [None; 6]);
        let mut reads = open(&[("delay-read", 3 * SECOND)]).unwrap();
        assert_eq!(seconds(&mut reads), [Some(3), None, None, None, None, None]);
        let mut others =
            open(&[("delay-extents", 4 * SECOND), ("delay-cache", 5 * SECOND)]).unwrap();
        assert_eq!(seconds(&mut others), [None, None, None, None, Some(5), Some(4)]);
    }

    #[test]
    fn wdelay_sets_three_delays_and_the_last_argument_holds() {
        let (short, long) = (SECOND, 2 * SECOND);
        let mut disk = open(&[("wdelay", short), ("delay-zero", long)]).unwrap();
        assert_eq!(seconds(&mut disk), [None, Some(1), Some(2), Some(1), None, None]);
        let mut disk = open(&[("delay-zero", long), ("wdelay", short)]).unwrap();
        assert_eq!(seconds(&mut disk), [None, Some(1), Some(1), Some(1), None, None]);
    }

    #[test]
    fn delays_beyond_ten_minutes_are_refused() {
        assert!(open(&[("delay-trim", 600 * SECOND)]).is_ok());
        let error = open(&[("delay-trim", 601 * SECOND)]).unwrap_err();
        assert_eq!(error.message.unwrap(), "delay-trim must be at most 10 minutes");
        assert!(open(&[("rdelay", 300 * SECOND), ("delay-jitter", 300 * SECOND)]).is_ok());
        assert!(open(&[("rdelay", 300 * SECOND), ("delay-jitter", 301 * SECOND)]).is_err());
        assert!(open(&[("rdelay", Duration::MAX), ("delay-jitter", Duration::MAX)]).is_err());
    }

    #[test]
    fn jitter_is_added_to_the_delays_that_are_given() {
        let mut disk = open(&[("rdelay", Duration::ZERO), ("delay-jitter", SECOND)]).unwrap();
        assert!(disk.stable(Operation::Read, 0).is_none());
        assert!(disk.stable(Operation::Write, 0).is_some());
        let delays: Vec<Duration> = (0..1000)
            .map(|_| disk.route(&Request::new(Operation::Read, 0, 1)).unwrap().delay)
            .collect();
        assert!(delays.iter().all(|delay| *delay <= SECOND));
        let mean = delays.iter().sum::<Duration>() / 1000;
        assert!(mean.abs_diff(SECOND / 2) < SECOND / 10, "{mean:?}");
        assert!(open(&[("delay-jitter", SECOND)]).is_err());
    }

    #[test]
    fn fast_zeroing_fails_at_once_if_it_is_not_to_be_delayed() {
        let open = |delay: Duration, fast_zero| {
            let request = request()
                .with("delay-zero", Value::Duration(delay))
                .with("delay-fast-zero", Value::Boolean(fast_zero));
            Delay::open(&request).unwrap()
        };
        let zero = Request::new(Operation::Zero, 0, 10);
        let fast = Request { fast: true, ..zero };
        let mut delayed = open(SECOND, true);
        assert_eq!(delayed.route(&fast).unwrap().delay, SECOND);
        assert!(!delayed.disk().capabilities.contains(Capabilities::FAST_ZERO));
        let mut refused = open(SECOND, false);
        assert_eq!(refused.route(&fast), Err(Error::ENOTSUP));
        assert_eq!(refused.route(&zero).unwrap().delay, SECOND);
        assert!(refused.disk().capabilities.contains(Capabilities::FAST_ZERO));
        let mut undelayed = open(Duration::ZERO, false);
        assert!(undelayed.stable(Operation::Zero, 0).is_some());
        assert!(!undelayed.disk().capabilities.contains(Capabilities::FAST_ZERO));
    }
}
