//! Which page holds which part of the disk: a radix tree from index to page.
//!
//! An index is an offset divided by the page size. A node has 512 entries of 32 bits; those of a
//! leaf are pages, those of the levels above are nodes, and 0 is absence. The tree is as high as
//! the disk is large, one level for 16 MiB and six for 2^63 bytes, and has only the branches that
//! lead to pages. Consecutive indexes fall into one leaf, and the last leaf is remembered: then
//! finding a page is one comparison and one load.
//!
//! Nodes live in pages, 16 in each. A node without entries is unlinked and used again, but its page
//! stays with the directory: branches come and go in the same numbers.

use core::ops::Range;

use crate::pages::{Memory, PAGE_SIZE, Page, Pages, address};
use crate::zero::is_zero;

const FANOUT_BITS: u32 = 9;
const FANOUT: u32 = 1 << FANOUT_BITS;
const NODE_SIZE: u32 = FANOUT * 4;
const NODES_PER_PAGE: u32 = PAGE_SIZE / NODE_SIZE;

/// A node: its address divided by [`NODE_SIZE`]. 0 is none.
type Node = u32;

const NO_LEAF: u64 = u64::MAX;

/// What the directory knows of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// This page.
    Present(Page),
    /// Nothing, nor under the indexes after it: so many, this one included. There may be more, and
    /// they may go beyond the last index of the disk.
    Absent(u64),
}

/// The tree.
pub struct Directory {
    root: Node,
    /// The number of levels, at least 1. A node of level 1 is a leaf.
    levels: u32,
    /// The first unused node, or 0. The first entry of an unused node is the next one; its other
    /// entries are 0.
    unused: Node,
    /// Nodes that were never used, all of whose entries are 0.
    fresh: Range<Node>,
    /// The leaf that was used last, and its indexes without the bits that select within it.
    last_leaf: Node,
    last_key: u64,
}

impl Directory {
    /// A directory for indexes below `indexes`.
    pub fn new(indexes: u64) -> Self {
        let bits = u64::BITS - indexes.saturating_sub(1).leading_zeros();
        let levels = bits.div_ceil(FANOUT_BITS).max(1);
        Self { root: 0, levels, unused: 0, fresh: 0..0, last_leaf: 0, last_key: NO_LEAF }
    }

    /// Looks an index up. If nothing is there, it looks on until it knows of `wanted` absent
    /// indexes.
    pub fn find<M: Memory>(&mut self, pages: &mut Pages<M>, index: u64, wanted: u64) -> Slot {
        let (mut node, mut level) = if index >> FANOUT_BITS == self.last_key {
            (self.last_leaf, 1)
        } else if self.root != 0 {
            (self.root, self.levels)
        } else {
            return Slot::Absent(span(self.levels) - index);
        };
        loop {
            if level == 1 {
                self.remember(index, node);
            }
            match entry(pages, node, position(index, level)) {
                0 => return Slot::Absent(absent(pages, node, level, index, wanted)),
                page if level == 1 => return Slot::Present(page),
                child => node = child,
            }
            level -= 1;
        }
    }

    /// Makes the branch that leads to an index, so that [`Directory::insert`] can be called.
    /// `None` when there is no page for it.
    pub fn reserve<M: Memory>(&mut self, pages: &mut Pages<M>, index: u64) -> Option<()> {
        if index >> FANOUT_BITS == self.last_key {
            return Some(());
        }
        if self.root == 0 {
            self.root = self.allocate(pages)?;
        }
        let mut node = self.root;
        for level in (2..=self.levels).rev() {
            let at = position(index, level);
            let mut child = entry(pages, node, at);
            if child == 0 {
                child = self.allocate(pages)?;
                set_entry(pages, node, at, child);
            }
            node = child;
        }
        self.remember(index, node);
        Some(())
    }

    /// Enters a page under an absent index, the last one that was reserved.
    pub fn insert<M: Memory>(&mut self, pages: &mut Pages<M>, index: u64, page: Page) {
        assert_eq!(index >> FANOUT_BITS, self.last_key, "the branch was reserved");
        set_entry(pages, self.last_leaf, position(index, 1), page);
    }

    /// Removes all entries from `first` to `last`, both included, and releases their pages.
    /// Returns how many there were. It takes time for what is there, not for what is absent.
    pub fn remove<M: Memory>(&mut self, pages: &mut Pages<M>, first: u64, last: u64) -> u64 {
        self.last_key = NO_LEAF;
        if self.root == 0 {
            return 0;
        }
        let removed = self.remove_below(pages, self.root, self.levels, first, last);
        if is_empty(pages, self.root) {
            self.release(pages, self.root);
            self.root = 0;
        }
        removed
    }

