//! A whole server in one thread: the handshake, then transmission with a disk in a vector.

use super::*;
use crate::block::{Command, ErrorCode, Extents, Span, Status};

/// Zeroes that were never written come back as holes in units of it.
const PAGE: usize = 4096;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// As the client asked.
    Closed,
    Violation(ProtocolError),
}

pub(super) struct Server {
    pub(super) handshake: Handshake,
    pub(super) session: Option<Session>,
    pub(super) end: Option<End>,
    pub(super) output: Vec<u8>,
    pub(super) tls: bool,
    input: Vec<u8>,
    geometry: Geometry,
    disk: Vec<u8>,
    allocated: Vec<bool>,
}

/// The bitmaps of the disk: `since`, and 20 that have numbers.
struct Since;

impl Bitmaps for Since {
    fn exists(&self, name: &str) -> bool {
        name == "since" || name.parse().is_ok_and(|number: u32| number < 20)
    }

    fn names(&self, most: usize) -> Vec<String> {
        let mut names = vec!["since".to_owned()];
        names.extend((0..20).map(|number: u32| number.to_string()));
        names.truncate(most);
        names
    }
}

impl Server {
    pub(super) fn new(config: HandshakeConfig, geometry: Geometry) -> Self {
        let handshake = Handshake::new(config);
        let size = geometry.size.min(1 << 20) as usize;
        Self {
            output: handshake.greeting().to_vec(),
            handshake,
            session: None,
            end: None,
            tls: false,
            input: Vec::new(),
            geometry,
            disk: vec![0; size],
            allocated: vec![false; size.div_ceil(PAGE)],
        }
    }

