//! A running instance: calls the contract's functions and checks every answer.

mod control;
mod direct;
mod events;
mod listing;
mod route;

use std::mem;
use std::sync::Arc;

use wasmtime::Store;
use wasmtime::component::{ComponentNamedList, Lift, Lower, TypedFunc, WasmList};

use super::bindings::{self, LentChunk, OwnedChunk, ZeroOptions};
use super::breach::Breach;
use super::call::Call;
use super::check::{
    Description, Disk, Sharing, check_chunk_count, check_chunks, check_description, check_disk,
    check_error, check_extents, refusal,
};
use super::direct::Pages;
use super::executable::Executable;
use super::fault::{Fault, Limit};
use super::functions::{Answer, Functions, Read};
use super::limits::Limits;
use super::log_stream::Output;
use super::lower::Below;
use super::memory::MemoryBudget;
use super::region::{self, Memories};
use super::state::State;
use crate::block::{Chunk, Error, ErrorCode, Extent, MAX_TRANSFER, Operation, Span, Status};
use crate::parameters::{Argument, outputs};

/// How many bytes one call may make the host copy out of the guest: the longest read, plus some
/// room for the lists around it.
const COPY_LIMIT: usize = MAX_TRANSFER as usize + (1 << 20);

/// What a component is told of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// The connection is encrypted.
    pub tls: bool,
    /// Where it comes from, for people.
    pub peer: Arc<str>,
}

/// A chunk returned by the last read.
enum Piece {
    Lent(WasmList<u8>),
    Owned(Vec<u8>),
    Hole(u32),
}

impl From<OwnedChunk> for Piece {
    fn from(chunk: OwnedChunk) -> Self {
        match chunk {
            OwnedChunk::Data(bytes) => Self::Owned(bytes),
            OwnedChunk::Hole(length) => Self::Hole(length),
        }
    }
}

impl Piece {
    fn length(&self) -> u64 {
        match self {
            Self::Lent(list) => list.len() as u64,
            Self::Owned(bytes) => bytes.len() as u64,
            Self::Hole(length) => u64::from(*length),
        }
    }
}

/// A running instance. After a [`Fault`] it must not be used again, only dropped.
///
/// The futures of its methods must be driven to completion: dropping one early leaves the guest in
/// the middle of a call.
pub struct Instance {
    store: Store<State>,
    functions: Functions,
    limits: Limits,
    size: u64,
    minimum_block: u32,
    client: Option<Client>,
    /// How many bytes of the budget it held when the disk had been opened.
    memory_at_open: u64,
    /// What the last `read` returned.
    pieces: Vec<Piece>,
    /// The pages that can be accessed without a call, if the component supports that.
    pages: Option<Pages>,
    /// The memories that those pages may be in, until the disk is open.
    memories: Memories,
}

impl Instance {
    /// See [`Component::start`](super::Component::start).
    pub(super) async fn start(
        executable: &Executable,
        budget: MemoryBudget,
    ) -> Result<Self, Fault> {
        let mut store = executable.store(budget);
        if !store.data_mut().share_mut().take_stack() {
            let limit = Limit::Budget(store.data().share().limit());
            let error = wasmtime::format_err!("there is no address space for another instance");
            return Err(Fault::OutOfMemory { call: None, limit, error });
        }
        store.set_hostcall_fuel(COPY_LIMIT);
        store.set_epoch_deadline(1);
        let limits = executable.limits();
        let (instance, memories) = {
            let instantiate = executable.pre().instantiate_async(&mut store);
            region::collect(limits.within(None, instantiate)).await
        };
        let instance = instance?;
        let instance = instance.map_err(|error| {
            let limit = out_of_memory(&mut store, &error);
            let budget = || Limit::Budget(store.data().share().limit());
            match limit.or_else(|| memories.is_exhausted().then(budget)) {
                Some(limit) => Fault::OutOfMemory { call: None, limit, error },
                None => Fault::Start(error),
            }
        })?;
        let functions = Functions::find(&mut store, &instance).map_err(Fault::Start)?;
        Ok(Self {
            store,
            functions,
            limits,
            size: 0,
            minimum_block: 1,
            client: None,
            memory_at_open: 0,
            pieces: Vec::new(),
            pages: None,
            memories,
        })
    }

