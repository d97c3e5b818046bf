//! The lines of the log, as events.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::event::{Level, MAX_TEXT};
use super::{AUDIT, Happening, Hubs, TOLD};

/// Tells the lines of the log, except for those that are for finding errors in the program.
pub(crate) struct Feed(pub(crate) Hubs);

impl<S: Subscriber> Layer<S> for Feed {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let level = match *metadata.level() {
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warn,
            tracing::Level::INFO => Level::Info,
            _ => return,
        };
        if matches!(metadata.target(), TOLD | AUDIT) {
            return;
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        let happening = Happening::log(level, &message.0);
        match disk_of(&message.0).map(|disk| self.0.of_disk(disk)) {
            Some((hub, disk)) => hub.tell(Some(disk), happening),
            None => self.0.first().tell(None, happening),
        }
    }
}

/// The beginning of a message.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // It ends with an error when the message is longer than that of an event.
            let _ = write!(self, "{value:?}");
        }
    }
}

impl fmt::Write for Message {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.push_str(text);
        if self.0.len() > MAX_TEXT { Err(fmt::Error) } else { Ok(()) }
    }
}

/// Returns the disk that a line is about: those begin with it.
pub(crate) fn disk_of(message: &str) -> Option<String> {
    let rest = message.strip_prefix("export ").or_else(|| message.strip_prefix("disk "))?;
    unquoted(rest)
}

/// Returns the text of the quoted one that begins here, which Rust has written.
fn unquoted(text: &str) -> Option<String> {
    let mut rest = text.strip_prefix('"')?.chars();
    let mut unquoted = String::new();
    loop {
        let character = match rest.next()? {
            '"' => return Some(unquoted),
            '\\' => match rest.next()? {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                '0' => '\0',
                'u' => {
                    let (number, after) = rest.as_str().strip_prefix('{')?.split_once('}')?;
                    rest = after.chars();
                    char::from_u32(u32::from_str_radix(number, 16).ok()?)?
                }
                itself => itself,
            },
            other => other,
        };
        unquoted.push(character);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::super::{After, Read};
    use super::*;

    #[test]
    fn lines_are_of_the_disk_that_they_begin_with() {
        for name in ["a", "", "a\"b\\c", "\u{e4}\n\r\t\0\u{1b}\u{200b}'", "a: \"b\""] {
            assert_eq!(disk_of(&format!("export {name:?}: failed")).as_deref(), Some(name));
            assert_eq!(disk_of(&format!("disk {name:?}")).as_deref(), Some(name));
        }
        for other in ["", "export", "export \"a", "export \"a\\", "export \"\\u{", "client a: x"] {
            assert_eq!(disk_of(other), None, "{other}");
        }
    }

    #[test]
    fn lines_of_the_log_are_told() {
        let hubs = Hubs::default();
        let (hub, tenant) = (hubs.first(), hubs.add("acme"));
        let subscriber = tracing_subscriber::registry().with(Feed(hubs.clone()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("export {:?}: opened", "acme/a");
            tracing::info!("export {:?}: opened", "other/a");
            tracing::debug!("a detail");
            tracing::info!(target: TOLD, "told already");
            tracing::warn!("export {:?}: {}", "a", "x".repeat(5000));
        });
        let mut reader = tenant.read(After::Nothing);
        let Some(Read::Event(_, kept)) = reader.try_next() else { panic!("a line is told") };
        assert_eq!((kept.name, kept.disk()), ("log", Some("a")));
        assert!(reader.try_next().is_none(), "the rest is of others");
        let mut reader = hub.read(After::Nothing);
        let Some(Read::Event(_, kept)) = reader.try_next() else { panic!("a line is told") };
        assert_eq!(kept.disk(), Some("other/a"), "there is no such tenant");
        let Some(Read::Event(_, kept)) = reader.try_next() else { panic!("a line is told") };
        assert_eq!((kept.name, kept.disk()), ("log", Some("a")));
        let event: Value = serde_json::from_str(kept.json()).unwrap();
        assert_eq!(event["level"], "warn");
        let message = event["message"].as_str().unwrap();
        assert!(message.starts_with("export \"a\": xx") && message.ends_with("xx..."), "{message}");
        assert_eq!(message.len(), MAX_TEXT);
        assert!(reader.try_next().is_none());
    }
}
