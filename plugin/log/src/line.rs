//! The lines of the log.

use alloc::format;
use alloc::string::String;
use core::fmt::{self, Write};
use core::time::Duration;

use memnbd_guest::{Capabilities, ErrorCode, Geometry, OpenRequest, Operation, Request};

use crate::Action;

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Nbdkit,
    Json,
}

/// What a disk is when it is opened.
pub(crate) struct Opened<'a> {
    export_name: &'a str,
    read_only: bool,
    geometry: Geometry,
}

impl<'a> Opened<'a> {
    pub(crate) fn new(request: &'a OpenRequest, geometry: Geometry) -> Self {
        Self { export_name: &request.export_name, read_only: request.read_only, geometry }
    }

    /// Returns the properties that are true or false, by nbdkit's names.
    fn flags(&self) -> [(&'static str, bool); 9] {
        let has = |capability| self.geometry.capabilities.contains(capability);
        let write = has(Capabilities::WRITABLE) && !self.read_only;
        [
            ("write", write),
            ("flush", true),
            ("rotational", has(Capabilities::ROTATIONAL)),
            ("trim", write && has(Capabilities::TRIM)),
            ("zero", write && has(Capabilities::ZERO)),
            ("fua", has(Capabilities::FUA)),
            ("extents", has(Capabilities::EXTENTS)),
            ("cache", has(Capabilities::CACHE)),
            ("fast_zero", write && has(Capabilities::FAST_ZERO)),
        ]
    }
}

impl Format {
    /// Returns the first line.
    pub(crate) fn open(self, now: Option<Duration>, opened: &Opened<'_>) -> String {
        let Geometry { size, minimum_block, preferred_block, .. } = opened.geometry;
        let flags = opened.flags();
        let mut line = match self {
            Self::Nbdkit => format!(
                "{}Open export={} size={size:#x} minsize={minimum_block:#x} \
                 prefsize={preferred_block:#x}",
                Stamp(now),
                Quoted(opened.export_name)
            ),
            Self::Json => format!(
                "{{\"time\":\"{}\",\"event\":\"open\",\"export\":{},\"size\":{size},\
                 \"minimum_block\":{minimum_block},\"preferred_block\":{preferred_block}",
                Iso(now.unwrap_or_default()),
                Json(opened.export_name)
            ),
        };
        for (name, set) in flags {
            // Writing to a string does not fail.
            let _ = match self {
                Self::Nbdkit => write!(line, " {name}={}", u8::from(set)),
                Self::Json => write!(line, ",\"{name}\":{set}"),
            };
        }
        if self == Self::Json {
            line.push('}');
        }
        line
    }

    /// Returns the last line.
    pub(crate) fn close(self, now: Option<Duration>, count: u64) -> String {
        match self {
            Self::Nbdkit => format!("{}Close transactions={count}", Stamp(now)),
            Self::Json => format!(
                "{{\"time\":\"{}\",\"event\":\"close\",\"transactions\":{count}}}",
                Iso(now.unwrap_or_default())
            ),
        }
    }