    /// Turns an instance that has not opened a disk into one that draws on another budget and logs
    /// to another output. Returns `None` if the budget does not have the memory for it.
    pub(super) fn reuse(mut self, budget: &MemoryBudget, output: &Arc<Output>) -> Option<Self> {
        if !self.store.data_mut().share_mut().move_to(budget) {
            return None;
        }
        self.store.data().log().redirect(output);
        Some(self)
    }

    /// Asks the component for its description.
    ///
    /// # Errors
    ///
    /// Returns a fault if the call fails or the description, such as a parameter name, breaks the
    /// contract.
    pub async fn describe(&mut self) -> Result<Description, Fault> {
        let function = self.functions.describe;
        let description = self.call(Call::Describe, function, ()).await?;
        check_description(description).map_err(breach_of(Call::Describe))
    }

    /// Lets the instance use lower devices. Those that are arguments of its `open` have their numbers in
    /// the order of the arguments.
    pub fn stand_on(&mut self, below: Arc<dyn Below>) {
        self.store.data_mut().stand_on(below);
    }

    /// Tells the instance, when it opens the disk, that this is the only client.
    pub fn serve_only(&mut self, client: &Client) {
        self.client = Some(client.clone());
    }

    /// Opens the disk.
    ///
    /// # Errors
    ///
    /// The inner error is the component's message to the user who chose the arguments.
    pub async fn open(
        &mut self,
        export_name: &str,
        read_only: bool,
        arguments: &[Argument],
    ) -> Result<Result<Disk, String>, Fault> {
        let function = self.functions.open;
        self.store.data_mut().write_to(outputs(arguments).cloned().collect());
        let request = self.open_request(export_name, read_only, arguments);
        let opened = match self.call(Call::Open, function, (request,)).await? {
            Ok(opened) => opened,
            Err(error) => return Ok(Err(refusal(error))),
        };
        let stripe = match self.functions.sharding {
            Some(sharding) => self.call(Call::StripeSize, sharding.stripe_size, ()).await?,
            None => 0,
        };
        let call = |breach: &Breach| match breach {
            Breach::StripeSize(_) | Breach::StripesInterchangeable(_) => Call::StripeSize,
            _ => Call::Open,
        };
        let mut disk = check_disk(&opened, stripe)
            .map_err(|breach| Fault::Breach { call: call(&breach), breach })?;
        self.size = disk.size;
        self.minimum_block = disk.block_sizes.minimum;
        if disk.size < opened.size {
            self.store.data().log().line(
                tracing::Level::WARN,
                &format!(
                    "{} of the {} bytes of the disk are served: the size is not a multiple of the \
                     minimum block of {} bytes",
                    disk.size, opened.size, self.minimum_block
                ),
            );
        }
        disk.rules = self.rules().await?;
        if disk.rules.is_some() && stripe > 0 {
            let breach = Breach::StripesRouted(stripe);
            return Err(Fault::Breach { call: Call::StripeSize, breach });
        }
        if let Some(commands) = self.commands().await? {
            if disk.sharing != Sharing::Exclusive {
                return Err(breach_of(Call::Commands)(Breach::CommandsShared));
            }
            disk.commands = commands;
        }
        disk.events = self.functions.events.is_some();
        if disk.events && disk.sharing != Sharing::Exclusive {
            return Err(breach_of(Call::Open)(Breach::EventsShared));
        }
        // A write to a page of one instance is not visible to other instances that serve the same
        // data.
        if let Some(direct) = self.functions.direct
            && disk.sharing != Sharing::Interchangeable
        {
            let page_size = self.call(Call::PageSize, direct.page_size, ()).await?;
            let memories = mem::take(&mut self.memories);
            let pages = Pages::new(page_size, opened.size, disk.sharing, memories)
                .map_err(breach_of(Call::PageSize))?;
            self.pages = Some(pages);
            disk.direct_access = true;
        }
        self.memory_at_open = self.store.data().share().held();
        Ok(Ok(disk))
    }

    /// Returns whether the instance was refused memory since the last call began, and clears that
    /// state.
    pub fn was_refused_memory(&mut self) -> bool {
        matches!(self.store.data_mut().share_mut().take_refusal(), Some(Limit::Budget(_)))
    }

