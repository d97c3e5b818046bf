//! The time that is added to a delay.

use alloc::format;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use memnbd_faults::Random;
use memnbd_guest::{Error, Lower, MAX_DELAY, OpenRequest};

/// The longest trace, in bytes.
const MAX_TEXT: u64 = 8 << 20;

/// The most times of a trace.
const MAX_TIMES: usize = 1 << 20;

/// The names of the distributions.
pub(crate) const NAMES: &[&str] = &["constant", "uniform", "normal", "pareto"];

/// How delays are distributed.
#[derive(Clone, Debug)]
pub(crate) enum Distribution {
    /// The delay itself.
    Constant,
    /// From the delay to the delay and the jitter.
    Uniform,
    /// With the delay as the mean and the jitter as the standard deviation, but not negative.
    Normal,
    /// From the delay on, with the jitter as the mean of what is added, and this shape.
    Pareto(u32),
    /// The delay and the times of a trace, one after the other.
    Trace(Rc<[Duration]>, usize),
}

impl Distribution {
    /// Returns the distribution that a request to open a disk asks for.
    pub(crate) fn open(request: &OpenRequest) -> Result<Self, Error> {
        let shape = request.number("delay-shape");
        let name = request.text("delay-distribution");
        if let Some(file) = request.device("delay-trace") {
            if name.is_some() || request.duration("delay-jitter").is_some() {
                return Err(Error::EINVAL.because(
                    "delay-trace has all times; delay-distribution and delay-jitter do not go with it",
                ));
            }
            return Ok(Self::Trace(read_trace(file)?.into(), 0));
        }
        if shape.is_some() && name != Some("pareto") {
            return Err(Error::EINVAL.because("delay-shape is for delay-distribution=pareto"));
        }
        Ok(match name {
            Some("constant") => Self::Constant,
            Some("normal") => Self::Normal,
            Some("pareto") => Self::Pareto(shape.unwrap_or(3) as u32),
            _ => Self::Uniform,
        })
    }

    /// Returns true if delays are longer than what is given, or shorter.
    pub(crate) fn varies(&self, jitter: Duration) -> bool {
        match self {
            Self::Constant => false,
            Self::Uniform | Self::Normal | Self::Pareto(_) => !jitter.is_zero(),
            Self::Trace(..) => true,
        }
    }

    /// Returns the delay of the next request.
    pub(crate) fn next(
        &mut self,
        delay: Duration,
        jitter: Duration,
        random: &mut Random,
    ) -> Duration {
        let jittered = match self {
            _ if jitter.is_zero() && !matches!(self, Self::Trace(..)) => delay,
            Self::Constant => delay,
            // At most 10 minutes, which is far below 2^64 nanoseconds.
            Self::Uniform => {
                delay + Duration::from_nanos(random.below(jitter.as_nanos() as u64 + 1))
            }
            Self::Normal => {
                // The sum of twelve of them has the mean 6 and the standard deviation 1.
                let sum: f64 = (0..12).map(|_| random.unit()).sum();
                let seconds = delay.as_secs_f64() + (sum - 6.0) * jitter.as_secs_f64();
                Duration::from_secs_f64(seconds.max(0.0))
            }
            Self::Pareto(shape) => {
                // The largest of n numbers is distributed as the nth root of one.
                let largest = (0..*shape).map(|_| random.unit()).fold(1e-9, f64::max);
                let added = (1.0 / largest - 1.0) * f64::from(*shape - 1) * jitter.as_secs_f64();
                delay + Duration::from_secs_f64(added.min(MAX_DELAY.as_secs_f64()))
            }
            Self::Trace(times, next) => {
                let time = times[*next];
                *next = (*next + 1) % times.len();
                delay + time
            }
        };
        jittered.min(MAX_DELAY)
    }
}

/// Reads the times of a trace, of which each line has one.
fn read_trace(file: Lower) -> Result<Vec<Duration>, Error> {
    let length = file.geometry().size;
    if length > MAX_TEXT {
        return Err(Error::EINVAL
            .because(format!("the trace has {length} bytes; it may have at most {MAX_TEXT}")));
    }
    let mut text = vec![0; length as usize];
    if length > 0 {
        file.read(0, &mut text)?;
    }
    parse_trace(&text)
}

