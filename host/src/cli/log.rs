//! Where the log goes and how its lines look. What is logged, and when, is for others to say.

use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use serde_json::{Map, Value};
use syslog::{Facility, Formatter3164};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use super::args::{LogFormat, Logging};

/// The log of the process.
#[derive(Clone)]
pub(super) struct Log {
    sink: Arc<Mutex<Sink>>,
    /// Whether lines begin with the time: syslog has its own.
    timed: Arc<AtomicBool>,
    name: String,
}

/// Where lines go.
enum Sink {
    Stderr,
    Syslog(Box<syslog::Logger<syslog::LoggerBackend, Formatter3164>>),
    File(File, PathBuf),
    Null,
}

impl Log {
    /// Opens what `--log` names, and logs there from now on.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub(super) fn start(options: &Logging) -> anyhow::Result<Self> {
        let name = options.program().to_owned();
        let sink = match &options.log {
            None => Sink::Stderr,
            Some(path) => match path.to_str() {
                Some("stderr" | "default") => Sink::Stderr,
                Some("null") => Sink::Null,
                Some("syslog") => Sink::syslog(&name).context("--log syslog")?,
                _ => Sink::file(path).with_context(|| format!("--log {}", path.display()))?,
            },
        };
        let log = Self {
            timed: Arc::new(AtomicBool::new(!matches!(sink, Sink::Syslog(_)))),
            sink: Arc::new(Mutex::new(sink)),
            name,
        };
        log.subscribe(options);
        Ok(log)
    }

    fn subscribe(&self, options: &Logging) {
        let level = match options.verbose {
            true => Level::DEBUG,
            false => Level::INFO,
        };
        let targets = tracing_subscriber::filter::Targets::new()
            .with_target("memnbd_host", level)
            .with_target("component", level);
        let terminal = matches!(*self.sink(), Sink::Stderr) && io::stderr().is_terminal();
        let format = Lines {
            text: Format::default().with_target(false).with_timer(Clock(self.timed.clone())),
            json: options.log_format == LogFormat::Json,
            name: options.name.clone(),
        };
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(self.clone())
            .with_ansi(terminal)
            .log_internal_errors(false)
            .event_format(format);
        let subscriber = tracing_subscriber::registry().with(lines).with(targets);
        // A process that embeds the command may have a log of its own.
        let _ = subscriber.try_init();
    }

    /// Opens the file again, by its name, which whoever renamed it expects.
    pub(super) fn reopen(&self) {
        let mut sink = self.sink();
        let Sink::File(_, path) = &*sink else { return };
        let path = path.clone();
        match Sink::file(&path) {
            Ok(reopened) => *sink = reopened,
            Err(error) => {
                drop(sink);
                tracing::error!("cannot open the log {} again: {error}", path.display());
            }
        }
    }

    /// The terminal will be gone: what would go there goes to syslog, if there is one.
    pub(super) fn leave_terminal(&self) {
        let mut sink = self.sink();
        if matches!(*sink, Sink::Stderr) {
            *sink = Sink::syslog(&self.name).unwrap_or(Sink::Null);
            self.timed.store(false, Ordering::Relaxed);
        }
    }

    fn sink(&self) -> std::sync::MutexGuard<'_, Sink> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink {
    fn file(path: &Path) -> io::Result<Self> {
        // The process may leave its directory.
        let path = std::path::absolute(path)?;
        let file = File::options().append(true).create(true).open(&path)?;
        Ok(Self::File(file, path))
    }

    fn syslog(name: &str) -> Result<Self, syslog::Error> {
        let formatter = Formatter3164 {
            facility: Facility::LOG_DAEMON,
            hostname: None,
            process: name.into(),
            pid: std::process::id(),
        };
        Ok(Self::Syslog(Box::new(syslog::unix(formatter)?)))
    }

    fn write(&mut self, level: Level, line: &[u8]) -> io::Result<()> {
        match self {
            Self::Stderr => io::stderr().write_all(line),
            Self::File(file, _) => file.write_all(line),
            Self::Null => Ok(()),
            Self::Syslog(logger) => {
                let line = String::from_utf8_lossy(line);
                let line = line.trim();
                let sent = match level {
                    Level::ERROR => logger.err(line),
                    Level::WARN => logger.warning(line),
                    Level::INFO => logger.info(line),
                    _ => logger.debug(line),
                };
                sent.map_err(io::Error::other)
            }
        }
    }
}

/// Takes one line, which tracing-subscriber writes at once.
pub(super) struct LineWriter<'a> {
    log: &'a Log,
    level: Level,
}

impl Write for LineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.log.sink().write(self.level, line)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        LineWriter { log: self, level: Level::INFO }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Self::Writer {
        LineWriter { log: self, level: *metadata.level() }
    }
}

/// The time, where it is wanted.
struct Clock(Arc<AtomicBool>);

impl FormatTime for Clock {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        match self.0.load(Ordering::Relaxed) {
            true => SystemTime.format_time(writer),
            false => Ok(()),
        }
    }
}

/// How lines look.
struct Lines {
    text: Format<Full, Clock>,
    json: bool,
    name: Option<String>,
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
        writeln!(writer, "{}", Value::Object(object))
    }
}

/// Puts what an event says into an object.
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
