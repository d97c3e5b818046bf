//! The map: which device each block is on.
//!
//! A block has a layer number in one byte: 0 is the base, k is overlay k. So a lookup costs the same
//! for any number of layers. The numbers are in pages of 4096 blocks, which exist once they are needed.
//! A page whose blocks are all on the same device takes 40 bytes.

use alloc::vec::Vec;
use core::ops::Range;

use memnbd_guest::Error;

/// The number of blocks of a page, which is also its length in bytes on the metadata device.
pub(crate) const PAGE: u64 = 4096;

/// The number of a layer.
pub(crate) type Layer = u8;

/// The map of a disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Map {
    /// The pages that exist, by their numbers in ascending order. A vector rather than a tree, because
    /// only a vector reports that there is no memory.
    pages: Vec<Page>,
    /// The map is also on a metadata device.
    is_stored: bool,
    /// The numbers of the pages that differ from those on the metadata device.
    dirty: Vec<u64>,
}

#[derive(Clone, Debug)]
struct Page {
    number: u64,
    layers: Layers,
    dirty: bool,
}

#[derive(Clone, Debug)]
enum Layers {
    /// All blocks are on this one.
    Same(Layer),
    /// The layer of each block, and how many of them are on the top one.
    Each(Vec<Layer>, u64),
}

/// Returns the pages of a range of blocks.
pub(crate) fn pages(blocks: &Range<u64>) -> Range<u64> {
    blocks.start / PAGE..blocks.end.div_ceil(PAGE)
}

/// Returns the part of `blocks` that is in a page, counted from the beginning of the page.
fn within(blocks: &Range<u64>, page: u64) -> Range<usize> {
    let start = blocks.start.max(page * PAGE) - page * PAGE;
    let end = blocks.end.min((page + 1) * PAGE) - page * PAGE;
    start as usize..end as usize
}

impl Map {
    /// Returns an empty map, which records its changes if it `is_stored`.
    pub(crate) fn new(is_stored: bool) -> Self {
        Self { is_stored, ..Self::default() }
    }

    fn find(&self, number: u64) -> Result<usize, usize> {
        // Mostly there are as many pages as the disk has, or there is one.
        match self.pages.get(number as usize) {
            Some(page) if page.number == number => Ok(number as usize),
            _ => self.pages.binary_search_by_key(&number, |page| page.number),
        }
    }

    /// Returns true if a page exists.
    pub(crate) fn contains(&self, number: u64) -> bool {
        self.find(number).is_ok()
    }

    /// Adds a page, of these layers, unless it exists. There are fewer in the last page of a disk.
    ///
    /// # Errors
    ///
    /// Returns `ENOMEM` if there is no memory for it.
    pub(crate) fn insert(&mut self, number: u64, layers: &[Layer]) -> Result<(), Error> {
        let Err(index) = self.find(number) else { return Ok(()) };
        let first = layers.first().copied().unwrap_or(0);
        let layers = if layers.iter().all(|layer| *layer == first) {
            Layers::Same(first)
        } else {
            let mut each = buffer()?;
            each[..layers.len()].copy_from_slice(layers);
            // Counted when the page is to be changed.
            Layers::Each(each, 0)
        };
        self.pages.try_reserve(1).map_err(|_| Error::ENOMEM)?;
        self.pages.insert(index, Page { number, layers, dirty: false });
        Ok(())
    }

    /// Returns the layer of a block. One in a page that does not exist is on the base.
    pub(crate) fn layer(&self, block: u64) -> Layer {
        let Ok(index) = self.find(block / PAGE) else { return 0 };
        match &self.pages[index].layers {
            Layers::Same(layer) => *layer,
            Layers::Each(each, _) => each[(block % PAGE) as usize],
        }
    }

    /// Returns the first block after `block` that is on another layer, or `end` if there is none before
    /// it.
    pub(crate) fn end_of_run(&self, block: u64, end: u64) -> u64 {
        let layer = self.layer(block);
        let mut at = block;
        while at < end {
            let next = ((at / PAGE + 1) * PAGE).min(end);
            let page = self.find(at / PAGE).ok().map(|index| &self.pages[index].layers);
            match page {
                None if layer != 0 => return at,
                Some(Layers::Same(other)) if *other != layer => return at,
                None | Some(Layers::Same(_)) => at = next,
                Some(Layers::Each(each, _)) => {
                    let rest = &each[within(&(at..next), at / PAGE)];
                    match rest.iter().position(|other| *other != layer) {
                        Some(count) => return at + count as u64,
                        None => at = next,
                    }
                }
            }
        }
        end
    }

