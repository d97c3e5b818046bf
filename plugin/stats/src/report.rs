//! The report, as a text.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write};
use core::time::Duration;

use crate::tally::{Kind, Size, Tallies, Tally};

/// Returns the report of what happened within a time.
pub(crate) fn of(tallies: &Tallies, elapsed: Duration, threshold: u8) -> String {
    let kinds = Kind::ALL.map(|(kind, name)| (kind, name, tallies.get(kind)));
    let sum = |of: fn(&Tally) -> u64, but: &[Kind]| {
        let counted = kinds.iter().filter(|(kind, ..)| !but.contains(kind));
        counted.fold(0, |sum: u64, (.., tally)| sum.saturating_add(of(tally)))
    };
    // As in nbdkit's report.
    let count = sum(|tally| tally.count, &[Kind::Cache]);
    let bytes = sum(|tally| tally.bytes, &[Kind::Extents, Kind::Cache, Kind::Flush]);
    let mut text = format!(
        "total: {count} ops, {:.6} s, {}, {}/s\n",
        elapsed.as_secs_f64(),
        Bytes(bytes),
        Rate(bytes, elapsed)
    );
    for (_, name, tally) in kinds {
        if tally.count > 0 || tally.failed > 0 {
            // Writing to a string does not fail.
            let _ = add(&mut text, name, tally, elapsed, threshold);
        }
    }
    text
}

fn add(
    text: &mut String,
    name: &str,
    tally: &Tally,
    elapsed: Duration,
    threshold: u8,
) -> fmt::Result {
    let Tally { count, bytes, failed, time, latency, sizes } = tally;
    writeln!(
        text,
        "{name}: {count} ops, {:.6} s, {}, {}/s op, {}/s total",
        time.as_secs_f64(),
        Bytes(*bytes),
        Rate(*bytes, *time),
        Rate(*bytes, elapsed)
    )?;
    if *failed > 0 {
        writeln!(text, "  Failed: {failed} ops")?;
    }
    if *count > 0 {
        writeln!(
            text,
            "  Latency: 50% {}, 90% {}, 99% {}, 99.9% {}, longest {}",
            Time(latency.quantile(500)),
            Time(latency.quantile(900)),
            Time(latency.quantile(990)),
            Time(latency.quantile(999)),
            Time(latency.longest)
        )?;
    }
    if threshold == 0 || sizes.is_empty() {
        return Ok(());
    }
    writeln!(text, "  Request size and alignment breakdown:")?;
    let mut sizes: Vec<(u32, &Size)> = sizes.iter().map(|(bits, size)| (*bits, size)).collect();
    sizes.sort_by_key(|(_, size)| core::cmp::Reverse(size.count));
    let wanted = (u128::from(*count) * u128::from(threshold)).div_ceil(100);
    let (mut listed, mut listed_bytes) = (0, 0_u64);
    for (bits, size) in sizes {
        if u128::from(listed) >= wanted {
            let rest = count - listed;
            writeln!(
                text,
                "    other sizes: {:4.1}% ({rest} reqs, {} total)",
                percent(rest, *count),
                Bytes(bytes.saturating_sub(listed_bytes))
            )?;
            break;
        }
        writeln!(
            text,
            "    {bits:2} bits: {:4.1}% ({} reqs, {} total)",
            percent(size.count, *count),
            size.count,
            Bytes(size.bytes)
        )?;
        listed += size.count;
        listed_bytes = listed_bytes.saturating_add(size.bytes);
        add_alignments(text, size, threshold)?;
    }
    text.write_char('\n')
}

fn add_alignments(text: &mut String, size: &Size, threshold: u8) -> fmt::Result {
    let cutoff = u128::from(size.count) * u128::from(100 - threshold) / 100;
    // An offset is a multiple of all lower powers of two as well.
    let mut requests = size.at_zero;
    let mut alignments: Vec<(u32, u64)> = Vec::new();
    for (bits, count) in size.alignments.iter().rev() {
        requests += count;
        alignments.push((*bits, requests));
    }
    for (bits, requests) in alignments.into_iter().rev() {
        let percent = percent(requests, size.count);
        if u128::from(requests) < cutoff {
            return writeln!(text, "         {bits:2}+ bit-aligned: {percent:4.1}% ({requests})");
        }
        writeln!(text, "         {bits:2} bit aligned: {percent:5.1}% ({requests})")?;
    }
    Ok(())
}

fn percent(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / whole as f64
}

/// A number of bytes for people.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match UNITS.iter().find(|(unit, _)| self.0 >= *unit) {
            Some((unit, name)) => write!(f, "{:.2} {name}", self.0 as f64 / *unit as f64),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

/// A number of bytes in a time.
struct Rate(u64, Duration);

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1.is_zero() {
            true => f.write_str("(n/a)"),
            false => Bytes((self.0 as f64 / self.1.as_secs_f64()) as u64).fmt(f),
        }
    }
}

/// A time in nanoseconds for people.
struct Time(u64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 3] = [(1_000_000_000, "s"), (1_000_000, "ms"), (1000, "us")];
        match UNITS.iter().find(|(unit, _)| self.0 >= *unit) {
            Some((unit, name)) => write!(f, "{:.1} {name}", self.0 as f64 / *unit as f64),
            None => write!(f, "{} ns", self.0),
        }
    }
}
