//! Rates: the difference between two samples of what was asked of the disks.

use std::collections::HashMap;
use std::time::Instant;

use serde_json::{Value, json};

use crate::table::Table;
use crate::{items, text};

/// What was asked of the disks until a time.
pub(super) struct Sample {
    at: Instant,
    /// The number of disks, with those that nobody used.
    total: u64,
    disks: HashMap<(u64, String), Counters>,
}

/// What was asked of a disk since it was created.
#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    connections: u64,
    requests: u64,
    errors: u64,
    read: u64,
    written: u64,
    nanos: u64,
}

/// What was asked of the disks in a second of the time between two samples, the busiest disk first.
pub(super) struct Rates {
    seconds: f64,
    total: u64,
    disks: Vec<Rate>,
}

#[derive(Debug)]
struct Rate {
    disk: String,
    connections: u64,
    requests: f64,
    errors: f64,
    read: f64,
    written: f64,
    /// The mean time that a request took, in seconds.
    latency: Option<f64>,
}

impl Sample {
    /// Returns the sample that the server answered.
    pub(super) fn of(usage: &Value) -> Self {
        let disks = items(&usage["disks"]).map(|disk| {
            let of = |key: &str| disk[key].as_u64().unwrap_or(0);
            let counters = Counters {
                connections: of("connections"),
                requests: of("requests"),
                errors: of("errors"),
                read: of("read_bytes"),
                written: of("written_bytes"),
                nanos: of("latency_sum_ns"),
            };
            ((of("id"), text(&disk["disk"])), counters)
        });
        let total = usage["total"].as_u64().unwrap_or(0);
        Self { at: Instant::now(), total, disks: disks.collect() }
    }
}

impl Rates {
    pub(super) fn between(before: &Sample, now: &Sample) -> Self {
        let seconds = now.at.saturating_duration_since(before.at).as_secs_f64();
        let rate = |(key, now): (&(u64, String), &Counters)| {
            // A disk that was not there began with nothing.
            let before = before.disks.get(key).copied().unwrap_or_default();
            let requests = now.requests.saturating_sub(before.requests);
            let nanos = now.nanos.saturating_sub(before.nanos);
            let per_second = |now: u64, before: u64| {
                let more = now.saturating_sub(before) as f64;
                if seconds > 0.0 { more / seconds } else { 0.0 }
            };
            Rate {
                disk: key.1.clone(),
                connections: now.connections,
                requests: per_second(now.requests, before.requests),
                errors: per_second(now.errors, before.errors),
                read: per_second(now.read, before.read),
                written: per_second(now.written, before.written),
                latency: (requests > 0).then(|| nanos as f64 / requests as f64 / 1e9),
            }
        };
        let mut disks: Vec<Rate> = now.disks.iter().map(rate).collect();
        disks.sort_by(|a, b| {
            let by_load = b.requests.total_cmp(&a.requests);
            by_load.then(b.connections.cmp(&a.connections)).then_with(|| a.disk.cmp(&b.disk))
        });
        Self { seconds, total: now.total, disks }
    }

    /// Returns a table, of so many lines at most.
    pub(super) fn text(&self, lines: Option<usize>) -> String {
        let head = ["DISK", "REQUESTS/S", "READ MB/S", "WRITE MB/S", "ERRORS/S", "MEAN", "CLIENTS"];
        let mut table = Table::new(&head);
        let rows = lines.map_or(usize::MAX, |lines| lines.saturating_sub(2));
        for rate in self.disks.iter().take(rows) {
            table.row([
                rate.disk.clone(),
                format!("{:.0}", rate.requests),
                format!("{:.1}", rate.read / 1e6),
                format!("{:.1}", rate.written / 1e6),
                format!("{:.0}", rate.errors),
                rate.latency.map_or_else(|| "-".into(), time),
                rate.connections.to_string(),
            ]);
        }
        let (used, total) = (self.disks.len(), self.total);
        let more = match used.saturating_sub(rows) {
            0 => String::new(),
            more => format!("; {more} of them not shown, as they are less busy"),
        };
        format!("{total} disks, {used} of them used{more}\n{table}")
    }

    /// Returns all of it as one object.
    pub(super) fn json(&self) -> Value {
        let disks: Vec<Value> = self.disks.iter().map(Rate::json).collect();
        json!({ "seconds": self.seconds, "total": self.total, "disks": disks })
    }
}

impl Rate {
    fn json(&self) -> Value {
        json!({
            "disk": self.disk,
            "connections": self.connections,
            "requests_per_second": self.requests,
            "errors_per_second": self.errors,
            "read_bytes_per_second": self.read,
            "written_bytes_per_second": self.written,
            "latency_mean_us": self.latency.map(|seconds| seconds * 1e6),
        })
    }
}

/// Returns a time for people.
fn time(seconds: f64) -> String {
    match seconds {
        ..0.001 => format!("{:.0} us", seconds * 1e6),
        ..1.0 => format!("{:.1} ms", seconds * 1e3),
        _ => format!("{seconds:.1} s"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn disk(name: &str, id: u64, requests: u64) -> Value {
        json!({"disk": name, "id": id, "connections": 1, "requests": requests, "errors": requests / 2,
            "read_bytes": requests * 1_000_000, "written_bytes": 0, "latency_sum_ns": requests * 20_000})
    }

    fn rates(before: &[Value], now: &[Value]) -> Rates {
        let sample = |disks: &[Value]| Sample::of(&json!({"total": 9, "disks": disks}));
        let (before, mut now) = (sample(before), sample(now));
        now.at = before.at + Duration::from_secs(2);
        Rates::between(&before, &now)
    }

    #[test]
    fn busiest_disk_is_first() {
        let before = [disk("a", 1, 100), disk("b", 2, 100), disk("c", 3, 5)];
        let now = [disk("a", 1, 104), disk("b", 2, 120), disk("c", 4, 2), disk("d", 5, 0)];
        assert_eq!(
            rates(&before, &now).text(None),
            "9 disks, 4 of them used\n\
             DISK  REQUESTS/S  READ MB/S  WRITE MB/S  ERRORS/S  MEAN   CLIENTS\n\
             b     10          10.0       0.0         5         20 us  1\n\
             a     2           2.0        0.0         1         20 us  1\n\
             c     1           1.0        0.0         0         20 us  1\n\
             d     0           0.0        0.0         0         -      1\n"
        );
        let json = rates(&before, &now).json();
        assert_eq!((&json["seconds"], &json["total"]), (&json!(2.0), &json!(9)));
        assert_eq!(json["disks"][0]["requests_per_second"], 10.0);
        assert_eq!(json["disks"][0]["latency_mean_us"], 20.0);
        assert_eq!(json["disks"][3]["latency_mean_us"], Value::Null);
    }

    #[test]
    fn no_more_lines_are_shown_than_fit() {
        let disks: Vec<Value> = (0..10_000).map(|id| disk(&id.to_string(), id, id)).collect();
        let text = rates(&[], &disks).text(Some(20));
        assert_eq!(text.lines().count(), 20);
        assert!(text.starts_with("9 disks, 10000 of them used; 9982 of them not shown"), "{text}");
        assert!(text.lines().nth(2).unwrap().starts_with("9999 "), "{text}");
        for lines in [0, 1, 2] {
            assert_eq!(rates(&[], &disks).text(Some(lines)).lines().count(), 2);
        }
    }

    #[test]
    fn times_have_units_of_their_size() {
        let times = [0.000_012, 0.000_999, 0.001_5, 2.25].map(time);
        assert_eq!(times, ["12 us", "999 us", "1.5 ms", "2.2 s"]);
    }
}
