//! A running instance: calls the contract's functions and checks every answer.

mod direct;

use std::mem;
use std::sync::Arc;

use wasmtime::Store;
use wasmtime::component::{ComponentNamedList, Lift, Lower, TypedFunc, WasmList};

use super::bindings::{self, Capabilities, Description, LentChunk, OwnedChunk, ZeroOptions};
use super::check::{
    Disk, Sharing, check_chunk_count, check_chunks, check_description, check_disk, check_extents,
    refusal,
};
use super::direct::Pages;
use super::executable::Executable;
use super::fault::Fault;
use super::functions::{Answer, Functions};
use super::limits::Limits;
use super::log_stream::Output;
use super::memory::MemoryBudget;
use super::region::{self, Memories};
use super::state::State;
use crate::block::{Chunk, ErrorCode, Extent, MAX_TRANSFER, Span, Status};

/// How many bytes one call may make the host copy out of the guest: the longest read, plus some
/// room for the lists around it.
const COPY_LIMIT: usize = MAX_TRANSFER as usize + (1 << 20);

/// A chunk returned by the last read.
enum Piece {
    Lent(WasmList<u8>),
    Owned(Vec<u8>),
    Hole(u32),
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
    /// Whether the disk lends chunks, as returned by `open`.
    lends_chunks: bool,
    size: u64,
    minimum_block: u32,
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
            let limit = store.data().share().limit();
            let error = wasmtime::format_err!("there is no address space for another instance");
            return Err(Fault::OutOfMemory { limit, error });
        }
        store.set_hostcall_fuel(COPY_LIMIT);
        store.set_epoch_deadline(1);
        let limits = executable.limits();
        let (instance, memories) = {
            let instantiate = executable.pre().instantiate_async(&mut store);
            region::collect(limits.within(instantiate)).await
        };
        let instance = instance?;
        let instance = instance.map_err(|error| {
            let limit = out_of_memory(&mut store, &error);
            match limit.or_else(|| memories.is_exhausted().then(|| store.data().share().limit())) {
                Some(limit) => Fault::OutOfMemory { limit, error },
                None => Fault::Start(error),
            }
        })?;
        let functions = Functions::find(&mut store, &instance).map_err(Fault::Start)?;
        Ok(Self {
            store,
            functions,
            limits,
            lends_chunks: false,
            size: 0,
            minimum_block: 1,
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
        let description = self.call(function, ()).await?;
        check_description(description)
            .map_err(|breach| Fault::Breach { function: "describe", breach })
    }

    /// Opens the disk.
    ///
    /// # Errors
    ///
    /// The inner error is the component's message to the user who chose the parameters.
    pub async fn open(
        &mut self,
        export_name: &str,
        read_only: bool,
        parameters: &[(String, String)],
    ) -> Result<Result<Disk, String>, Fault> {
        let function = self.functions.open;
        let arguments = (export_name.to_owned(), read_only, parameters.to_vec());
        let disk = match self.call(function, arguments).await? {
            Ok(disk) => disk,
            Err(text) => return Ok(Err(refusal(&text))),
        };
        let whole_size = disk.size;
        let lends_chunks = disk.capabilities & Capabilities::LENDS_CHUNKS;
        self.lends_chunks = lends_chunks == Capabilities::LENDS_CHUNKS;
        let mut disk =
            check_disk(&disk).map_err(|breach| Fault::Breach { function: "open", breach })?;
        self.size = disk.size;
        self.minimum_block = disk.block_sizes.minimum;
        // A write to a page of one instance is not visible to other instances that serve the same
        // data.
        if let Some(direct) = self.functions.direct
            && disk.sharing != Sharing::Interchangeable
        {
            let page_size = self.call(direct.page_size, ()).await?;
            let memories = mem::take(&mut self.memories);
            let pages = Pages::new(page_size, whole_size, disk.sharing, memories)
                .map_err(|breach| Fault::Breach { function: "page-size", breach })?;
            self.pages = Some(pages);
            disk.direct_access = true;
        }
        self.memory_at_open = self.store.data().share().held();
        Ok(Ok(disk))
    }

    /// Returns whether the instance was refused memory since the last call began, and clears that
    /// state.
    pub fn was_refused_memory(&mut self) -> bool {
        self.store.data_mut().share_mut().take_refusal()
    }

    /// Returns whether its memory has grown since the disk was opened.
    pub fn has_grown(&self) -> bool {
        self.store.data().share().held() > self.memory_at_open
    }

    /// Reads a range. The data is available from [`Self::chunk`] until the next call.
    pub async fn read(&mut self, offset: u64, length: u32) -> Result<Result<(), ErrorCode>, Fault> {
        let answer = if self.lends_chunks {
            self.read_lent(offset, length).await?
        } else {
            self.read_owned(offset, length).await?
        };
        if let Err(code) = answer {
            return Ok(Err(not_fast(code)));
        }
        check_chunks(self.pieces.iter().map(Piece::length), length)
            .map_err(|breach| Fault::Breach { function: "read", breach })?;
        Ok(Ok(()))
    }

    async fn read_lent(&mut self, offset: u64, length: u32) -> Result<Answer<()>, Fault> {
        let function = self.functions.read_lent;
        let chunks = match self.call(function, (offset, length)).await? {
            Ok(chunks) => chunks,
            Err(code) => return Ok(Err(code)),
        };
        check_chunk_count(chunks.len())
            .map_err(|breach| Fault::Breach { function: "read", breach })?;
        for chunk in chunks.iter(&mut self.store).map_err(Fault::Trap)? {
            self.pieces.push(match chunk.map_err(Fault::Trap)? {
                LentChunk::Data(list) => Piece::Lent(list),
                LentChunk::Hole(length) => Piece::Hole(length),
            });
        }
        Ok(Ok(()))
    }

    async fn read_owned(&mut self, offset: u64, length: u32) -> Result<Answer<()>, Fault> {
        let function = self.functions.read_owned;
        let chunks = match self.call(function, (offset, length)).await? {
            Ok(chunks) => chunks,
            Err(code) => return Ok(Err(code)),
        };
        self.pieces.extend(chunks.into_iter().map(|chunk| match chunk {
            OwnedChunk::Data(bytes) => Piece::Owned(bytes),
            OwnedChunk::Hole(length) => Piece::Hole(length),
        }));
        Ok(Ok(()))
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
    ) -> Result<Result<(), ErrorCode>, Fault> {
        let span = Span { offset, length: data.len() as u64 };
        if self.map_pages(span).await?
            && let Some(resident) = self.resident(span)
            && resident.length() == span.length
        {
            self.write_resident(resident, data);
            return Ok(Ok(()));
        }
        let function = self
            .functions
            .write
            .typed::<(u64, &[u8], bool), (Answer<()>,)>(&self.store)
            .map_err(Fault::Trap)?;
        Ok(self.call(function, (offset, data, fua)).await?.map_err(not_fast))
    }

    /// Zeroes a span.
    pub async fn zero(
        &mut self,
        span: Span,
        fua: bool,
        keep_allocated: bool,
        fast: bool,
    ) -> Result<Result<(), ErrorCode>, Fault> {
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
        let answer = self.call(function, (span.offset, span.length, options)).await?;
        Ok(answer.map_err(|code| if fast { code.into() } else { not_fast(code) }))
    }

    /// Trims a span.
    pub async fn trim(&mut self, span: Span, fua: bool) -> Result<Result<(), ErrorCode>, Fault> {
        self.forget_pages(span);
        let function = self.functions.trim;
        let answer = self.call(function, (span.offset, span.length, fua)).await?;
        Ok(answer.map_err(not_fast))
    }

    /// Flushes the disk.
    pub async fn flush(&mut self) -> Result<Result<(), ErrorCode>, Fault> {
        let function = self.functions.flush;
        Ok(self.call(function, ()).await?.map_err(not_fast))
    }

    /// Asks the component to make a span fast to read.
    pub async fn cache(&mut self, span: Span) -> Result<Result<(), ErrorCode>, Fault> {
        let function = self.functions.cache;
        Ok(self.call(function, (span.offset, span.length)).await?.map_err(not_fast))
    }

    /// Returns the extents that start at the beginning of the span: at least one, contiguous, and
    /// within the disk. They may end before the end of the span, or beyond it.
    pub async fn extents(&mut self, span: Span) -> Result<Result<Vec<Extent>, ErrorCode>, Fault> {
        let function = self.functions.extents;
        let extents = match self.call(function, (span.offset, span.length)).await? {
            Ok(extents) => extents,
            Err(code) => return Ok(Err(not_fast(code))),
        };
        check_extents(&extents, self.size - span.offset, self.minimum_block)
            .map_err(|breach| Fault::Breach { function: "extents", breach })?;
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

    /// Returns how many bytes it stores for the contents of the disk.
    pub async fn stored(&mut self) -> Result<u64, Fault> {
        let function = self.functions.stored;
        self.call(function, ()).await
    }

    async fn call<P, R>(&mut self, function: TypedFunc<P, (R,)>, arguments: P) -> Result<R, Fault>
    where
        P: ComponentNamedList + Lower,
        (R,): ComponentNamedList + Lift + 'static,
    {
        self.pieces.clear();
        self.store.data_mut().share_mut().take_refusal();
        self.store.set_epoch_deadline(1);
        let call = function.call_async(&mut self.store, arguments);
        match self.limits.within(call).await? {
            Ok((answer,)) => Ok(answer),
            Err(error) => Err(match out_of_memory(&mut self.store, &error) {
                Some(limit) => Fault::OutOfMemory { limit, error },
                None => Fault::Trap(error),
            }),
        }
    }
}

/// If an instance failed because it was refused memory, returns the limit.
fn out_of_memory(store: &mut Store<State>, error: &wasmtime::Error) -> Option<u64> {
    let share = store.data_mut().share_mut();
    let refused_by_system = error.downcast_ref() == Some(&rustix::io::Errno::NOMEM)
        || error.is::<wasmtime::OutOfMemory>();
    (share.take_refusal() || refused_by_system).then(|| share.limit())
}

/// Converts an error code for anything but a fast zero, to which alone ENOTSUP is a valid answer.
fn not_fast(code: bindings::ErrorCode) -> ErrorCode {
    match code {
        bindings::ErrorCode::NotSup => ErrorCode::Inval,
        code => code.into(),
    }
}
