//! The negotiation with a client: options and their answers, until an export is agreed on.
//!
//! The decisions are [`crate::nbd`]'s; here bytes are moved, and exports are found and opened.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::{Context, End, Phase, Stream, in_time};
use crate::disk::Disk;
use crate::exports::{Export, Exports};
use crate::nbd::{self, Event, ExportInfo, ExportSummary, Handshake, Session};

/// What haggling came to.
pub(super) enum Haggled {
    Agreed(Agreed),
    /// The client was told that TLS starts.
    StartTls,
    /// The client wants no more.
    Aborted,
}

/// What transmission begins with.
pub(super) struct Agreed {
    pub(super) session: Session,
    pub(super) disk: Arc<Disk>,
    /// What came along with the last option: requests.
    pub(super) rest: Vec<u8>,
}

/// Haggles about options, once `output` was sent, until it is too late. The client's time does not run
/// while it waits for an export that is compiled or opened, which has limits of its own.
pub(super) async fn negotiate<S: Stream>(
    stream: &mut S,
    handshake: &mut Handshake,
    output: Vec<u8>,
    deadline: &mut Option<Instant>,
    context: &Context,
) -> Result<Haggled, End> {
    let input = Vec::with_capacity(512);
    let mut haggling = Haggling { stream, handshake, context, input, output };
    loop {
        let name = match in_time(*deadline, context, haggling.next()).await? {
            Wanted::Export(name) => name,
            Wanted::StartTls => return Ok(Haggled::StartTls),
            Wanted::Nothing => return Ok(Haggled::Aborted),
        };
        let asked = Instant::now();
        let opening = async { Ok(open(&context.exports, &name).await) };
        let opened = in_time(None, context, opening).await?;
        *deadline = deadline.map(|deadline| deadline + asked.elapsed());
        if let Some(agreed) = in_time(*deadline, context, haggling.answer(opened)).await? {
            return Ok(Haggled::Agreed(agreed));
        }
    }
}

/// What a client wants that takes more than an answer.
enum Wanted {
    /// To know of this export, or have it.
    Export(String),
    StartTls,
    Nothing,
}

/// A negotiation under way.
struct Haggling<'a, S> {
    stream: &'a mut S,
    handshake: &'a mut Handshake,
    context: &'a Context,
    /// What has come and was not looked at.
    input: Vec<u8>,
    /// What is to be sent.
    output: Vec<u8>,
}

impl<S: Stream> Haggling<'_, S> {
    /// Answers options until one asks for more than that.
    async fn next(&mut self) -> Result<Wanted, End> {
        loop {
            if *self.context.phase.borrow() != Phase::Serving {
                self.handshake.shutting_down();
            }
            let (taken, event) = match self.handshake.advance(&self.input, &mut self.output) {
                Ok(advanced) => advanced,
                Err(error) => {
                    // What was answered before still goes out.
                    self.stream.write_all(&self.output).await?;
                    return Err(error.into());
                }
            };
            self.input.drain(..taken);
            // After every event: however many options came at once, their replies do not pile up.
            self.send().await?;
            match event {
                Event::NeedInput => {
                    if self.stream.read_buf(&mut self.input).await? == 0 {
                        return match self.input.is_empty() {
                            true => Ok(Wanted::Nothing),
                            false => Err(End::Transport(std::io::ErrorKind::UnexpectedEof.into())),
                        };
                    }
                }
                Event::List => list(&self.context.exports, self.handshake, &mut self.output),
                Event::Open { name, .. } => return Ok(Wanted::Export(name)),
                // Nothing came after it, the handshake has seen to that.
                Event::StartTls => return Ok(Wanted::StartTls),
                Event::Abort => return Ok(Wanted::Nothing),
            }
        }
    }

    /// Answers for an export. Returns what transmission begins with, if it does.
    async fn answer(&mut self, opened: Opened<'_>) -> Result<Option<Agreed>, End> {
        if *self.context.phase.borrow() != Phase::Serving {
            self.handshake.shutting_down();
        }
        let description = opened.as_ref().map_or_else(|_| String::new(), |(e, _)| e.description());
        let info = match &opened {
            Ok((export, disk)) => Ok(ExportInfo {
                name: export.name(),
                description: &description,
                geometry: disk.geometry(),
            }),
            Err(None) => Err(nbd::OpenError::Unknown),
            Err(Some(text)) => Err(nbd::OpenError::Failed { text }),
        };
        let info = info.as_ref().map_err(|error| *error);
        let session = self.handshake.opened(info, &mut self.output)?;
        let (Some(session), Ok((export, disk))) = (session, opened) else { return Ok(None) };
        tracing::debug!("export {:?}: served with {} replies", export.name(), session.style());
        self.send().await?;
        Ok(Some(Agreed { session, disk, rest: std::mem::take(&mut self.input) }))
    }

    async fn send(&mut self) -> Result<(), End> {
        if !self.output.is_empty() {
            self.stream.write_all(&self.output).await?;
            self.stream.flush().await?;
            self.output.clear();
        }
        Ok(())
    }
}

fn list(exports: &Exports, handshake: &mut Handshake, output: &mut Vec<u8>) {
    let described: Vec<(&str, String)> =
        exports.iter().map(|export| (export.name(), export.description())).collect();
    let summaries: Vec<ExportSummary<'_>> =
        described.iter().map(|(name, description)| ExportSummary { name, description }).collect();
    handshake.listed(&summaries, output);
}

/// An export with its disk. The error is none for an export that there is not, else why it cannot be
/// had.
type Opened<'a> = Result<(&'a Arc<Export>, Arc<Disk>), Option<String>>;

async fn open<'a>(exports: &'a Exports, name: &str) -> Opened<'a> {
    let export = exports.find(name).ok_or(None)?;
    match export.disk().await {
        Ok(disk) => Ok((export, disk)),
        Err(failed) => Err(Some(failed.to_string())),
    }
}
