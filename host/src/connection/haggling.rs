//! Option haggling: options and their replies, until an export is agreed on.
//!
//! [`crate::nbd`] makes the decisions; this module does the IO and looks up and opens exports.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::entrance::can_be_overheard;
use super::peers::Chosen;
use super::{Context, End, Phase, in_time};
use crate::block::{Capabilities, Geometry};
use crate::device::{Device, MetaContext, Meter, Port, Tap};
use crate::exports::{self, Client, Export, Exports, ListedExport, ListedNames, Policy, Requested};
use crate::nbd::{
    self, ContextName, Event, ExportInfo, ExportSummary, Handshake, Purpose, Session,
};
use crate::places::{Full, Place};
use crate::rate::Allowance;
use crate::transport::Stream;

/// The client's places in the quotas of the server and of the export.
type Places = (Place, Option<Place>);

/// The length of the parts in which a list is sent, in bytes.
const LIST_PART: usize = 64 << 10;

/// The result of option haggling.
pub(super) enum Haggled {
    Agreed(Agreed),
    /// STARTTLS was acknowledged.
    StartTls,
    /// The client aborted.
    Aborted,
}

/// What the transmission phase starts with.
pub(super) struct Agreed {
    pub(super) session: Session,
    /// The metadata contexts that were selected besides `base:allocation`.
    pub(super) contexts: Box<[Arc<MetaContext>]>,
    pub(super) port: Arc<Port>,
    pub(super) chosen: Box<Chosen>,
    pub(super) meter: Box<Meter>,
    pub(super) tap: Box<Tap>,
    pub(super) allowance: Allowance,
    /// The client's places in quotas.
    pub(super) _place: Places,
    /// What the export demanded when the client got it.
    pub(super) policy: Arc<Policy>,
    /// Requests that were received with the last option.
    pub(super) rest: Vec<u8>,
}

/// Sends `output` and haggles until the deadline. The deadline is extended by the time that the
/// client waits for an export to be compiled and opened, which has limits of its own.
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
        let tls = haggling.handshake.is_encrypted();
        let opening = async { Ok(open(context, tls, &name, purpose).await) };
        let opened = in_time(None, context, opening).await?;
        *deadline = deadline.map(|deadline| deadline + asked.elapsed());
        if let Some(agreed) = in_time(*deadline, context, haggling.answer(opened)).await? {
            return Ok(Haggled::Agreed(agreed));
        }
    }
}

/// What an option asks for beyond a reply.
enum Wanted {
    /// An export, to be described or used.
    Export(String, Purpose),
    StartTls,
    Nothing,
}

/// A negotiation under way.
struct Haggling<'a, S> {
    stream: &'a mut S,
    handshake: &'a mut Handshake,
    context: &'a Context,
    /// Bytes that were received and not parsed yet.
    input: Vec<u8>,
    /// Bytes to send.
    output: Vec<u8>,
}

