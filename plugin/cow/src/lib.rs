//! A copy-on-write layer: a disk whose changes go to another one, like nbdkit's filter `cow`. It is
//! the base of snapshots and clones.
//!
//! Reads come from the device `base`, which is never changed, until a block is written. From then on the
//! block is on the device `overlay`, at the same offset. So an overlay is as large as the disk, and takes
//! as much space as there are blocks that were written; disks in memory and files are sparse.
//!
//! # Parameters
//!
//! - `base` is the disk beneath, and `overlay` the one for changes. If none is named, the host makes one
//!   in memory, and changes are lost when the disk is closed, as with nbdkit.
//! - `layer` is an overlay of an earlier disk, between the base and `overlay`; it is only read. It can be
//!   given several times, from the lowest to the highest. There may be up to 254 of them.
//! - `metadata` is a device on which it is recorded which blocks are where, so that the disk can be
//!   opened again. It has to have 4096 bytes and one byte for each block, and to begin with zeroes if it
//!   is new. Without it, the disk is forgotten when it is closed.
//! - `inherit` is the `metadata` of an earlier disk, whose overlays are those given by `layer`. A new
//!   disk begins with what that one held. It is only read, and not needed any more once there is
//!   `metadata`, where it is ignored.
//! - `cow-block-size` is the unit in which data are copied: a power of two from 4 KiB to 64 MiB. The
//!   default is that of the metadata, or 64 KiB. There may be up to 2^32 blocks.
//! - `cow-on-read=true` copies blocks to the overlay when they are read, and `cow-on-cache=true` when
//!   they are prefetched.
//!
//! The names of the last three are nbdkit's. Its `cow-on-read=/PATH` does not exist here, for components
//! see no files. A trim discards what is on the overlay; what is still in the base or a layer stays, where
//! nbdkit makes whole blocks read as zeroes.
//!
//! # Snapshots and clones
//!
//! A disk with its overlay and its metadata becomes a snapshot when it is closed: from then on both are
//! only read. Any number of disks can begin with it:
//!
//! ```text
//! --export first=cow,base=golden,overlay=o1,metadata=m1
//!
//! --export second=cow,base=golden,layer=o1,inherit=m1,overlay=o2,metadata=m2
//! --export clone=cow,base=golden,layer=o1,inherit=m1,overlay=o3
//! ```
//!
//! The map of an earlier disk is read when it is needed, in pages of 4096 blocks, unless there is
//! `metadata`, into which all of it is copied once. So a clone of a large disk is open at once. A page whose
//! blocks are all on one device takes 40 bytes of memory, others 4 KiB more. With blocks of 64 KiB, that
//! is at most 16 MiB for a disk of 1 TiB, and 160 KiB if all of it has been written.
//!
//! # Stable storage
//!
//! With `metadata`, a flush first flushes the overlay, then writes the changes of the map, and flushes the
//! device of those. So the map never tells of data that are not on stable storage. After a crash, all that
//! was flushed is there, and each other byte is either the old or the new one. If the overlay has failed
//! to flush, its data may be lost, so all later flushes fail, and the map stays as it was.
//!
//! # How requests are routed
//!
//! - A read has a segment for each run of blocks that are on the same device.
//! - A write goes to the overlay. Bytes that a write leaves out of its first and last block are copied
//!   there before, if the block is not on the overlay yet. When everything has succeeded, `done` marks
//!   the blocks. Granules are blocks, and a write locks them exclusively, so nobody sees a block between
//!   the copy and the mark. Zeroing is the same.
//! - A trim goes to the overlay for blocks that are there.
//! - A block that is on the overlay stays there, so the host is told of that as a stable route: from then
//!   on, requests within such blocks cost no call. Reads of other blocks have a stable route until the block
//!   is written. With `cow-on-read` they have none.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod map;
mod metadata;
mod pending;

use alloc::format;
use alloc::vec::Vec;
use core::ops::Range;

use memnbd_guest::{
    Backend, Capabilities, Description, Disk, Error, Filter, Lock, Lower, MAX_COPY, MAX_PARTS,
    MAX_SIZE, OpenRequest, Operation, Operations, Parameter, ParameterType, Place, Request,
    Results, Route, Rules, Value, set_route,
};

use map::{Layer, Map};
use metadata::{Header, Metadata};
use pending::Pending;

/// The size of blocks without the parameter.
const DEFAULT_BLOCK: u64 = 64 << 10;

/// The smallest block.
const MIN_BLOCK: u64 = 4096;

