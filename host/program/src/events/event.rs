//! The events, as they are in JSON.

use std::fmt;

use serde::Serialize;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use utoipa::ToSchema;

/// The longest text of an event, in bytes.
pub(super) const MAX_TEXT: usize = 4096;

/// The longest list of parameters, in bytes.
const MAX_PARAMETERS: usize = 1024;

/// Something that happened. More fields and types of events may be added.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "time": "2026-01-31T12:00:00.000000Z",
    "disk": "scratch",
    "event": "command",
    "component": "error",
    "command": "set",
    "parameters": ["error-pwrite-rate=1%"]
}))]
pub(crate) struct Event {
    /// When it happened, by RFC 3339, in UTC.
    pub(super) time: String,
    /// The name of the disk that it is about; absent if it is about none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) disk: Option<String>,
    #[serde(flatten)]
    pub(super) happening: Happening,
}

/// What happened.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum Happening {
    /// Clients find the disk from now on.
    DiskCreated,
    /// The disk is gone.
    DiskRemoved {
        /// Why, unless somebody asked for it.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<Reason>,
    },
    /// The labels of the disk are others, or when it ends.
    DiskRelabelled,
    /// The filters of the disk, or their parameters, are others.
    DiskUpdated,
    /// The disk has the content of a snapshot again.
    DiskReset {
        /// The name of the snapshot.
        snapshot: String,
    },
    /// A snapshot was taken of the disk.
    SnapshotTaken {
        /// The name of the snapshot.
        snapshot: String,
        /// For how long requests were held back, in microseconds.
        held_us: u64,
    },
    /// A snapshot of the disk was deleted.
    SnapshotDeleted {
        /// The name of the snapshot.
        snapshot: String,
        /// Why, unless somebody asked for it.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<Reason>,
    },
    /// The disk was pointed at something else, while its clients stayed.
    DiskReplaced {
        /// How often that was done.
        generation: u64,
    },
    /// Clients find the disk, or a snapshot if it is of no disk, by another name from now on.
    ExportCreated {
        /// The name.
        export: String,
    },
    /// The name is gone.
    ExportRemoved {
        /// The name.
        export: String,
    },
    /// The disk was opened.
    DiskOpened,
    /// The disk was closed.
    DiskClosed,
    /// The disk could not be opened.
    DiskFailed {
        /// Why, for people.
        reason: String,
    },
    /// A component of the disk carried out a command.
    Command {
        component: String,
        command: String,
        /// As `KEY=VALUE`, the first ones if they are long.
        parameters: Vec<String>,
    },
    /// A client uses the disk from now on.
    ClientConnected {
        /// The number of the connection.
        connection: u64,
        /// Where it comes from, for people.
        peer: String,
    },
    /// A client does not use the disk any more.
    ClientDisconnected {
        /// The number of the connection.
        connection: u64,
        /// Where it came from, for people.
        peer: String,
        /// The seconds since it chose the disk.
        seconds: u64,
    },
    /// The tenant has more than four fifths of what it may have, and did not before.
    QuotaNear {
        /// Which quota: `disks`, `snapshots`, `connections`, `memory`, `inflight`, `size`, or `cpus` in
        /// thousandths of a processor. Of `inflight` and `cpus` it is told once a minute at most.
        quota: &'static str,
        /// How much of it is used.
        used: u64,
        /// The quota.
        most: u64,
    },
    /// The server logged a line.
    Log {
        level: Level,
        /// The line.
        message: String,
    },
    /// Events are missing here, because too many happened since they were read, or since the id
    /// that was given.
    Lost {
        /// How many, of any disk.
        events: u64,
        /// Whether the id that was given is not one of this run of the server, as it was started
        /// anew: how many events are missing is not known then.
        restarted: bool,
    },
}

/// Why a disk or a snapshot was removed that nobody asked to remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Reason {
    /// Its `ttl` is over.
    Expired,
    /// It was ephemeral, and its last client has gone.
    Unused,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "because its ttl is over",
            Self::Unused => "because it is ephemeral and its last client has gone",
        })
    }
}

/// How serious a line of the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Level {
    Error,
    Warn,
    Info,
}

impl Event {
    /// Returns the event that this happened now.
    pub(super) fn now(disk: Option<String>, happening: Happening) -> Self {
        let mut time = String::new();
        // Writing to a string does not fail.
        let _ = SystemTime.format_time(&mut Writer::new(&mut time));
        Self { time, disk, happening }
    }
}