    /// Takes bytes from the client.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        if self.end.is_some() {
            return;
        }
        self.input.extend_from_slice(bytes);
        let result = match self.session {
            None => self.haggle(),
            Some(_) => Ok(()),
        };
        let result = match self.session {
            Some(session) => result.and_then(|()| self.transmit(&session)),
            None => result,
        };
        if let Err(error) = result {
            self.end = Some(End::Violation(error));
        }
    }

    fn haggle(&mut self) -> Result<(), ProtocolError> {
        while self.session.is_none() && self.end.is_none() {
            let before = self.output.len();
            let (taken, event) = self.handshake.advance(&self.input, &mut self.output)?;
            self.input.drain(..taken);
            let bound = 128 * limits::MAX_OPTIONS as usize;
            assert!(self.output.len() - before <= bound, "one call writes little");
            match event {
                Event::NeedInput => {
                    let left = self.input.len();
                    assert!(left < limits::OPTION_HEADER_LEN + limits::MAX_OPTION_DATA);
                    break;
                }
                Event::List => {
                    for export in [
                        ExportSummary { name: "disk", description: "a disk for tests" },
                        ExportSummary { name: "other", description: "" },
                    ] {
                        self.handshake.list(&export, &mut self.output);
                    }
                    self.handshake.listed(&mut self.output);
                }
                Event::Open { name, .. } => self.open(&name)?,
                Event::StartTls => {
                    self.tls = true;
                    self.handshake.tls_established();
                }
                Event::Abort => self.end = Some(End::Closed),
            }
        }
        Ok(())
    }

    fn open(&mut self, name: &str) -> Result<(), ProtocolError> {
        assert!(name.len() <= limits::MAX_STRING);
        let huge = "it broke \u{2603}".repeat(10_000);
        let info = ExportInfo {
            name: if name == "other" { "other" } else { "disk" },
            description: if name == "other" { "" } else { "a disk for tests" },
            geometry: &self.geometry,
            bitmaps: if name == "other" { None } else { Some(&Since) },
        };
        let export = match name {
            "" | "disk" | "other" => Ok(&info),
            "secret" if self.tls => Ok(&info),
            "secret" => Err(OpenError::TlsRequired),
            "broken" => Err(OpenError::Failed { text: &huge }),
            "mute" => Err(OpenError::Failed { text: "" }),
            "forbidden" => Err(OpenError::Policy { text: "the export is not for this client" }),
            _ => Err(OpenError::Unknown),
        };
        self.session = self.handshake.opened(export, &mut self.output)?;
        Ok(())
    }

    fn transmit(&mut self, session: &Session) -> Result<(), ProtocolError> {
        while self.end.is_none() && self.input.len() >= session.header_len() {
            let request = session.parse(&self.input)?;
            let Admission { payload, verdict } = session.admit(&request)?;
            let begin = session.header_len();
            let end = begin + payload as usize;
            if self.input.len() < end {
                break;
            }
            let payload = self.input[begin..end].to_vec();
            self.input.drain(..end);
            let verdict = match verdict {
                Verdict::Filter => session.admit_filter(&request, &payload),
                other => other,
            };
            let reply = session.reply_to(&request);
            match verdict {
                Verdict::Execute(command) => self.execute(command, &payload, &reply),
                Verdict::Describe { span, limit, contexts } => {
                    let ids: Vec<u32> = contexts.ids().collect();
                    for id in &ids {
                        let last = Some(id) == ids.last();
                        self.describe(*id, last, span, limit, &reply);
                    }
                }
                Verdict::Refuse { error, reason } => {
                    reply.error(error, reason.text(), &mut self.output);
                }
                Verdict::Disconnect => self.end = Some(End::Closed),
                Verdict::Filter => panic!("the payload was given"),
            }
        }
        Ok(())
    }

    fn execute(&mut self, command: Command, payload: &[u8], reply: &ReplyTo) {
        let bytes = |span: Span| span.offset as usize..span.end() as usize;
        match command {
            Command::Read { span } if self.pages(span).any(|page| page == 31) => {
                // The last page is broken.
                let text = "the last page is broken";
                reply.error_at(ErrorCode::Io, text, span.offset, &mut self.output);
            }
            Command::Read { span } => {
                let pieces = self.pieces(span);
                for run in reply.runs(span, pieces) {
                    reply.run(&run, &mut self.output);
                    if !run.hole {
                        self.output.extend_from_slice(&self.disk[bytes(run.span)]);
                    }
                }
            }
            Command::Write { span, .. } => {
                self.disk[bytes(span)].copy_from_slice(payload);
                self.pages(span).for_each(|page| self.allocated[page] = true);
                reply.success(&mut self.output);
            }
            Command::Zero { span, .. } | Command::Trim { span, .. } => {
                self.disk[bytes(span)].fill(0);
                reply.success(&mut self.output);
            }
            Command::Flush | Command::Cache { .. } => reply.success(&mut self.output),
            Command::Extents { span, limit } => {
                let mut extents = Extents::new(span.length, limit);
                for piece in self.pieces(span) {
                    match piece {
                        Piece::Data(length) => extents.push(length, Status::DATA),
                        Piece::Hole(length) => extents.push(length, Status::HOLE),
                    };
                }
                reply.block_status(span, &extents, &mut self.output);
            }
        }
    }

    /// Answers for `base:allocation`, and for each other context that all pages have its id as state,
    /// and the first page has 0.
    fn describe(&mut self, id: u32, last: bool, span: Span, limit: usize, reply: &ReplyTo) {
        if id == codes::ALLOCATION_ID {
            let mut extents = Extents::new(span.length, limit);
            extents.push(span.length, Status::DATA);
            return reply.context_status(id, last, span, &extents, &mut self.output);
        }
        let mut extents = Extents::new(span.length, limit);
        extents.push((PAGE as u64).saturating_sub(span.offset), 0);
        extents.push(u64::MAX, id);
        reply.context_status(id, last, span, &extents, &mut self.output);
    }

    fn pages(&self, span: Span) -> std::ops::Range<usize> {
        span.offset as usize / PAGE..(span.end() as usize).div_ceil(PAGE)
    }

    fn pieces(&self, span: Span) -> Vec<Piece> {
        self.pages(span)
            .map(|page| {
                let first = span.offset.max((page * PAGE) as u64);
                let after = span.end().min(((page + 1) * PAGE) as u64);
                match self.allocated[page] {
                    true => Piece::Data(after - first),
                    false => Piece::Hole(after - first),
                }
            })
            .collect()
    }
}