/// The most blocks of a disk.
const MAX_BLOCKS: u64 = 1 << 32;

/// The most overlays.
const MAX_OVERLAYS: usize = Layer::MAX as usize;

/// The longest read of a lower device by a component.
const MAX_READ: u32 = 1 << 20;

/// The most pages of the map whose routes the host is told of at once.
const MAX_ROUTES: usize = 16;

/// The most pages of the map that are read to report extents.
const MAX_EXTENTS_PAGES: u64 = 256;

/// The open disk.
#[derive(Clone, Debug)]
pub struct Cow {
    /// The base and the overlays, by their layer numbers.
    devices: Vec<Lower>,
    /// The overlay to which changes go; `None` if the disk is read-only.
    top: Option<Layer>,
    size: u64,
    block: u64,
    map: Map,
    /// The device on which changes of the map are stored.
    metadata: Option<Metadata>,
    /// The device with the parts of the map that are not in memory.
    source: Option<Metadata>,
    /// A flush of the overlay has failed, so data may be lost that the map tells of.
    lost: bool,
    on_read: bool,
    on_cache: bool,
    pending: Pending,
}

impl Cow {
    /// Returns the device of a layer.
    fn device(&self, layer: Layer) -> Lower {
        self.devices[usize::from(layer)]
    }

    /// Returns the blocks that a range touches.
    fn blocks(&self, offset: u64, length: u64) -> Range<u64> {
        offset / self.block..(offset + length).div_ceil(self.block)
    }

    /// Reads the parts of the map that tell of a range.
    fn load(&mut self, offset: u64, length: u64) -> Result<(), Error> {
        let pages = map::pages(&self.blocks(offset, length));
        match self.source {
            Some(source) => source.load(&mut self.map, pages),
            None => Ok(()),
        }
    }

    /// Returns the parts of a range that are on the same layer, with that.
    fn runs(&self, offset: u64, length: u64) -> impl Iterator<Item = (Range<u64>, Layer)> {
        let end = offset + length;
        let mut at = offset;
        core::iter::from_fn(move || {
            let start = at;
            (start < end).then(|| {
                let block = start / self.block;
                at = end.min(self.map.end_of_run(block, end.div_ceil(self.block)) * self.block);
                (start..at, self.map.layer(block))
            })
        })
    }

    /// Routes each run to the place that `place` returns for its offset and layer. If there are too
    /// many runs, what remains goes to `rest`, or is left out.
    fn route_runs(
        &self,
        request: &Request,
        rest: Option<Place>,
        place: impl Fn(u64, Layer) -> Place,
    ) -> Route {
        let mut route = Route::new();
        for (range, layer) in self.runs(request.offset, request.length) {
            if route.parts() == MAX_PARTS - 1 {
                if let Some(rest) = rest {
                    route.push(rest, request.end() - range.start);
                }
                break;
            }
            route.push(place(range.start, layer), range.end - range.start);
        }
        route
    }

    /// Returns true if all blocks are on the top overlay.
    fn is_on_top(&self, blocks: &Range<u64>) -> bool {
        let same = self.map.end_of_run(blocks.start, blocks.end) == blocks.end;
        same && Some(self.map.layer(blocks.start)) == self.top
    }

    /// Prepares the completion of a request that puts blocks on the top overlay, and returns its token.
    fn begin(&mut self, blocks: Range<u64>, top: Layer) -> Result<u64, Error> {
        for page in map::pages(&blocks) {
            self.map.insert(page, &[0])?;
        }
        self.map.make_room(&blocks, top)?;
        self.pending.add(blocks)
    }

    /// Routes a write or a zeroing to the overlay.
    fn route_change(&mut self, request: &Request) -> Result<Route, Error> {
        let top = self.top.ok_or(Error::EPERM)?;
        let overlay = self.device(top);
        let mut route = Route::lower(overlay.at(request.offset), request.length);
        let blocks = self.blocks(request.offset, request.length);
        if self.is_on_top(&blocks) {
            return Ok(route);
        }
        let (first, last) = (blocks.start, blocks.end - 1);
        let start = first * self.block;
        let end = (blocks.end * self.block).min(self.size);
        for (block, gap) in [(first, start..request.offset), (last, request.end()..end)] {
            let layer = self.map.layer(block);
            if !gap.is_empty() && layer != top {
                let (from, to) = (self.device(layer).at(gap.start), overlay.at(gap.start));
                route = route.copy(from, to, gap.end - gap.start);
            }
        }
        if request.fast && !route.copies.is_empty() {
            return Err(Error::ENOTSUP);
        }
        Ok(route.token(self.begin(blocks, top)?))
    }