    /// Returns whether its memory has grown since the disk was opened.
    pub fn has_grown(&self) -> bool {
        self.store.data().share().held() > self.memory_at_open
    }

    /// Reads a range. The data is available from [`Self::chunk`] until the next call.
    pub async fn read(&mut self, offset: u64, length: u32) -> Result<Result<(), Error>, Fault> {
        let call = Call::Read(Span { offset, length: length.into() });
        let answer = match self.functions.read {
            Read::Lent(function) => match self.call(call, function, (offset, length)).await? {
                Ok(chunks) => {
                    self.take_lent(call, chunks)?;
                    Ok(())
                }
                Err(error) => Err(error),
            },
            Read::Owned(function) => {
                let chunks = self.call(call, function, (offset, length)).await?;
                chunks.map(|chunks| self.pieces.extend(chunks.into_iter().map(Piece::from)))
            }
        };
        if let Err(error) = answer {
            return Ok(Err(self.error(call, error)));
        }
        check_chunks(self.pieces.iter().map(Piece::length), length).map_err(breach_of(call))?;
        Ok(Ok(()))
    }

    fn take_lent(&mut self, call: Call, chunks: WasmList<LentChunk>) -> Result<(), Fault> {
        check_chunk_count(chunks.len()).map_err(breach_of(call))?;
        let trap = |error| Fault::Trap { call, error };
        for chunk in chunks.iter(&mut self.store).map_err(trap)? {
            self.pieces.push(match chunk.map_err(trap)? {
                LentChunk::Data(list) => Piece::Lent(list),
                LentChunk::Hole(length) => Piece::Hole(length),
            });
        }
        Ok(())
    }