    /// Returns the blocks around `block` that are on the same layer, as far as they are in the same page.
    pub(crate) fn run_around(&self, block: u64) -> Range<u64> {
        let page = block / PAGE * PAGE;
        match self.find(block / PAGE).ok().map(|index| &self.pages[index].layers) {
            None | Some(Layers::Same(_)) => page..page + PAGE,
            Some(Layers::Each(each, _)) => {
                let (before, from) = each.split_at((block % PAGE) as usize);
                let differs = |layer: &Layer| *layer != from[0];
                let start = before.iter().rposition(differs).map_or(0, |index| index + 1);
                let count = from.iter().position(differs).unwrap_or(from.len());
                page + start as u64..block + count as u64
            }
        }
    }

    /// Prepares [`mark`](Self::mark) for a range of blocks whose pages exist, so that it cannot fail.
    ///
    /// # Errors
    ///
    /// Returns `ENOMEM` if there is no memory for it.
    pub(crate) fn make_room(&mut self, blocks: &Range<u64>, top: Layer) -> Result<(), Error> {
        if self.is_stored {
            // Each page may become dirty, once.
            let clean = self.pages.len() - self.dirty.len();
            self.dirty.try_reserve(clean).map_err(|_| Error::ENOMEM)?;
        }
        let pages = pages(blocks);
        for number in [pages.start, pages.end - 1] {
            let part = within(blocks, number);
            let Ok(index) = self.find(number) else { return Err(Error::EIO) };
            let layers = &mut self.pages[index].layers;
            match layers {
                Layers::Same(layer) if *layer != top && part.len() as u64 != PAGE => {
                    let mut each = buffer()?;
                    each.fill(*layer);
                    *layers = Layers::Each(each, 0);
                }
                Layers::Each(each, count) if *count == 0 => {
                    *count = each.iter().filter(|layer| **layer == top).count() as u64;
                }
                Layers::Same(_) | Layers::Each(..) => {}
            }
        }
        Ok(())
    }

    /// Puts blocks on the top layer, for which [`make_room`](Self::make_room) was called.
    pub(crate) fn mark(&mut self, blocks: &Range<u64>, top: Layer) {
        for number in pages(blocks) {
            let Ok(index) = self.find(number) else { continue };
            let page = &mut self.pages[index];
            let part = within(blocks, number);
            match &mut page.layers {
                Layers::Same(layer) if *layer == top => continue,
                layers if part.len() as u64 == PAGE => *layers = Layers::Same(top),
                Layers::Same(_) => unreachable!("room was made for a part of the page"),
                Layers::Each(each, count) => {
                    for layer in &mut each[part] {
                        *count += u64::from(*layer != top);
                        *layer = top;
                    }
                    if *count == PAGE {
                        page.layers = Layers::Same(top);
                    }
                }
            }
            if self.is_stored && !page.dirty {
                page.dirty = true;
                self.dirty.push(number);
            }
        }
    }

    /// Calls a function with the number and the layers of each page that has changed since
    /// [`saved`](Self::saved).
    ///
    /// # Errors
    ///
    /// Returns the first error of the function.
    pub(crate) fn changes(
        &self,
        mut write: impl FnMut(u64, &[Layer]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut same = Vec::new();
        for &number in &self.dirty {
            let Ok(index) = self.find(number) else { continue };
            match &self.pages[index].layers {
                Layers::Each(each, _) => write(number, each)?,
                Layers::Same(layer) => {
                    if same.is_empty() {
                        same = buffer()?;
                    }
                    same.fill(*layer);
                    write(number, &same)?;
                }
            }
        }
        Ok(())
    }

    /// Says that all changes are on the metadata device.
    pub(crate) fn saved(&mut self) {
        while let Some(number) = self.dirty.pop() {
            if let Ok(index) = self.find(number) {
                self.pages[index].dirty = false;
            }
        }
    }

    /// Returns the memory of pages whose blocks are on several layers, in bytes.
    #[cfg(test)]
    pub(crate) fn memory(&self) -> usize {
        let each = self.pages.iter().map(|page| match &page.layers {
            Layers::Same(_) => 0,
            Layers::Each(each, _) => each.len(),
        });
        each.sum()
    }

    /// Returns true if pages have changed since [`saved`](Self::saved).
    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }
}

/// Returns the bytes of a page, all zero.
fn buffer() -> Result<Vec<u8>, Error> {
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(PAGE as usize).map_err(|_| Error::ENOMEM)?;
    buffer.resize(PAGE as usize, 0);
    Ok(buffer)
}
