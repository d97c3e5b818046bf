//! The map from parts of the disk to the pages that hold them: a radix tree from index to page.
//!
//! An index is an offset divided by the page size. A node has 512 entries of 32 bits. The entries
//! of a leaf are pages, those of the levels above are nodes, and 0 means absent. The height of the
//! tree depends on the size of the disk: one level for 16 MiB, six for 2^63 bytes. Only branches
//! that lead to pages exist. Runs of consecutive indexes share a leaf, and the directory caches the
//! leaf that was used last: finding a page in that leaf takes one comparison and one load.
//!
//! Nodes are stored in pages, 16 in each. A node without entries is unlinked and reused, but its
//! page stays with the directory, because the number of branches tends to remain the same.

use core::ops::Range;

use crate::pages::{Memory, PAGE_SIZE, Page, Pages, address};
use crate::zero::is_zero;

const FANOUT_BITS: u32 = 9;
const FANOUT: u32 = 1 << FANOUT_BITS;
const NODE_SIZE: u32 = FANOUT * 4;
const NODES_PER_PAGE: u32 = PAGE_SIZE / NODE_SIZE;

/// A node, identified by its address divided by [`NODE_SIZE`]. 0 means none.
type Node = u32;

const NO_LEAF: u64 = u64::MAX;

/// The result of looking up an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The index has this page.
    Present(Page),
    /// This many indexes have no page, beginning with the one that was looked up. More of the
    /// following indexes may be absent, and the run may extend beyond the last index of the disk.
    Absent(u64),
}

/// A radix tree from index to page.
pub struct Directory {
    root: Node,
    /// The number of levels, at least 1. A node of level 1 is a leaf.
    levels: u32,
    /// The first unused node, or 0. The first entry of an unused node is the next one; its other
    /// entries are 0.
    unused: Node,
    /// Nodes that were never used. All of their entries are 0.
    fresh: Range<Node>,
    /// The leaf that was used last. `last_key` is its indexes without the bits that select an
    /// entry.
    last_leaf: Node,
    last_key: u64,
}

impl Directory {
    /// Creates a directory for indexes below `indexes`.
    pub fn new(indexes: u64) -> Self {
        let bits = u64::BITS - indexes.saturating_sub(1).leading_zeros();
        let levels = bits.div_ceil(FANOUT_BITS).max(1);
        Self { root: 0, levels, unused: 0, fresh: 0..0, last_leaf: 0, last_key: NO_LEAF }
    }

    /// Looks up an index. If it is absent, also counts the absent indexes that follow, at least
    /// until `wanted` are found or the node ends.
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

    /// Creates the branch that leads to an index, so that [`Directory::insert`] can be called.
    /// Returns `None` if there is no page left for its nodes.
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

    /// Inserts a page at an absent index.
    ///
    /// # Panics
    ///
    /// Panics if the index is not in the leaf that was reserved last.
    pub fn insert<M: Memory>(&mut self, pages: &mut Pages<M>, index: u64, page: Page) {
        assert_eq!(index >> FANOUT_BITS, self.last_key, "the branch was reserved");
        set_entry(pages, self.last_leaf, position(index, 1), page);
    }

    /// Removes all entries from `first` to `last`, inclusive, and releases their pages. Returns the
    /// number of removed pages. The time it takes depends on the number of entries that are
    /// present, not on the number of absent ones.
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

    /// Removes entries below one node, which covers both `first` and `last`. It releases pages in
    /// descending order, so that they are later allocated in ascending order.
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

    /// Puts a node whose entries are all 0 on the list of unused nodes.
    fn release<M: Memory>(&mut self, pages: &mut Pages<M>, node: Node) {
        set_entry(pages, node, 0, self.unused);
        self.unused = node;
    }
}

/// Returns the number of indexes that a node of a level covers.
fn span(level: u32) -> u64 {
    1 << (FANOUT_BITS * level)
}

/// Returns the position of the entry for an index in a node of a level.
fn position(index: u64, level: u32) -> u32 {
    (index >> (FANOUT_BITS * (level - 1))) as u32 & (FANOUT - 1)
}

/// Returns the number of consecutive absent indexes from `index` on, whose entry in a node of a
/// level is 0. It stops counting at the next nonzero entry, at the end of the node, or once it has
/// found `wanted` of them.
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
    /// Returns all pages with content and all pages with nodes, each once, and checks the tree.
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
