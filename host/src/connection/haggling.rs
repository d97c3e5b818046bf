//! The negotiation with a client: options and their answers, until an export is agreed on.
//!
//! The decisions are [`crate::nbd`]'s; here bytes are moved, and exports are found and opened.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::{Context, End, Phase, in_time};
use crate::device::Device;
use crate::exports::Export;
use crate::nbd::{self, Event, ExportInfo, ExportSummary, Handshake, Purpose, Session};
use crate::places::{Full, Place};
use crate::transport::Stream;

/// How much of a list is made before it is sent, in bytes.
const LIST_PART: usize = 64 << 10;

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
    pub(super) disk: Arc<dyn Device>,
    /// Where the client is counted.
    pub(super) _place: Option<Place>,
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
        let (name, purpose) = match in_time(*deadline, context, haggling.next()).await? {
            Wanted::Export(name, purpose) => (name, purpose),
            Wanted::StartTls => return Ok(Haggled::StartTls),
            Wanted::Nothing => return Ok(Haggled::Aborted),
        };
        let asked = Instant::now();
        let opening = async { Ok(open(context, &name, purpose).await) };
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
    Export(String, Purpose),
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
                Event::List => self.list().await?,
                Event::Open { name, purpose } => return Ok(Wanted::Export(name, purpose)),
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
        let description = opened.as_ref().map_or_else(|_| String::new(), |(e, ..)| e.description());
        let info = match &opened {
            Ok((export, disk, _)) => Ok(ExportInfo {
                name: export.name(),
                description: &description,
                geometry: disk.geometry(),
            }),
            Err(None) => Err(nbd::OpenError::Unknown),
            Err(Some(text)) => Err(nbd::OpenError::Failed { text }),
        };
        let info = info.as_ref().map_err(|error| *error);
        let session = self.handshake.opened(info, &mut self.output)?;
        let (Some(session), Ok((export, disk, place))) = (session, opened) else { return Ok(None) };
        tracing::debug!("export {:?}: served with {} replies", export.name(), session.style());
        self.send().await?;
        let rest = std::mem::take(&mut self.input);
        Ok(Some(Agreed { session, disk, _place: place, rest }))
    }

    /// Lists the exports. Of many, the list is sent in parts.
    async fn list(&mut self) -> Result<(), End> {
        for export in self.context.exports.iter() {
            let description = export.description();
            let summary = ExportSummary { name: export.name(), description: &description };
            self.handshake.list(&summary, &mut self.output);
            if self.output.len() >= LIST_PART {
                self.send().await?;
            }
        }
        self.handshake.listed(&mut self.output);
        Ok(())
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

/// An export with its disk, and the place of a client that is going to use it. The error is none for an
/// export that there is not, else why it cannot be had.
type Opened<'a> = Result<(&'a Arc<Export>, Arc<dyn Device>, Option<Place>), Option<String>>;

async fn open<'a>(context: &'a Context, name: &str, purpose: Purpose) -> Opened<'a> {
    let export = context.exports.find(name).ok_or(None)?;
    let place = match purpose {
        Purpose::Transmission => context.places.try_enter(export.name()).map_err(|Full| {
            Some("the export has as many connections as it may have; try again later".to_owned())
        })?,
        Purpose::Info | Purpose::Contexts => None,
    };
    match export.disk().await {
        Ok(disk) => Ok((export, disk, place)),
        Err(failed) => Err(Some(failed.to_string())),
    }
}