impl<S: Stream> Haggling<'_, S> {
    /// Answers options until one asks for more than a reply.
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

    /// Replies to an option about an export. Returns what transmission starts with if it follows.
    async fn answer(&mut self, opened: Result<Opened, Unavailable>) -> Result<Option<Agreed>, End> {
        if *self.context.phase.borrow() != Phase::Serving {
            self.handshake.shutting_down();
        }
        let description = opened.as_ref().map_or(Cow::Borrowed(""), |opened| {
            opened.exports.naming().describe(opened.export.description().into())
        });
        let geometry = opened.as_ref().ok().map(Opened::geometry);
        let bitmaps = opened.as_ref().ok().and_then(|opened| opened.export.bitmaps()).map(Bitmaps);
        let info = match (&opened, &geometry) {
            (Ok(Opened { name, .. }), Some(geometry)) => {
                let bitmaps = bitmaps.as_ref().map(|bitmaps| bitmaps as &dyn nbd::Bitmaps);
                Ok(ExportInfo { name, description: &description, geometry, bitmaps })
            }
            (Ok(_), None) => unreachable!("an open device has a geometry"),
            (Err(Unavailable::Unknown), _) => Err(nbd::OpenError::Unknown),
            (Err(Unavailable::Denied(text)), _) => Err(nbd::OpenError::Policy { text }),
            (Err(Unavailable::NeedsTls), _) => Err(nbd::OpenError::TlsRequired),
            (Err(Unavailable::Failed(text)), _) => Err(nbd::OpenError::Failed { text }),
        };
        let info = info.as_ref().map_err(|error| *error);
        let session = self.handshake.opened(info, &mut self.output)?;
        let (Some(session), Ok(Opened { exports, export, used: Some((place, port)), .. })) =
            (session, opened)
        else {
            return Ok(None);
        };
        let selected = self.handshake.take_contexts();
        let contexts = selected.into_iter().map(|name| Arc::new(context(&export, name))).collect();
        let connection = self.context.id;
        let style = session.style();
        tracing::debug!(connection, "export {:?}: served with {style} replies", export.name());
        self.send().await?;
        let rest = std::mem::take(&mut self.input);
        let (meter, tap) = (Box::new(export.account().open()), Box::new(export.heat().tap()));
        let allowance = Allowance::new(export.limits());
        let allowance = allowance.sharing(export.policy().shared_limits.clone());
        let policy = export.policy();
        Ok(Some(Agreed {
            session,
            contexts,
            port,
            chosen: Box::new(Chosen {
                namespace: exports.namespace().into(),
                export: exports.local_name(&export).into(),
                id: export.registered_id(),
            }),
            meter,
            tap,
            allowance,
            _place: place,
            policy,
            rest,
        }))
    }

    /// Sends the list of exports, in parts if it is long.
    async fn list(&mut self) -> Result<(), End> {
        if let Some(only) = self.without_tls() {
            self.list_one(&ExportSummary { name: only.name(), description: "" }).await?;
            self.handshake.listed(&mut self.output);
            return Ok(());
        }
        match self.context.exports.naming().listed {
            ListedNames::All => self.list_all().await?,
            ListedNames::Denied => {
                self.handshake.list_denied(&mut self.output);
                return Ok(());
            }
            ListedNames::None => {}
            ListedNames::Default => {
                let name = self.context.exports.default_name().await;
                self.list_name(&name, "").await?;
            }
            ListedNames::These => {
                for name in &self.context.exports.naming().names {
                    self.list_name(name, "").await?;
                }
            }
        }
        self.handshake.listed(&mut self.output);
        Ok(())
    }

    /// Sends the list of all exports that there are.
    async fn list_all(&mut self) -> Result<(), End> {
        let listed = self.context.exports.listed_on_demand().await;
        let mut made = HashSet::new();
        for export in self.context.exports.list() {
            if !export.policy().permits(&self.context.origin) {
                continue;
            }
            if listed.is_some() {
                // With a name that is not in the list, it could not be opened.
                if export.has_failed() {
                    continue;
                }
                made.insert(export.name().to_owned());
            }
            let description = export.description();
            let name = self.context.exports.local_name(&export);
            self.list_name(name, &description).await?;
        }
        for export in listed.iter().flat_map(|listed| &listed.exports) {
            let ListedExport { name, description } = export;
            if !made.contains(name) {
                self.list_name(name, description).await?;
            }
        }
        Ok(())
    }

    /// Adds an export that describes itself so.
    async fn list_name(&mut self, name: &str, own: &str) -> Result<(), End> {
        let description = self.context.exports.naming().describe(own.into());
        self.list_one(&ExportSummary { name, description: &description }).await
    }

    /// Returns the only export for the client, if it does not use TLS and gets another one then.
    fn without_tls(&self) -> Option<Arc<Export>> {
        let only = || self.context.exports.without_tls().cloned();
        if self.handshake.is_encrypted() { None } else { only() }
    }

    async fn list_one(&mut self, summary: &ExportSummary<'_>) -> Result<(), End> {
        self.handshake.list(summary, &mut self.output);
        match self.output.len() >= LIST_PART {
            true => self.send().await,
            false => Ok(()),
        }
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

/// The dirty bitmaps of an export.
struct Bitmaps<'a>(&'a dyn exports::Bitmaps);

impl nbd::Bitmaps for Bitmaps<'_> {
    fn exists(&self, name: &str) -> bool {
        self.0.exists(name)
    }

    fn names(&self, most: usize) -> Vec<String> {
        self.0.names(most)
    }
}

/// Returns the metadata context of this name.
fn context(export: &Export, name: ContextName) -> MetaContext {
    match name {
        ContextName::AllocationDepth => MetaContext::AllocationDepth,
        ContextName::DirtyBitmap(name) => {
            let mark = export.bitmaps().and_then(|bitmaps| bitmaps.find(&name));
            mark.map_or(MetaContext::Gone, MetaContext::DirtyBitmap)
        }
    }
}