    /// Routes a read or a prefetching that copies what is not on the top overlay. Returns `None` if there
    /// is nothing to copy, or too much.
    fn route_copying(&mut self, request: &Request) -> Result<Option<Route>, Error> {
        let Some(top) = self.top else { return Ok(None) };
        let blocks = self.blocks(request.offset, request.length);
        if self.is_on_top(&blocks) {
            return Ok(None);
        }
        let overlay = self.device(top);
        let mut route = Route::lower(overlay.at(request.offset), request.length);
        let start = blocks.start * self.block;
        let end = (blocks.end * self.block).min(self.size);
        for (run, layer) in self.runs(start, end - start) {
            let device = self.device(layer);
            let mut at = run.start;
            while layer != top && at < run.end {
                if route.parts() == MAX_PARTS {
                    return Ok(None);
                }
                let length = (run.end - at).min(MAX_COPY);
                route = route.copy(device.at(at), overlay.at(at), length);
                at += length;
            }
        }
        Ok(Some(route.token(self.begin(blocks, top)?)))
    }

    /// Routes a request to where its blocks are.
    fn route_nearest(&self, request: &Request, rest: Option<Place>) -> Route {
        self.route_runs(request, rest, |offset, layer| self.device(layer).at(offset).into())
    }

    /// Tells the host of the stable route of blocks that are all on the same layer.
    fn set_route(&self, blocks: &Range<u64>, layer: Layer) {
        let operations = match self.top {
            Some(top) if top == layer => Operations::ALL,
            _ => {
                let copied = [(self.on_read, Operation::Read), (self.on_cache, Operation::Cache)];
                let stable = copied.into_iter().filter(|(copies, _)| !copies);
                stable.fold(Operation::Extents.into(), |all: Operations, (_, one)| all | one)
            }
        };
        let start = blocks.start * self.block;
        let length = self.size.min(blocks.end * self.block) - start;
        set_route(operations, start, length, Some(self.device(layer).at(start)));
    }

    /// Tells the host of the stable routes of a request that was routed, though all of it is on the same
    /// layer: the host does not know these yet.
    fn set_routes(&self, request: &Request) {
        let blocks = self.blocks(request.offset, request.length);
        let layer = self.map.layer(blocks.start);
        let is_stable = Some(layer) == self.top
            || match request.operation {
                Operation::Read => !self.on_read,
                Operation::Cache => !self.on_cache,
                Operation::Extents => true,
                Operation::Write | Operation::Zero | Operation::Trim => false,
            };
        if !is_stable || self.map.end_of_run(blocks.start, blocks.end) != blocks.end {
            return;
        }
        for page in map::pages(&blocks).take(MAX_ROUTES) {
            let run = self.map.run_around(blocks.start.max(page * map::PAGE));
            self.set_route(&run, layer);
        }
    }

    /// Returns the map of the arguments: where changes are stored, and where what is not in memory
    /// comes from.
    fn open_metadata(
        request: &OpenRequest,
        header: Header,
        layers: usize,
    ) -> Result<(Option<Metadata>, Option<Metadata>), Error> {
        let opened = |name: &'static str, overlays: usize| {
            let Some(device) = request.device(name) else { return Ok(None) };
            let header = Header { overlays, ..header };
            let found = metadata::read_header(device, name)?;
            if let Some(found) = found
                && found != header
            {
                return Err(Error::EINVAL.because(format!(
                    "{name} is of a disk of {} bytes in blocks of {} with {} overlays; this one has \
                     {} bytes in blocks of {}, and {overlays} overlays are given",
                    found.size, found.block, found.overlays, header.size, header.block,
                )));
            }
            Ok(Some((Metadata::new(device, name, header)?, found.is_some())))
        };
        let metadata = opened("metadata", header.overlays)?;
        // A disk that is only read changes nothing.
        let stored = metadata.map(|(metadata, _)| metadata).filter(|_| !request.read_only);
        if let Some((metadata, true)) = metadata {
            return Ok((stored, Some(metadata)));
        }
        let source = match opened("inherit", layers)? {
            Some((_, false)) => {
                return Err(
                    Error::EINVAL.because("inherit has no map: it is the metadata of a disk")
                );
            }
            Some((source, true)) => Some(source),
            None => None,
        };
        let Some(metadata) = stored else { return Ok((None, source)) };
        metadata.create(header, source)?;
        Ok((Some(metadata), source.map(|_| metadata)))
    }

    /// Returns the size of blocks: that of the argument, or of the metadata.
    fn open_block(request: &OpenRequest) -> Result<u64, Error> {
        if let Some(block) = request.size("cow-block-size") {
            if !block.is_power_of_two() {
                return Err(Error::EINVAL
                    .because(format!("cow-block-size is {block}; it must be a power of two")));
            }
            return Ok(block);
        }
        for name in ["metadata", "inherit"] {
            if let Some(device) = request.device(name)
                && let Some(header) = metadata::read_header(device, name)?
            {
                let block = header.block;
                if !block.is_power_of_two() || !(MIN_BLOCK..=MAX_COPY).contains(&block) {
                    return Err(Error::EINVAL.because(format!(
                        "{name} has blocks of {block} bytes; they must be a power of two from 4096 to \
                         64 MiB"
                    )));
                }
                return Ok(block);
            }
        }
        Ok(DEFAULT_BLOCK)
    }
}