    /// Returns a chunk of the last successful read. The chunks are in order and together as long as
    /// requested; `None` follows the last one.
    #[inline]
    pub fn chunk(&self, index: usize) -> Option<Chunk<'_>> {
        Some(match self.pieces.get(index)? {
            Piece::Lent(list) => Chunk::Data(list.as_le_slice(&self.store)),
            Piece::Owned(bytes) => Chunk::Data(bytes),
            Piece::Hole(length) => Chunk::Hole(*length),
        })
    }

    /// Writes data.
    pub async fn write(
        &mut self,
        offset: u64,
        data: &[u8],
        fua: bool,
    ) -> Result<Result<(), Error>, Fault> {
        let span = Span { offset, length: data.len() as u64 };
        if self.map_pages(span).await?
            && let Some(resident) = self.resident(span)
            && resident.length() == span.length
        {
            self.write_resident(resident, data);
            return Ok(Ok(()));
        }
        let call = Call::Write(span, fua);
        let function = self
            .functions
            .write
            .typed::<(u64, &[u8], bool), (Answer<()>,)>(&self.store)
            .map_err(|error| Fault::Trap { call, error })?;
        let answer = self.call(call, function, (offset, data, fua)).await?;
        Ok(answer.map_err(|error| self.error(call, error)))
    }

    /// Zeroes a span.
    pub async fn zero(
        &mut self,
        span: Span,
        fua: bool,
        keep_allocated: bool,
        fast: bool,
    ) -> Result<Result<(), Error>, Fault> {
        let mut options = ZeroOptions::default();
        if fua {
            options |= ZeroOptions::FUA;
        }
        if keep_allocated {
            options |= ZeroOptions::KEEP_ALLOCATED;
        }
        if fast {
            options |= ZeroOptions::FAST;
        }
        self.forget_pages(span);
        let function = self.functions.zero;
        let call = Call::Zero { span, fua, keep_allocated, fast };
        let answer = self.call(call, function, (span.offset, span.length, options)).await?;
        Ok(answer.map_err(|error| self.error(call, error)))
    }

    /// Trims a span.
    pub async fn trim(&mut self, span: Span, fua: bool) -> Result<Result<(), Error>, Fault> {
        self.forget_pages(span);
        let (call, function) = (Call::Trim(span, fua), self.functions.trim);
        let answer = self.call(call, function, (span.offset, span.length, fua)).await?;
        Ok(answer.map_err(|error| self.error(call, error)))
    }

    /// Flushes the disk.
    pub async fn flush(&mut self) -> Result<Result<(), Error>, Fault> {
        let (call, function) = (Call::Flush, self.functions.flush);
        let answer = self.call(call, function, ()).await?;
        Ok(answer.map_err(|error| self.error(call, error)))
    }

    /// Asks the component to make a span fast to read.
    pub async fn cache(&mut self, span: Span) -> Result<Result<(), Error>, Fault> {
        let (call, function) = (Call::Cache(span), self.functions.cache);
        let answer = self.call(call, function, (span.offset, span.length)).await?;
        Ok(answer.map_err(|error| self.error(call, error)))
    }

    /// Returns the extents that start at the beginning of the span: at least one, contiguous, and
    /// within the disk. They may end before the end of the span, or beyond it.
    pub async fn extents(&mut self, span: Span) -> Result<Result<Vec<Extent>, Error>, Fault> {
        let (call, function) = (Call::Extents(span), self.functions.extents);
        let extents = match self.call(call, function, (span.offset, span.length)).await? {
            Ok(extents) => extents,
            Err(error) => return Ok(Err(self.error(call, error))),
        };
        check_extents(&extents, self.size - span.offset, self.minimum_block)
            .map_err(breach_of(call))?;
        Ok(Ok(extents
            .into_iter()
            .map(|extent| Extent {
                length: extent.length,
                status: Status {
                    hole: extent.status & bindings::Status::HOLE == bindings::Status::HOLE,
                    zero: extent.status & bindings::Status::ZERO == bindings::Status::ZERO,
                },
            })
            .collect()))
    }

    /// Returns how many bytes it stores for the contents of a striped disk.
    pub async fn stored(&mut self) -> Result<u64, Fault> {
        match self.functions.sharding {
            Some(sharding) => self.call(Call::Stored, sharding.stored, ()).await,
            None => Ok(1),
        }
    }

    async fn call<P, R>(
        &mut self,
        call: Call,
        function: TypedFunc<P, (R,)>,
        arguments: P,
    ) -> Result<R, Fault>
    where
        P: ComponentNamedList + Lower,
        (R,): ComponentNamedList + Lift + 'static,
    {
        self.call_any(call, function, arguments).await.map(|(answer,)| answer)
    }

    /// Calls a function that returns something or nothing.
    async fn call_any<P, R>(
        &mut self,
        call: Call,
        function: TypedFunc<P, R>,
        arguments: P,
    ) -> Result<R, Fault>
    where
        P: ComponentNamedList + Lower,
        R: ComponentNamedList + Lift + 'static,
    {
        self.pieces.clear();
        self.store.data_mut().share_mut().take_refusal();
        self.store.set_epoch_deadline(1);
        let running = function.call_async(&mut self.store, arguments);
        match self.limits.within(Some(call), running).await? {
            Ok(answer) => Ok(answer),
            Err(error) => Err(match out_of_memory(&mut self.store, &error) {
                Some(limit) => Fault::OutOfMemory { call: Some(call), limit, error },
                None => Fault::Trap { call, error },
            }),
        }
    }

    /// Checks the error that a call returned, and logs its message.
    #[cold]
    fn error(&self, call: Call, said: bindings::Error) -> Error {
        let mut error = check_error(said);
        // It is an answer to `zero` alone.
        let zeroes = matches!(call, Call::Zero { .. } | Call::Route(Operation::Zero, _));
        if error.code == ErrorCode::NotSup && !zeroes {
            error.code = ErrorCode::Inval;
        }
        if let Some(message) = &error.message {
            let line = format!("{call} failed: {}: {message}", error.code);
            // It is an answer, and no malfunction.
            self.store.data().log().line(tracing::Level::INFO, &line);
        }
        error
    }
}

fn breach_of(call: Call) -> impl FnOnce(Breach) -> Fault {
    move |breach| Fault::Breach { call, breach }
}

/// If an instance failed because it was refused memory, returns the limit.
fn out_of_memory(store: &mut Store<State>, error: &wasmtime::Error) -> Option<Limit> {
    let share = store.data_mut().share_mut();
    let refused_by_system = error.downcast_ref() == Some(&rustix::io::Errno::NOMEM)
        || error.is::<wasmtime::OutOfMemory>();
    let budget = Limit::Budget(share.limit());
    share.take_refusal().or(refused_by_system.then_some(budget))
}