fn parse_trace(text: &[u8]) -> Result<Vec<Duration>, Error> {
    let mut times = Vec::new();
    for (line, number) in text.split(|byte| *byte == b'\n').zip(1_u64..) {
        let line = core::str::from_utf8(line).map_or("not UTF-8", str::trim);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let time = parse_time(line).filter(|time| *time <= MAX_DELAY).ok_or_else(|| {
            Error::EINVAL.because(format!(
                "line {number} of the trace must be a time up to 10 minutes in seconds, or with one of \
                 the units s, ms, us and ns, such as 1.5ms"
            ))
        })?;
        if times.len() == MAX_TIMES {
            return Err(Error::EINVAL
                .because(format!("the trace has more than {MAX_TIMES} times, which is the most")));
        }
        times.try_reserve(1).map_err(|_| Error::ENOMEM)?;
        times.push(time);
    }
    if times.is_empty() {
        return Err(Error::EINVAL.because("the trace has no times; each line must be one"));
    }
    Ok(times)
}

/// Parses a decimal number with an optional unit.
fn parse_time(text: &str) -> Option<Duration> {
    let end = text.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = match unit {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "us" => 1e-6,
        "ns" => 1e-9,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * unit).ok()
}

#[cfg(test)]
mod tests {
    use memnbd_guest::{Capabilities, testing};

    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    /// The mean of many delays of 10 ms with a jitter of 2 ms, the shortest, and the longest.
    fn delays(mut distribution: Distribution) -> [f64; 3] {
        let mut random = Random::new(Some(1));
        let delays: Vec<f64> = (0..20_000)
            .map(|_| distribution.next(10 * MILLISECOND, 2 * MILLISECOND, &mut random))
            .map(|delay| delay.as_secs_f64() * 1e3)
            .collect();
        let mean = delays.iter().sum::<f64>() / delays.len() as f64;
        let shortest = delays.iter().copied().fold(f64::MAX, f64::min);
        [mean, shortest, delays.iter().copied().fold(0.0, f64::max)]
    }

    fn assert_close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 0.1, "{found} instead of {expected}");
    }

    #[test]
    fn distributions_have_their_means_and_ends() {
        assert_eq!(delays(Distribution::Constant), [10.0; 3].map(|delay| delay));
        let [mean, shortest, longest] = delays(Distribution::Uniform);
        assert_close(mean, 11.0);
        assert_close(shortest, 10.0);
        assert_close(longest, 12.0);
        let [mean, shortest, longest] = delays(Distribution::Normal);
        assert_close(mean, 10.0);
        assert!((0.0..4.0).contains(&shortest) && (16.0..22.0).contains(&longest));
        let [mean, shortest, longest] = delays(Distribution::Pareto(3));
        assert_close(mean, 12.0);
        assert_close(shortest, 10.0);
        assert!(longest > 40.0, "{longest}");
    }

    #[test]
    fn delays_are_neither_negative_nor_too_long() {
        let mut random = Random::new(Some(1));
        for mut distribution in [Distribution::Normal, Distribution::Pareto(2)] {
            for _ in 0..10_000 {
                let delay = distribution.next(Duration::ZERO, MAX_DELAY, &mut random);
                assert!(delay <= MAX_DELAY);
            }
        }
    }

    #[test]
    fn trace_is_repeated() {
        let times = [1, 5, 3].map(|time| time * MILLISECOND);
        let mut trace = Distribution::Trace(Rc::from(times), 0);
        let mut random = Random::new(None);
        let delays: Vec<u128> = (0..7)
            .map(|_| trace.next(10 * MILLISECOND, Duration::ZERO, &mut random).as_millis())
            .collect();
        assert_eq!(delays, [11, 15, 13, 11, 15, 13, 11]);
    }

    #[test]
    fn lines_of_a_trace_are_times() {
        let times = parse_trace(b"# latencies\n0.25\n1.5ms\n\n 20us \n7ns\r\n2s\n600").unwrap();
        let nanoseconds: Vec<u128> = times.iter().map(Duration::as_nanos).collect();
        assert_eq!(
            nanoseconds,
            [250_000_000, 1_500_000, 20_000, 7, 2_000_000_000, 600_000_000_000]
        );
        for line in ["x", "1m", "-1", "1e3", ".", "1..2", "601", "1 2", "99999999999999999999999"] {
            let message = parse_trace(format!("1\n{line}\n").as_bytes()).unwrap_err().message;
            assert!(message.unwrap().starts_with("line 2 of the trace must be a time"), "{line}");
        }
        assert!(parse_trace(b"\n# none\n").unwrap_err().message.unwrap().contains("no times"));
        assert_eq!(parse_trace("1\n".repeat(MAX_TIMES).as_bytes()).unwrap().len(), MAX_TIMES);
        assert!(parse_trace("1\n".repeat(MAX_TIMES + 1).as_bytes()).is_err());
        let long = testing::device(MAX_TEXT + 1, Capabilities::NONE);
        assert!(read_trace(long).unwrap_err().message.unwrap().ends_with("at most 8388608"));
    }
}
