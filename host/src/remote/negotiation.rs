//! The client's side of the handshake: fixed newstyle, structured replies, base:allocation, GO.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{ConnectError, MAX_PAYLOAD, Violation};
use crate::block::{BlockSizes, Capabilities, Geometry, MAX_SIZE};
use crate::nbd::codes::{
    BASE_ALLOCATION, InfoType, OptionCode, OptionReplyType, handshake_flag, magic,
    transmission_flag,
};

/// The longest reply to an option, in bytes: a name of an export and its description fit (spec:
/// "Conventions").
const MAX_REPLY: u32 = 16 << 10;

/// The maximum number of replies to an option.
const MAX_REPLIES: usize = 64;

/// How a server replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Style {
    /// Structured replies were agreed on.
    pub(super) structured: bool,
    /// The number of the metadata context base:allocation, if it was agreed on.
    pub(super) allocation: Option<u32>,
}

/// The result of the handshake.
pub(super) struct Agreed {
    pub(super) geometry: Geometry,
    pub(super) style: Style,
}

/// A reply to an option.
struct Reply {
    kind: OptionReplyType,
    data: Vec<u8>,
}

/// Negotiates until the transmission phase.
pub(super) async fn negotiate<R, W>(
    reader: &mut R,
    writer: &mut W,
    name: &str,
) -> Result<Agreed, ConnectError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    if reader.read_u64().await? != magic::INIT || reader.read_u64().await? != magic::OPTION {
        return Err(Violation::Greeting.into());
    }
    let offered = reader.read_u16().await?;
    if offered & handshake_flag::FIXED_NEWSTYLE == 0 {
        return Err(Violation::NotFixed.into());
    }
    let flags = offered & (handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES);
    writer.write_u32(flags.into()).await?;
    let mut options = Options { reader, writer };
    let structured = options.ask_for_structured_replies().await?;
    let allocation = match structured {
        true => options.ask_for_allocation(name).await?,
        false => None,
    };
    let geometry = options.go(name).await?;
    Ok(Agreed { geometry, style: Style { structured, allocation } })
}