    /// Does it below one node; `first` and `last` are within what the node covers. Backwards, so
    /// that the pages are allocated forwards afterwards.
    fn remove_below<M: Memory>(
        &mut self,
        pages: &mut Pages<M>,
        node: Node,
        level: u32,
        first: u64,
        last: u64,
    ) -> u64 {
        let (low, high) = (position(first, level), position(last, level));
        let mut removed = 0;
        for at in (low..=high).rev() {
            let child = entry(pages, node, at);
            if child == 0 {
                continue;
            }
            if level == 1 {
                pages.release(child);
                removed += 1;
            } else {
                let mask = span(level - 1) - 1;
                let first = if at == low { first & mask } else { 0 };
                let last = if at == high { last & mask } else { mask };
                removed += self.remove_below(pages, child, level - 1, first, last);
                if !is_empty(pages, child) {
                    continue;
                }
                self.release(pages, child);
            }
            set_entry(pages, node, at, 0);
        }
        removed
    }

    fn remember(&mut self, index: u64, leaf: Node) {
        self.last_key = index >> FANOUT_BITS;
        self.last_leaf = leaf;
    }

    fn allocate<M: Memory>(&mut self, pages: &mut Pages<M>) -> Option<Node> {
        if self.unused != 0 {
            let node = self.unused;
            self.unused = entry(pages, node, 0);
            set_entry(pages, node, 0, 0);
            return Some(node);
        }
        if self.fresh.is_empty() {
            let allocated = pages.allocate()?;
            if !allocated.zeroed {
                pages.memory().bytes_mut(address(allocated.page), PAGE_SIZE).fill(0);
            }
            let first = address(allocated.page) / NODE_SIZE;
            self.fresh = first..first + NODES_PER_PAGE;
        }
        self.fresh.next()
    }

    /// Takes a node back whose entries are all 0.
    fn release<M: Memory>(&mut self, pages: &mut Pages<M>, node: Node) {
        set_entry(pages, node, 0, self.unused);
        self.unused = node;
    }
}

/// How many indexes a node of a level covers.
fn span(level: u32) -> u64 {
    1 << (FANOUT_BITS * level)
}

/// The entry of a node of a level under which an index is found.
fn position(index: u64, level: u32) -> u32 {
    (index >> (FANOUT_BITS * (level - 1))) as u32 & (FANOUT - 1)
}

/// How many indexes are absent from `index` on, whose entry in a node of a level is 0: up to the
/// next entry that is not, the end of the node, or `wanted`.
fn absent<M: Memory>(pages: &mut Pages<M>, node: Node, level: u32, index: u64, wanted: u64) -> u64 {
    let step = span(level - 1);
    let mut run = step - (index & (step - 1));
    let mut at = position(index, level) + 1;
    while run < wanted && at < FANOUT && entry(pages, node, at) == 0 {
        run += step;
        at += 1;
    }
    run
}

fn entry<M: Memory>(pages: &mut Pages<M>, node: Node, at: u32) -> u32 {
    pages.memory().word(node * NODE_SIZE + at * 4)
}

fn set_entry<M: Memory>(pages: &mut Pages<M>, node: Node, at: u32, value: u32) {
    pages.memory().set_word(node * NODE_SIZE + at * 4, value);
}

fn is_empty<M: Memory>(pages: &mut Pages<M>, node: Node) -> bool {
    is_zero(pages.memory().bytes(node * NODE_SIZE, NODE_SIZE))
}

#[cfg(test)]
impl Directory {
    /// Every page with content, and every page with nodes, each once. Checks the tree on the way.
    pub(crate) fn audit<M: Memory>(&mut self, pages: &mut Pages<M>) -> (Vec<Page>, Vec<Page>) {
        let mut content = Vec::new();
        let mut nodes: Vec<Node> = self.fresh.clone().collect();
        assert!(self.fresh.clone().all(|node| is_empty(pages, node)), "fresh nodes are empty");
        let mut unused = self.unused;
        while unused != 0 {
            nodes.push(unused);
            assert!((1..FANOUT).all(|at| entry(pages, unused, at) == 0), "unused nodes are empty");
            unused = entry(pages, unused, 0);
        }
        let mut below: Vec<(Node, u32)> = Vec::new();
        below.extend((self.root != 0).then_some((self.root, self.levels)));
        while let Some((node, level)) = below.pop() {
            nodes.push(node);
            let entries: Vec<u32> = (0..FANOUT).map(|at| entry(pages, node, at)).collect();
            let entries = entries.into_iter().filter(|entry| *entry != 0);
            match level {
                1 => content.extend(entries),
                _ => below.extend(entries.map(|child| (child, level - 1))),
            }
        }
        nodes.sort_unstable();
        assert!(nodes.windows(2).all(|pair| pair[0] != pair[1]), "a node is in one place");
        assert!(nodes.len().is_multiple_of(NODES_PER_PAGE as usize), "no node is lost");
        let mut of_nodes: Vec<Page> = nodes.iter().map(|node| node / NODES_PER_PAGE).collect();
        of_nodes.dedup();
        (content, of_nodes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_is_as_high_as_the_disk_is_large() {
        for (indexes, levels) in
            [(0, 1), (1, 1), (512, 1), (513, 2), (1 << 18, 2), ((1 << 18) + 1, 3), (1 << 48, 6)]
        {
            assert_eq!(Directory::new(indexes).levels, levels, "{indexes}");
        }
    }
}