    /// Returns the line of an action that begins, if there is one.
    pub(crate) fn begin(self, now: Option<Duration>, id: u64, action: &Action) -> Option<String> {
        if self == Self::Json {
            return None;
        }
        let mut line = format!("{}{} id={id}", Stamp(now), nbdkit_name(action));
        if let Action::Request(request) = action {
            let Request { operation, offset, length, fua, keep_allocated, fast } = *request;
            let fua = u8::from(fua);
            let _ = write!(line, " offset={offset:#x} count={length:#x}");
            let _ = match operation {
                Operation::Write | Operation::Trim => write!(line, " fua={fua}"),
                Operation::Zero => {
                    let (trim, fast) = (u8::from(!keep_allocated), u8::from(fast));
                    write!(line, " trim={trim} fua={fua} fast={fast}")
                }
                Operation::Read | Operation::Cache | Operation::Extents => Ok(()),
            };
        }
        line.push_str(" ...");
        Some(line)
    }
}

/// Returns nbdkit's line of an action that has ended.
pub(crate) fn nbdkit_end(
    now: Option<Duration>,
    id: u64,
    action: &Action,
    error: Option<ErrorCode>,
) -> String {
    let mut line = format!("{}...{} id={id}", Stamp(now), nbdkit_name(action));
    match error {
        None => line.push_str(" return=0"),
        Some(code) => {
            line.push_str(" return=-1 error=");
            line.push_str(error_name(code));
        }
    }
    line
}

/// Returns the JSON object of an action that has ended.
pub(crate) fn json(
    begin: Duration,
    id: u64,
    action: &Action,
    duration: Duration,
    error: Option<ErrorCode>,
) -> String {
    let mut line = format!(
        "{{\"time\":\"{}\",\"event\":\"{}\",\"id\":{id}",
        Iso(begin),
        nbdkit_name(action).to_ascii_lowercase()
    );
    if let Action::Request(request) = action {
        let Request { operation, offset, length, fua, keep_allocated, fast } = *request;
        let _ = write!(line, ",\"offset\":{offset},\"length\":{length}");
        if operation.changes() {
            let _ = write!(line, ",\"fua\":{fua}");
        }
        if operation == Operation::Zero {
            let _ = write!(line, ",\"keep_allocated\":{keep_allocated},\"fast\":{fast}");
        }
    }
    let _ = write!(line, ",\"duration\":{},\"error\":", duration.as_nanos());
    let _ = match error {
        None => write!(line, "null}}"),
        Some(code) => write!(line, "\"{}\"}}", error_name(code)),
    };
    line
}

fn nbdkit_name(action: &Action) -> &'static str {
    match action {
        Action::Flush => "Flush",
        Action::Request(request) => match request.operation {
            Operation::Read => "Read",
            Operation::Write => "Write",
            Operation::Zero => "Zero",
            Operation::Trim => "Trim",
            Operation::Cache => "Cache",
            Operation::Extents => "Extents",
        },
    }
}

fn error_name(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::Eperm => "EPERM",
        ErrorCode::Eio => "EIO",
        ErrorCode::Enomem => "ENOMEM",
        ErrorCode::Einval => "EINVAL",
        ErrorCode::Enospc => "ENOSPC",
        ErrorCode::Eoverflow => "EOVERFLOW",
        ErrorCode::Enotsup => "ENOTSUP",
        ErrorCode::Eshutdown => "ESHUTDOWN",
    }
}

/// A time at the beginning of a line.
struct Stamp(Option<Duration>);

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => Ok(()),
            Some(time) => {
                let (date, clock) = (Date(time), Clock(time));
                write!(f, "{date} {clock} ")
            }
        }
    }
}

/// A time as in ISO 8601.
struct Iso(Duration);

impl fmt::Display for Iso {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (date, clock) = (Date(self.0), Clock(self.0));
        write!(f, "{date}T{clock}Z")
    }
}

struct Date(Duration);

impl fmt::Display for Date {
    /// Counts the days in years that begin in March, in eras of 400 years.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const ERA: u64 = 146_097;
        // From 0000-03-01 to 1970-01-01.
        let days = self.0.as_secs() / 86_400 + 719_468;
        let (era, day) = (days / ERA, days % ERA);
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        let year = 400 * era + year + next;
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

struct Clock(Duration);

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, micros) = (self.0.as_secs() % 86_400, self.0.subsec_micros());
        let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(f, "{hours:02}:{minutes:02}:{seconds:02}.{micros:06}")
    }
}

/// A text as a word of a shell, in double quotes.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' | '$' | '`' => write!(f, "\\{c}")?,
                // It would begin another line.
                c if c.is_control() => f.write_char(' ')?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

/// A text as a string of JSON.
struct Json<'a>(&'a str);

impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                c if c < ' ' => write!(f, "\\u{:04x}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, micros, text) in [
            (0, 0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400, 1, "2000-02-29T00:00:00.000001Z"),
            (951_868_799, 999_999, "2000-02-29T23:59:59.999999Z"),
            (1_596_679_643, 80_415, "2020-08-06T02:07:23.080415Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000000Z"),
            (253_402_300_799, 0, "9999-12-31T23:59:59.000000Z"),
        ] {
            assert_eq!(Iso(Duration::new(seconds, micros * 1000)).to_string(), text);
        }
    }

    #[test]
    fn names_cannot_end_a_line_or_a_string() {
        let name = "a\"b\\c\n$x\u{1b}\u{e4}";
        assert_eq!(Quoted(name).to_string(), "\"a\\\"b\\\\c \\$x \u{e4}\"");
        assert_eq!(Json(name).to_string(), "\"a\\\"b\\\\c\\u000a$x\\u001b\u{e4}\"");
    }
}
