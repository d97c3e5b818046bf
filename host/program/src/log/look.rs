//! The format of log lines.
//!
//! Lines are formatted by tracing-subscriber, but for JSON: its own format of that has no room for the name
//! that `--name` gives the server.

use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Dispatch, Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{Format, Full, Writer, debug_fn};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;

use crate::events::{Hubs, disk_of};

/// The level of the log and the format of its lines.
#[derive(Clone)]
pub(super) struct Look {
    pub(super) level: Level,
    pub(super) json: bool,
    pub(super) name: Option<String>,
    /// True while lines begin with a timestamp; syslog adds its own.
    pub(super) timed: Arc<AtomicBool>,
    pub(super) colored: bool,
    /// Whose events there are, by which tenants are known.
    pub(super) hubs: Hubs,
}

impl Look {
    /// Returns a subscriber that formats events as lines and writes them to `writer`.
    pub(super) fn subscriber<W>(
        &self,
        writer: W,
    ) -> impl Subscriber + for<'a> LookupSpan<'a> + Send + Sync + use<W>
    where
        W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
    {
        let targets = Targets::new()
            // What begins with this: the library and the program.
            .with_target("memnbd", self.level)
            .with_target("component", self.level);
        let format = Lines {
            text: Format::default().with_target(false).with_timer(Clock(self.timed.clone())),
            json: self.json,
            name: self.name.clone(),
            hubs: self.hubs.clone(),
        };
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(writer)
            .with_ansi(self.colored)
            .log_internal_errors(false)
            // In text, the message says all of it.
            .fmt_fields(debug_fn(|writer, field, value| match field.name() {
                "message" => write!(writer, "{value:?}"),
                _ => Ok(()),
            }))
            .event_format(format);
        tracing_subscriber::registry().with(lines).with(targets)
    }

    /// Returns the lines that a function logs.
    pub(super) fn format(&self, log: &dyn Fn()) -> Vec<u8> {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let collected = lines.clone();
        let dispatch = Dispatch::new(self.subscriber(move || Collector(collected.clone())));
        tracing::dispatcher::with_default(&dispatch, log);
        std::mem::take(&mut *lines.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A writer that collects lines in memory.
struct Collector(Arc<Mutex<Vec<u8>>>);

impl Write for Collector {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes the timestamp if it is enabled.
struct Clock(Arc<AtomicBool>);

impl FormatTime for Clock {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        match self.0.load(Ordering::Relaxed) {
            true => SystemTime.format_time(writer),
            false => Ok(()),
        }
    }
}

/// Formats events as lines.
struct Lines {
    text: Format<Full, Clock>,
    json: bool,
    name: Option<String>,
    hubs: Hubs,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if !self.json {
            if let Some(name) = &self.name {
                write!(writer, "{name}: ")?;
            }
            return self.text.format_event(context, writer, event);
        }
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let mut object = Map::new();
        object.insert("time".into(), time.into());
        object.insert("level".into(), event.metadata().level().as_str().into());
        if let Some(name) = &self.name {
            object.insert("name".into(), name.as_str().into());
        }
        event.record(&mut Fields(&mut object));
        let message = object.get("message").and_then(Value::as_str).unwrap_or_default();
        if let Some(name) = disk_of(message) {
            let (tenant, disk) = self.hubs.owner_of(&name);
            object.insert("tenant".into(), tenant.into());
            object.insert("disk".into(), disk.into());
        }
        writeln!(writer, "{}", Value::Object(object))
    }
}

/// Inserts the fields of an event into a JSON object.
struct Fields<'a>(&'a mut Map<String, Value>);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().into(), format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().into(), value.into());
    }
}