/// An export that is open.
struct Opened {
    /// The exports among which it is.
    exports: Arc<Exports>,
    export: Arc<Export>,
    /// What the client may call it.
    name: String,
    device: Arc<dyn Device>,
    /// For a client that goes on to the transmission phase: its place in the quota of the export, and
    /// its port.
    used: Option<(Places, Arc<Port>)>,
    /// The client must not write.
    read_only: bool,
}

impl Opened {
    /// Returns what the client is told of the device.
    fn geometry(&self) -> Cow<'_, Geometry> {
        let geometry = self.device.geometry();
        if !self.export.is_private() && !self.read_only {
            return Cow::Borrowed(geometry);
        }
        let geometry = if self.read_only { geometry.read_only() } else { geometry.clone() };
        // Another connection to a private export would have another disk.
        let multi_conn = geometry.capabilities.multi_conn && !self.export.is_private();
        let capabilities = Capabilities { multi_conn, ..geometry.capabilities };
        Cow::Owned(Geometry { capabilities, ..geometry })
    }
}

/// Why an export is not available.
enum Unavailable {
    /// It does not exist.
    Unknown,
    /// It is not for this client, or not now, with the reason.
    Denied(&'static str),
    /// It is for clients that use TLS, and this one does not.
    NeedsTls,
    /// It cannot be used now.
    Failed(String),
}

async fn open(
    context: &Context,
    tls: bool,
    name: &str,
    purpose: Purpose,
) -> Result<Opened, Unavailable> {
    let exports = &context.exports;
    if !tls && let Some(only) = exports.without_tls() {
        return use_export(context, exports, only.clone(), tls, purpose).await;
    }
    if let Some((exports, asked)) = by_secret(context, tls, name) {
        let export = exports.named(asked).ok_or(Unavailable::Unknown)?;
        let opened = use_export(context, &exports, export, tls, purpose).await?;
        // By the other name it would not find it again.
        return Ok(Opened { name: name.to_owned(), ..opened });
    }
    let naming = exports.naming();
    if !naming.permits(name) {
        return Err(Unavailable::Unknown);
    }
    let name = naming.stands_for(name);
    let default = match name {
        "" => exports.default_on_demand().await,
        _ => None,
    };
    let Requested { export, closed } = exports.request(default.as_deref().unwrap_or(name));
    closed.iter().for_each(|closed| exports.places().forget(closed));
    let export = export.ok_or(Unavailable::Unknown)?;
    use_export(context, exports, export, tls, purpose).await
}

/// Returns the exports that a client gets by a secret in the name that it asks for, and the rest of the name.
fn by_secret<'a>(context: &Context, tls: bool, name: &'a str) -> Option<(Arc<Exports>, &'a str)> {
    let entrance = context.entrance.as_ref()?;
    if context.exports.named(name).is_some() || can_be_overheard(&context.origin, tls) {
        return None;
    }
    entrance.exports_by_name(name)
}

async fn use_export(
    context: &Context,
    exports: &Arc<Exports>,
    export: Arc<Export>,
    tls: bool,
    purpose: Purpose,
) -> Result<Opened, Unavailable> {
    if !export.policy().permits(&context.origin) {
        return Err(Unavailable::Denied("the export is not for this client"));
    }
    if export.policy().tls && !tls {
        return Err(Unavailable::NeedsTls);
    }
    let name = exports.local_name(&export).to_owned();
    let exports = exports.clone();
    let export = match purpose {
        Purpose::Transmission => export.for_client(Client { tls, peer: context.peer.clone() }),
        _ => export,
    };
    let device = || async {
        export.disk_for_clients().await.map_err(|failed| Unavailable::Failed(failed.to_string()))
    };
    if purpose != Purpose::Transmission {
        let device = device().await?;
        let read_only = export.denies_writes() || export.is_read_only();
        return Ok(Opened { exports, export, name, device, used: None, read_only });
    }
    let full = |Full| {
        Unavailable::Denied("the export has as many connections as it may have; try again later")
    };
    let own = export.policy().try_enter().map_err(full)?;
    let place = (exports.places().try_enter(export.name()).map_err(full)?, own);
    let delay = export.policy().delays.open;
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let (device, port) = loop {
        let device = device().await?;
        // It may have been closed in between, because nobody used it.
        if let Some(port) = export.enter() {
            break (device, port);
        }
    };
    let read_only = export.denies_writes() || export.is_read_only();
    Ok(Opened { exports, export, name, device, used: Some((place, port)), read_only })
}
