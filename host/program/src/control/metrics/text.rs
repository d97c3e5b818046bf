//! The names of the metrics, and their descriptions.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};

use super::Name;
use super::process::Process;
use super::sums::Sums;
use crate::volume::Costs;

/// What is known at one moment.
#[derive(Debug)]
pub(super) struct Metrics {
    pub(super) disks: Vec<Disk>,
    /// All disks together that are not among these.
    pub(super) others: Option<Sums>,
    pub(super) server: Server,
    /// Those of tenants that have limits.
    pub(super) quotas: Vec<Quota>,
    pub(super) process: Process,
}

/// A quota of a tenant, in the unit in which it is written.
#[derive(Debug)]
pub(super) struct Quota {
    pub(super) tenant: String,
    pub(super) quota: &'static str,
    pub(super) used: f64,
    pub(super) most: f64,
    /// How long requests waited for it; `None` if they are refused instead.
    pub(super) held_back: Option<Duration>,
}

/// A disk.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) name: Name,
    pub(super) sums: Sums,
    pub(super) connections: usize,
    /// In bytes, if it is open.
    pub(super) size: Option<u64>,
    /// Unknown of disks that were made because a client asked for them.
    pub(super) costs: Option<Costs>,
}

/// All disks together.
#[derive(Debug)]
pub(super) struct Server {
    /// The number of disks in each state.
    pub(super) states: HashMap<&'static str, u64>,
    pub(super) snapshots: usize,
    pub(super) connections: usize,
    /// The memory that all disks take, and the most that they may take, in bytes.
    pub(super) memory: (u64, u64),
}

const BYTES: Option<&Unit> = Some(&Unit::Bytes);
const SECONDS: Option<&Unit> = Some(&Unit::Seconds);

type Labels<'a> = [(&'a str, &'a str)];