impl Backend for Cow {
    fn describe() -> Description {
        Description::new("cow", env!("CARGO_PKG_VERSION"), "a disk whose changes go to another one")
            .parameter(
                Parameter::device("base", "the device beneath, which is only read")
                    .unshared()
                    .required(),
            )
            .parameter(
                Parameter::device("overlay", "the device for changes, at least as large")
                    .scratch()
                    .unshared(),
            )
            .parameter(
                Parameter::device(
                    "layer",
                    "the overlay of an earlier disk, which is only read, from the lowest on",
                )
                .unshared()
                .repeatable(),
            )
            .parameter(
                Parameter::device("metadata", "the device for the map of the blocks")
                    .writes()
                    .unshared()
                    .default("the map is kept in memory"),
            )
            .parameter(
                Parameter::device("inherit", "the metadata of an earlier disk, to begin with")
                    .unshared(),
            )
            .parameter(
                Parameter::new(
                    "cow-block-size",
                    "the unit in which data are copied, a power of two",
                    ParameterType::Size(MIN_BLOCK, MAX_COPY),
                )
                .default("that of the metadata, or 64k"),
            )
            .parameter(
                Parameter::boolean("cow-on-read", "copy blocks to the overlay when they are read")
                    .default("false"),
            )
            .parameter(
                Parameter::boolean(
                    "cow-on-cache",
                    "copy blocks to the overlay when they are prefetched",
                )
                .default("false"),
            )
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        let overlay = request.device("overlay");
        let size = base.geometry().size;
        let mut devices = Vec::from([base]);
        devices.extend(request.values("layer").filter_map(|value| match value {
            Value::Device(device) => Some(*device),
            _ => None,
        }));
        let layers = devices.len() - 1;
        devices.extend(overlay);
        let overlays = devices.len() - 1;
        if overlays > MAX_OVERLAYS {
            return Err(Error::EINVAL.because(format!(
                "there are {overlays} overlays and layers; at most {MAX_OVERLAYS} are possible"
            )));
        }
        for (number, device) in devices.iter().enumerate().skip(1) {
            let space = device.geometry().size;
            if space < size {
                let name = if number > layers { "overlay" } else { "a layer" };
                return Err(Error::EINVAL.because(format!(
                    "{name} has {space} bytes; it must have at least the {size} bytes of base"
                )));
            }
        }
        let writable =
            |device: Lower| device.geometry().capabilities.contains(Capabilities::WRITABLE);
        let is_writable = overlay.is_some_and(writable);
        if !is_writable && !request.read_only {
            return Err(Error::EPERM.because("overlay must be writable"));
        }
        // An overlay that the host has made is as large as a disk can be.
        let is_kept = overlay.is_some_and(|overlay| overlay.geometry().size < MAX_SIZE);
        if !is_kept && request.device("metadata").is_some() {
            return Err(Error::EINVAL.because(
                "metadata tells what is on overlay, so the parameter \"overlay\" must name a device \
                 that is kept as well",
            ));
        }
        if !request.read_only && request.device("metadata").is_some_and(|device| !writable(device))
        {
            return Err(Error::EPERM.because("metadata must be writable"));
        }
        let block = Self::open_block(request)?;
        if size.div_ceil(block) > MAX_BLOCKS {
            return Err(Error::EINVAL.because(format!(
                "the disk has {} blocks of {block} bytes; at most {MAX_BLOCKS} are possible, with a \
                 larger cow-block-size",
                size.div_ceil(block)
            )));
        }
        let header = Header { block, size, overlays };
        let (metadata, source) = Self::open_metadata(request, header, layers)?;
        Ok(Self {
            devices,
            top: is_writable.then_some(overlays as Layer),
            size,
            block,
            map: Map::new(metadata.is_some()),
            metadata,
            source,
            lost: false,
            on_read: is_writable && request.boolean("cow-on-read").unwrap_or(false),
            on_cache: is_writable && request.boolean("cow-on-cache").unwrap_or(false),
            pending: Pending::default(),
        })
    }

