//! Keeping a file out of the page cache, for [`PageCache::None`](super::PageCache::None).

use std::collections::VecDeque;
use std::mem;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Advice, fadvise};

use crate::block::Span;

/// The number of written spans that are evicted again later.
const REMEMBERED: usize = 8;

/// Evicts written spans from the page cache.
///
/// The kernel drops clean pages only. A span that was written is therefore evicted twice: at once,
/// which starts its write-back, and again after a flush, or after [`REMEMBERED`] more spans were
/// written.
#[derive(Debug, Default)]
pub(super) struct Evictor {
    written: Mutex<VecDeque<Span>>,
}

impl Evictor {
    /// Evicts a span that was written, as soon as possible.
    pub(super) fn evict_written(&self, fd: &OwnedFd, span: Span) {
        evict(fd, span);
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.push_back(span);
        let oldest = if written.len() > REMEMBERED { written.pop_front() } else { None };
        drop(written);
        oldest.into_iter().for_each(|span| evict(fd, span));
    }

    /// Returns the spans that a flush which begins now makes clean, to be evicted after it.
    pub(super) fn take_written(&self) -> VecDeque<Span> {
        mem::take(&mut *self.written.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Evicts the clean pages of a span, and starts the write-back of the others. An error is ignored,
/// for this is a hint.
pub(super) fn evict(fd: &OwnedFd, span: Span) {
    let _ = fadvise(fd, span.offset, NonZeroU64::new(span.length), Advice::DontNeed);
}