impl Metrics {
    /// Returns them as text.
    pub(super) fn encode(self) -> Option<String> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        // Writing to a string does not fail.
        prometheus_client::encoding::text::encode(&mut text, &registry).ok().map(|()| text)
    }

    /// Calls a function with the labels and the counters of each disk, and of those together that have no
    /// series of their own.
    fn each(
        &self,
        mut encode: impl FnMut(&mut Vec<(&str, &str)>, &Sums) -> fmt::Result,
    ) -> fmt::Result {
        let others = Name::of_others();
        let own = self.disks.iter().map(|disk| (&disk.name, &disk.sums));
        let all = own.chain(self.others.as_ref().map(|sums| (&others, sums)));
        let mut labels = Vec::new();
        for (name, sums) in all {
            labels.clear();
            labels.extend([("tenant", name.tenant.as_str()), ("disk", name.disk.as_str())]);
            encode(&mut labels, sums)?;
        }
        Ok(())
    }

    fn encode_requests(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut metric = counter(encoder, "memnbd_requests", "Requests that were answered", None)?;
        self.each(|labels, sums| {
            for (operation, of) in sums.operations() {
                labels.truncate(2);
                labels.push(("operation", operation.name()));
                count(&mut metric, labels, of.requests)?;
            }
            Ok(())
        })?;
        let help = "Bytes of requests that succeeded";
        let mut metric = counter(encoder, "memnbd_request", help, BYTES)?;
        self.each(|labels, sums| {
            for (operation, of) in sums.operations() {
                labels.truncate(2);
                labels.push(("operation", operation.name()));
                count(&mut metric, labels, of.bytes)?;
            }
            Ok(())
        })?;
        let help = "Time from the header of a request until its reply was sent";
        let name = "memnbd_request_duration";
        let mut metric = encoder.encode_descriptor(name, help, SECONDS, MetricType::Histogram)?;
        self.each(|labels, sums| {
            for (operation, of) in sums.operations() {
                labels.truncate(2);
                labels.push(("operation", operation.name()));
                let none = None::<&HashMap<usize, Exemplar<Vec<(&str, &str)>, f64>>>;
                let mut series = metric.encode_family(labels)?;
                let time = of.time.as_secs_f64();
                series.encode_histogram(time, of.requests, &of.buckets(), none)?;
            }
            Ok(())
        })
    }

    fn encode_failures(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Errors that clients got, by the code of NBD";
        let mut metric = counter(encoder, "memnbd_errors", help, None)?;
        self.each(|labels, sums| {
            for (code, errors) in sums.errors() {
                labels.truncate(2);
                labels.push(("code", code.name()));
                count(&mut metric, labels, errors)?;
            }
            Ok(())
        })?;
        let help = "Requests that were malformed, or against what was negotiated";
        let mut metric = counter(encoder, "memnbd_refused_requests", help, None)?;
        self.each(|labels, sums| count(&mut metric, labels, sums.refused))?;
        let help = "Traps, exceeded limits and breaches of the contract, which end an instance";
        let mut metric = counter(encoder, "memnbd_component_faults", help, None)?;
        self.each(|labels, sums| count(&mut metric, labels, sums.faults))?;
        let help = "Processor time of components, without short calls of built-in ones unless their tenant has a quota for it";
        let mut metric = counter(encoder, "memnbd_component_cpu", help, SECONDS)?;
        self.each(|labels, sums| count(&mut metric, labels, sums.guest.as_secs_f64()))?;
        let help = "Time for which requests were held back because they exceeded a limit";
        let mut metric = counter(encoder, "memnbd_throttled", help, SECONDS)?;
        self.each(|labels, sums| count(&mut metric, labels, sums.held_back.as_secs_f64()))
    }

    /// Encodes a gauge of all disks that have it.
    fn encode_of_disks(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        unit: Option<&'static Unit>,
        value: impl Fn(&Disk) -> Option<u64>,
    ) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for disk in &self.disks {
            let labels = [("tenant", disk.name.tenant.as_str()), ("disk", &disk.name.disk)];
            if let Some(value) = value(disk) {
                show(&mut metric, &labels, value as f64)?;
            }
        }
        Ok(())
    }

    fn encode_disks(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Clients that use a disk";
        let name = "memnbd_disk_connections";
        self.encode_of_disks(encoder, name, help, None, |disk| Some(disk.connections as u64))?;
        let help = "The size of a disk, while it is open";
        self.encode_of_disks(encoder, "memnbd_disk_size", help, BYTES, |disk| disk.size)?;
        let help = "Memory that a disk takes for what is stored on it, of a clone for what differs";
        self.encode_of_disks(encoder, "memnbd_disk_memory", help, BYTES, |disk| {
            disk.costs.map(|costs| costs.memory)
        })?;
        let help = "The most memory that a disk may take";
        self.encode_of_disks(encoder, "memnbd_disk_memory_limit", help, BYTES, |disk| {
            disk.costs.map(|costs| costs.limit)
        })
    }

    fn encode_server(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (gauge, info) = (MetricType::Gauge, MetricType::Info);
        let mut metric = encoder.encode_descriptor("memnbd_build", "The server", None, info)?;
        metric.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])?;
        let mut metric =
            encoder.encode_descriptor("memnbd_disks", "Disks by state", None, gauge)?;
        for state in ["closed", "opening", "live", "failed", "draining", "gone"] {
            let disks = self.server.states.get(state).copied().unwrap_or_default();
            show(&mut metric, &[("state", state)], disks as f64)?;
        }
        let (memory, limit) = self.server.memory;
        let gauges = [
            ("memnbd_snapshots", "Snapshots", None, self.server.snapshots as u64),
            ("memnbd_connections", "Clients that use disks", None, self.server.connections as u64),
            ("memnbd_memory", "Memory taken or reserved for all disks", BYTES, memory),
            ("memnbd_memory_limit", "The most memory that all disks may take", BYTES, limit),
        ];
        for (name, help, unit, value) in gauges {
            let gauge = MetricType::Gauge;
            let mut metric = encoder.encode_descriptor(name, help, unit, gauge)?;
            show(&mut metric, &[], value as f64)?;
        }
        Ok(())
    }

    fn encode_quotas(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let labels = |of: &Quota| [("tenant", of.tenant.clone()), ("quota", of.quota.to_owned())];
        let (name, help) = ("memnbd_tenant_used", "What a tenant has of a quota");
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for of in &self.quotas {
            metric.encode_family(&labels(of))?.encode_gauge(&of.used)?;
        }
        let (name, help) = ("memnbd_tenant_quota", "The most that a tenant may have");
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for of in &self.quotas {
            metric.encode_family(&labels(of))?.encode_gauge(&of.most)?;
        }
        let help = "Time for which connections of a tenant waited for a quota";
        let mut metric = counter(encoder, "memnbd_tenant_throttled", help, SECONDS)?;
        for of in &self.quotas {
            let Some(time) = of.held_back else { continue };
            let none = None::<&Exemplar<Vec<(&str, &str)>, u64>>;
            let labels = labels(of);
            let mut series = metric.encode_family(&labels)?;
            series.encode_counter(&time.as_secs_f64(), none)?;
        }
        Ok(())
    }

    fn encode_process(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Process { cpu, resident, virtual_memory, threads, open_files, max_files, started } =
            self.process;
        let help = "Processor time of the process";
        let mut metric = counter(encoder, "process_cpu", help, SECONDS)?;
        count(&mut metric, &[], cpu.as_secs_f64())?;
        let gauges = [
            ("process_resident_memory", "Memory in use", BYTES, resident as f64),
            ("process_virtual_memory", "Address space in use", BYTES, virtual_memory as f64),
            ("process_threads", "Threads", None, threads as f64),
            ("process_open_fds", "Open file descriptors", None, open_files as f64),
            ("process_max_fds", "The most open file descriptors", None, max_files as f64),
            ("process_start_time", "When the process was started, since 1970", SECONDS, started),
        ];
        for (name, help, unit, value) in gauges {
            let gauge = MetricType::Gauge;
            let mut metric = encoder.encode_descriptor(name, help, unit, gauge)?;
            show(&mut metric, &[], value)?;
        }
        Ok(())
    }
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_requests(&mut encoder)?;
        self.encode_failures(&mut encoder)?;
        self.encode_disks(&mut encoder)?;
        self.encode_server(&mut encoder)?;
        self.encode_quotas(&mut encoder)?;
        self.encode_process(&mut encoder)
    }
}

/// Begins a counter; its name gets the unit and `_total`.
fn counter<'s>(
    encoder: &'s mut DescriptorEncoder<'_>,
    name: &'s str,
    help: &str,
    unit: Option<&'static Unit>,
) -> Result<MetricEncoder<'s>, fmt::Error> {
    encoder.encode_descriptor(name, help, unit, MetricType::Counter)
}

fn count(
    metric: &mut MetricEncoder<'_>,
    labels: &Labels<'_>,
    value: impl EncodeCounterValue,
) -> fmt::Result {
    let none = None::<&Exemplar<Vec<(&str, &str)>, u64>>;
    with(metric, labels, |series| series.encode_counter(&value, none))
}

fn show(
    metric: &mut MetricEncoder<'_>,
    labels: &Labels<'_>,
    value: impl EncodeGaugeValue,
) -> fmt::Result {
    with(metric, labels, |series| series.encode_gauge(&value))
}

/// Encodes a series. One without labels is no member of a family.
fn with(
    metric: &mut MetricEncoder<'_>,
    labels: &Labels<'_>,
    encode: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
) -> fmt::Result {
    match labels.is_empty() {
        true => encode(metric),
        false => encode(&mut metric.encode_family(&labels)?),
    }
}