    fn disk(&self) -> Disk {
        let devices = || self.devices.iter().map(|device| device.geometry());
        let minimum = devices().map(|device| device.minimum_block).max().unwrap_or(1);
        let divisors = self.size | self.block | u64::from(minimum);
        let mut disk = Disk::above(&self.devices[0].geometry());
        disk.minimum_block = 1 << divisors.trailing_zeros();
        disk.preferred_block = disk.preferred_block.max(self.block as u32).min(MAX_READ);
        disk.preferred_block = disk.preferred_block.max(disk.minimum_block);
        // For the parts of reads that are own.
        disk.maximum_transfer = MAX_READ;
        let caches = disk.capabilities.contains(Capabilities::CACHE) || self.on_cache;
        disk.capabilities = match self.top {
            Some(top) => Disk::above(&self.device(top).geometry()).capabilities,
            None => Capabilities::EXTENTS | Capabilities::MULTI_CONN,
        };
        disk.capabilities = disk.capabilities.without(Capabilities::CACHE);
        if caches {
            disk.capabilities |= Capabilities::CACHE;
        }
        if self.metadata.is_some() {
            disk.capabilities |= Capabilities::FLUSH;
        }
        disk
    }

    /// Reads the parts of requests that have too many runs for a route.
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.load(offset, buffer.len() as u64)?;
        for (range, layer) in self.runs(offset, buffer.len() as u64) {
            let part = (range.start - offset) as usize..(range.end - offset) as usize;
            self.device(layer).read(range.start, &mut buffer[part])?;
        }
        Ok(())
    }

    /// Makes the data durable, and then the map that tells where they are.
    fn flush(&mut self) -> Result<(), Error> {
        let (Some(top), Some(metadata)) = (self.top, self.metadata) else { return Ok(()) };
        if self.lost {
            return Err(Error::EIO.because(
                "overlay has failed to flush before, so data may be lost; the map on metadata is that \
                 of the last flush that succeeded",
            ));
        }
        if let Err(error) = self.device(top).flush() {
            self.lost = true;
            return Err(error);
        }
        metadata.store(&mut self.map)
    }
}

impl Filter for Cow {
    fn rules(&self) -> Rules {
        let exclusive = |yes| if yes { Lock::Exclusive } else { Lock::Shared };
        Rules {
            read: exclusive(self.on_read),
            cache: exclusive(self.on_cache),
            ..Rules::shared_or_exclusive(self.block)
        }
    }

    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        let mut request = *request;
        if request.operation == Operation::Extents {
            // A part of the answer is an answer, too.
            let most = MAX_EXTENTS_PAGES * map::PAGE * self.block;
            request.length = request.length.min(most);
        }
        let request = &request;
        self.load(request.offset, request.length)?;
        self.set_routes(request);
        Ok(match request.operation {
            Operation::Read => {
                let copying = if self.on_read { self.route_copying(request)? } else { None };
                copying.unwrap_or_else(|| self.route_nearest(request, Some(Place::Own)))
            }
            Operation::Cache => {
                let copying = if self.on_cache { self.route_copying(request)? } else { None };
                copying.unwrap_or_else(|| self.route_nearest(request, Some(Place::Hole)))
            }
            Operation::Extents => self.route_nearest(request, None),
            Operation::Trim => self.route_runs(request, Some(Place::Hole), |offset, layer| {
                let overlay = self.top.filter(|top| *top == layer);
                overlay.map_or(Place::Hole, |top| self.device(top).at(offset).into())
            }),
            Operation::Write | Operation::Zero => self.route_change(request)?,
        })
    }

    fn done(&mut self, token: u64, results: &Results) -> Result<(), Error> {
        let blocks = self.pending.remove(token).ok_or(Error::EIO)?;
        if results.succeeded()
            && let Some(top) = self.top
        {
            self.map.mark(&blocks, top);
            self.set_route(&blocks, top);
        }
        Ok(())
    }
}

memnbd_guest::filter!(Cow);

#[cfg(test)]
mod tests;
