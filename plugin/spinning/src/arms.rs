//! The arms of a disk, and how long their heads take.

use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use memnbd_guest::{Error, MAX_DELAY, OpenRequest};

/// The length of a track: a shorter seek takes no time.
const TRACK: u64 = 128 << 10;

/// An arm.
#[derive(Clone, Copy, Debug, Default)]
struct Arm {
    /// Where its head is, in the head's part of the disk.
    position: u64,
    /// The offset on the disk after the last access.
    end: u64,
    /// When it has done what was asked of it.
    idle_at: Duration,
}

/// All arms of a disk.
#[derive(Clone, Debug)]
pub(crate) struct Arms {
    /// One for each head, or one for all.
    arms: Vec<Arm>,
    /// The length of a head's part of the disk; the last one may be longer.
    part: u64,
    heads: u64,
    /// The coefficients of the parabola of seek times, in seconds by the share of a head's part.
    curve: [f64; 3],
    /// The time of a turn.
    turn: Duration,
    /// Bytes in a second; 0 for any number.
    rate: u64,
}

impl Arms {
    /// Returns the arms of a disk of `size` bytes that a request to open it asks for.
    pub(crate) fn open(request: &OpenRequest, size: u64) -> Result<Self, Error> {
        let milliseconds = |name: &str, default: u64| {
            let time = request.duration(name).unwrap_or(Duration::from_millis(default));
            if time > MAX_DELAY {
                return Err(Error::EINVAL.because("seek times must be at most 10 minutes"));
            }
            Ok(time.as_secs_f64())
        };
        let minimum = milliseconds("min-seek-time", 10)?;
        let half = milliseconds("half-seek-time", 200)?;
        let maximum = milliseconds("max-seek-time", 500)?;
        // The parabola through the times of the shares 0, 1/2 and 1.
        let square = 2.0 * (maximum - 2.0 * half + minimum);
        let curve = [square, maximum - minimum - square, minimum];
        // A small disk may have no room for all heads.
        let heads = request.number("heads").unwrap_or(1).clamp(1, 64) as u64;
        let heads = heads.min(size).max(1);
        let separate = request.boolean("separate-heads").unwrap_or(false);
        let rpm = request.number("spinning-rpm").unwrap_or(0) as u64;
        Ok(Self {
            arms: vec![Arm::default(); if separate { heads as usize } else { 1 }],
            part: (size / heads).max(1),
            heads,
            curve,
            turn: Duration::from_nanos(60_000_000_000_u64.checked_div(rpm).unwrap_or(0)),
            rate: request.size("spinning-rate").unwrap_or(0),
        })
    }

    /// Returns how long an access takes that arrives now: the time until the arm is idle, the seek, the
    /// turn, and the transfer.
    pub(crate) fn access(&mut self, offset: u64, length: u64, now: Duration) -> Duration {
        let head = (offset / self.part).min(self.heads - 1);
        let position = offset - head * self.part;
        let index = (head as usize).min(self.arms.len() - 1);
        let arm = self.arms[index];
        let mut at = arm.idle_at.max(now) + self.seek(arm.position.abs_diff(position));
        if arm.end != offset {
            at += self.turn_to(position, at);
        }
        if let Some(nanoseconds) =
            (u128::from(length) * 1_000_000_000).checked_div(self.rate.into())
        {
            at += Duration::from_nanos(nanoseconds.min(MAX_DELAY.as_nanos()) as u64);
        }
        let at = at.min(now + MAX_DELAY);
        // The head stays at the first byte, as in nbdkit, for a request is seldom longer than a track.
        self.arms[index] = Arm { position, end: offset + length, idle_at: at };
        at - now
    }

    fn seek(&self, distance: u64) -> Duration {
        if distance <= TRACK {
            return Duration::ZERO;
        }
        let share = distance as f64 / self.part as f64;
        let [square, linear, constant] = self.curve;
        let seconds = (square * share + linear) * share + constant;
        Duration::from_secs_f64(seconds.clamp(0.0, MAX_DELAY.as_secs_f64()))
    }