impl Happening {
    /// A disk failed for this reason.
    pub(crate) fn failed(reason: &str) -> Self {
        Self::DiskFailed { reason: cut(reason, MAX_TEXT) }
    }

    /// A component carried out a command.
    pub(crate) fn command(component: &str, command: &str, parameters: &[String]) -> Self {
        let mut room = MAX_PARAMETERS;
        let fits = |parameter: &&String| {
            let left = room.checked_sub(parameter.len());
            room = left.unwrap_or_default();
            left.is_some()
        };
        let mut shown: Vec<String> = parameters.iter().take_while(fits).cloned().collect();
        if shown.len() < parameters.len() {
            shown.push("...".into());
        }
        Self::Command { component: component.into(), command: command.into(), parameters: shown }
    }

    /// The server logged a line.
    pub(super) fn log(level: Level, message: &str) -> Self {
        Self::Log { level, message: cut(message, MAX_TEXT) }
    }

    /// Returns the type of the event, as in JSON.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::DiskCreated => "disk-created",
            Self::DiskRemoved { .. } => "disk-removed",
            Self::DiskRelabelled => "disk-relabelled",
            Self::DiskUpdated => "disk-updated",
            Self::DiskReset { .. } => "disk-reset",
            Self::SnapshotTaken { .. } => "snapshot-taken",
            Self::SnapshotDeleted { .. } => "snapshot-deleted",
            Self::DiskReplaced { .. } => "disk-replaced",
            Self::ExportCreated { .. } => "export-created",
            Self::ExportRemoved { .. } => "export-removed",
            Self::DiskOpened => "disk-opened",
            Self::DiskClosed => "disk-closed",
            Self::DiskFailed { .. } => "disk-failed",
            Self::Command { .. } => "command",
            Self::ClientConnected { .. } => "client-connected",
            Self::ClientDisconnected { .. } => "client-disconnected",
            Self::QuotaNear { .. } => "quota-near",
            Self::Log { .. } => "log",
            Self::Lost { .. } => "lost",
        }
    }

    /// Returns true if clients of disks can cause any number of such events.
    pub(super) fn is_by_clients(&self) -> bool {
        match self {
            Self::DiskCreated
            | Self::DiskRemoved { .. }
            | Self::DiskRelabelled
            | Self::DiskUpdated
            | Self::DiskReset { .. }
            | Self::SnapshotTaken { .. }
            | Self::SnapshotDeleted { .. }
            | Self::DiskReplaced { .. }
            | Self::ExportCreated { .. }
            | Self::ExportRemoved { .. }
            | Self::Command { .. } => false,
            Self::DiskOpened
            | Self::DiskClosed
            | Self::DiskFailed { .. }
            | Self::ClientConnected { .. }
            | Self::ClientDisconnected { .. }
            | Self::QuotaNear { .. }
            | Self::Log { .. }
            | Self::Lost { .. } => true,
        }
    }
}

/// Returns at most so many bytes of a text.
fn cut(text: &str, most: usize) -> String {
    match text.len() <= most {
        true => text.to_owned(),
        false => format!("{}...", &text[..text.floor_char_boundary(most - 3)]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn events_are_objects_with_the_name_of_their_type() {
        let happening = Happening::ClientConnected { connection: 3, peer: "p".into() };
        let name = happening.name();
        let event = serde_json::to_value(Event::now(Some("a".into()), happening)).unwrap();
        assert_eq!(event["event"], name);
        assert_eq!((&event["disk"], &event["connection"]), (&json!("a"), &json!(3)));
        assert!(event["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{event}");
        let lost = Happening::Lost { events: 1, restarted: false };
        let event = serde_json::to_value(Event::now(None, lost)).unwrap();
        assert_eq!((&event["event"], event.get("disk")), (&json!("lost"), None::<&Value>));
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("abcd\u{e4}", 5), "ab...");
        assert_eq!(cut("a\u{e4}\u{e4}\u{e4}", 5), "a...");
        let parameters = ["x".repeat(1000), "y".repeat(25), "z".into()];
        let Happening::Command { parameters, .. } = Happening::command("c", "set", &parameters)
        else {
            panic!("it is a command")
        };
        assert_eq!(parameters, ["x".repeat(1000), "...".into()]);
    }
}