/// Option haggling.
struct Options<'a, R, W> {
    reader: &'a mut R,
    writer: &'a mut W,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Options<'_, R, W> {
    async fn send(&mut self, option: OptionCode, data: &[u8]) -> Result<(), ConnectError> {
        let mut message = Vec::with_capacity(16 + data.len());
        message.extend(magic::OPTION.to_be_bytes());
        message.extend(option.0.to_be_bytes());
        // Names of exports are much shorter.
        message.extend(u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
        message.extend(data);
        self.writer.write_all(&message).await?;
        Ok(self.writer.flush().await?)
    }

    /// Receives the next reply to an option.
    async fn receive(&mut self, option: OptionCode) -> Result<Reply, ConnectError> {
        let found = self.reader.read_u64().await?;
        if found != magic::OPTION_REPLY {
            return Err(Violation::OptionReplyMagic(found).into());
        }
        let of = OptionCode(self.reader.read_u32().await?);
        if of != option {
            return Err(Violation::OtherOption(of).into());
        }
        let kind = OptionReplyType(self.reader.read_u32().await?);
        let length = self.reader.read_u32().await?;
        if length > MAX_REPLY {
            return Err(Violation::OptionReplyLength(length).into());
        }
        let mut data = vec![0; length as usize];
        self.reader.read_exact(&mut data).await?;
        Ok(Reply { kind, data })
    }

    /// Receives the replies to an option up to the one that ends them, which is returned if it is an
    /// error.
    async fn receive_all(
        &mut self,
        option: OptionCode,
        mut each: impl FnMut(Reply) -> Result<(), Violation>,
    ) -> Result<Option<Reply>, ConnectError> {
        for _ in 0..MAX_REPLIES {
            let reply = self.receive(option).await?;
            match reply.kind {
                OptionReplyType::ACK => return Ok(None),
                kind if kind.0 >> 31 == 1 => return Ok(Some(reply)),
                _ => each(reply)?,
            }
        }
        Err(Violation::OptionReplies.into())
    }

    /// Returns true if the server agrees.
    async fn ask_for_structured_replies(&mut self) -> Result<bool, ConnectError> {
        let option = OptionCode::STRUCTURED_REPLY;
        self.send(option, &[]).await?;
        let none = |reply: Reply| Err(Violation::OptionReply(reply.kind));
        Ok(self.receive_all(option, none).await?.is_none())
    }

    /// Returns the number of the context base:allocation, if the server has it.
    async fn ask_for_allocation(&mut self, name: &str) -> Result<Option<u32>, ConnectError> {
        let option = OptionCode::SET_META_CONTEXT;
        let mut data = string(name);
        data.extend(1_u32.to_be_bytes());
        data.extend(string(BASE_ALLOCATION));
        self.send(option, &data).await?;
        let mut number = None;
        let set = |reply: Reply| match (reply.kind, reply.data.split_first_chunk()) {
            (OptionReplyType::META_CONTEXT, Some((id, name))) => {
                if name == BASE_ALLOCATION.as_bytes() {
                    number = Some(u32::from_be_bytes(*id));
                }
                Ok(())
            }
            (OptionReplyType::META_CONTEXT, None) => {
                Err(Violation::OptionReplyLength(reply.data.len() as u32))
            }
            (kind, _) => Err(Violation::OptionReply(kind)),
        };
        let refused = self.receive_all(option, set).await?;
        Ok(number.filter(|_| refused.is_none()))
    }

    /// Chooses the export. Returns its properties.
    async fn go(&mut self, name: &str) -> Result<Geometry, ConnectError> {
        let option = OptionCode::GO;
        let mut data = string(name);
        data.extend(0_u16.to_be_bytes());
        self.send(option, &data).await?;
        let mut export = None;
        let set = |reply: Reply| {
            let wrong = Violation::OptionReplyLength(reply.data.len() as u32);
            if reply.kind != OptionReplyType::INFO {
                return Err(Violation::OptionReply(reply.kind));
            }
            let (kind, rest) = reply.data.split_first_chunk().ok_or(wrong)?;
            if InfoType(u16::from_be_bytes(*kind)) == InfoType::EXPORT {
                let (size, flags) = rest.split_first_chunk().ok_or(wrong)?;
                let flags = flags.try_into().map_err(|_| wrong)?;
                export = Some((u64::from_be_bytes(*size), u16::from_be_bytes(flags)));
            }
            Ok(())
        };
        if let Some(Reply { kind, data }) = self.receive_all(option, set).await? {
            return Err(ConnectError::Refused { reply: kind, message: printable(&data) });
        }
        let (size, flags) = export.ok_or(Violation::NoSize)?;
        if size > MAX_SIZE {
            return Err(Violation::Size(size).into());
        }
        Ok(geometry(size, flags))
    }
}

/// Returns a string as it is sent.
fn string(text: &str) -> Vec<u8> {
    let mut bytes = u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

/// Returns a text of the server for people: it must not move a cursor.
pub(super) fn printable(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(4096)];
    String::from_utf8_lossy(shown).replace(char::is_control, "?")
}

fn geometry(size: u64, flags: u16) -> Geometry {
    let has = |flag: u16| flags & flag != 0;
    let writable = !has(transmission_flag::READ_ONLY);
    let zero = writable && has(transmission_flag::SEND_WRITE_ZEROES);
    Geometry {
        size,
        block_sizes: BlockSizes { minimum: 1, preferred: 4096, maximum: MAX_PAYLOAD },
        capabilities: Capabilities {
            writable,
            flush: has(transmission_flag::SEND_FLUSH),
            fua: has(transmission_flag::SEND_FUA),
            trim: writable && has(transmission_flag::SEND_TRIM),
            zero,
            fast_zero: zero && has(transmission_flag::SEND_FAST_ZERO),
            cache: has(transmission_flag::SEND_CACHE),
            multi_conn: has(transmission_flag::CAN_MULTI_CONN),
            rotational: has(transmission_flag::ROTATIONAL),
        },
        description: String::new(),
    }
}