    /// Returns the time until a byte is under the head.
    fn turn_to(&self, position: u64, at: Duration) -> Duration {
        let Some(passed) = at.as_nanos().checked_rem(self.turn.as_nanos()) else {
            return Duration::ZERO;
        };
        let turn = self.turn.as_nanos();
        let angle = u128::from(position % TRACK) * turn / u128::from(TRACK);
        Duration::from_nanos(((angle + turn - passed) % turn) as u64)
    }
}

#[cfg(test)]
mod tests {
    use memnbd_guest::Value;

    use super::*;

    const GIB: u64 = 1 << 30;

    fn open(arguments: &[(&str, Value)], size: u64) -> Arms {
        let request = arguments.iter().fold(OpenRequest::default(), |request, (name, value)| {
            request.with(name, value.clone())
        });
        Arms::open(&request, size).unwrap()
    }

    /// The times of accesses of one byte that come one after the other, in milliseconds.
    fn times<const N: usize>(arms: &mut Arms, offsets: [u64; N]) -> [u128; N] {
        let mut now = Duration::from_secs(1);
        offsets.map(|offset| {
            let time = arms.access(offset, 1, now);
            now += time;
            time.as_millis()
        })
    }

    #[test]
    fn seeks_take_the_times_of_nbdkit() {
        let mut arms = open(&[], GIB);
        let offsets = [0, TRACK, GIB / 2, GIB / 2 + TRACK, 0, GIB - 1, GIB - 1 - (TRACK + 1)];
        assert_eq!(times(&mut arms, offsets), [0, 0, 199, 0, 200, 499, 10]);
        let time = |milliseconds| Value::Duration(Duration::from_millis(milliseconds));
        let linear = [("half-seek-time", time(500)), ("max-seek-time", time(1000))];
        let mut arms = open(&linear, 4 * GIB);
        assert_eq!(times(&mut arms, [GIB, 3 * GIB]), [253, 500]);
    }

    #[test]
    fn heads_on_one_arm_move_together() {
        let mut arms = open(&[("heads", Value::Number(4))], 4 * GIB);
        // The same place in the parts of other heads is no seek.
        let offsets = [GIB / 2, GIB + GIB / 2, 3 * GIB + GIB / 2, 2 * GIB];
        assert_eq!(times(&mut arms, offsets), [200, 0, 0, 200]);
    }

    #[test]
    fn separate_heads_move_at_the_same_time() {
        let separate = ("separate-heads", Value::Boolean(true));
        let mut arms = open(&[("heads", Value::Number(2)), separate], 2 * GIB);
        let now = Duration::from_secs(1);
        let mut access = |offset| arms.access(offset, 1, now).as_millis();
        assert_eq!([access(GIB / 2), access(GIB + GIB / 2), access(0)], [200, 200, 400]);
    }

    #[test]
    fn bytes_come_under_the_head_and_are_transferred() {
        // A turn takes 8 ms.
        let rpm = ("spinning-rpm", Value::Number(7500));
        let mut arms = open(&[rpm], GIB);
        let mut access =
            |offset, now| arms.access(offset, 512, Duration::from_millis(now)).as_micros();
        assert_eq!(access(TRACK / 2, 0), 4000);
        assert_eq!(access(TRACK / 2 + 512, 100), 0, "it continues the one before");
        assert_eq!(access(TRACK / 4, 161), 1000);
        assert_eq!(access(TRACK / 4, 163), 7000);
        let mut slow = open(&[("spinning-rate", Value::Size(1000))], GIB);
        assert_eq!(slow.access(0, 500, Duration::ZERO), Duration::from_millis(500));
        assert_eq!(slow.access(500, 500, Duration::ZERO), Duration::from_secs(1));
        assert_eq!(slow.access(1000, 1 << 29, Duration::ZERO), MAX_DELAY);
    }

    #[test]
    fn disks_may_be_smaller_than_there_are_heads() {
        for size in [0, 1, 3] {
            let heads = ("heads", Value::Number(64));
            let mut arms = open(&[heads, ("separate-heads", Value::Boolean(true))], size);
            assert_eq!(arms.access(size.saturating_sub(1), 1, Duration::ZERO), Duration::ZERO);
        }
    }
}
