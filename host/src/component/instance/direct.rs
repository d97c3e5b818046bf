//! Reading and writing the pages of an instance without calling it.

use super::Instance;
use crate::block::Span;
use crate::component::chunk::Chunk;
use crate::component::direct::Known;
use crate::component::fault::{Breach, Fault};
use crate::component::hint::Hint;
use crate::component::places::Places;

impl Instance {
    /// A span that can be read without a call: whose pages are all known.
    #[inline]
    pub fn known(&self, span: Span) -> Option<Known> {
        self.pages.as_ref()?.known(span)
    }

    /// A piece of what is in a known span: in order, at least one, none after the last. It is known until
    /// the next call.
    #[inline]
    pub fn known_chunk(&self, known: Known, index: usize) -> Option<Chunk<'_>> {
        self.pages.as_ref()?.chunk(known, index).map(Chunk::Data)
    }

    /// A span that can be read without a call, as [`Self::known`]. A page that is not known is asked for,
    /// if it is all that the span needs: where several are missing, to read is one call, too.
    ///
    /// # Errors
    ///
    /// The component failed.
    pub async fn know(&mut self, span: Span) -> Result<Option<Known>, Fault> {
        if self.pages.as_ref().is_some_and(|pages| pages.is_one(span)) {
            self.know_pages(span).await?;
        }
        Ok(self.known(span))
    }

    /// Where a span begins, if it is in a page that is known.
    #[inline]
    pub fn hint(&self, span: Span) -> Option<Hint> {
        self.pages.as_ref()?.hint(span)
    }

    /// Writes without a call, if all the bytes are in pages that are known. False, and nothing is
    /// written, if not.
    #[inline]
    pub fn write_known(&mut self, span: Span, data: &[u8]) -> bool {
        self.pages.as_mut().is_some_and(|pages| pages.write(span, data))
    }

    /// Where what is written to the beginning of a span can be received to, as far as that is in pages
    /// that are known; what comes after the span goes to `behind`. What is received there is
    /// written.
    #[inline]
    pub fn places<'a>(&'a mut self, span: Span, behind: &'a mut [u8]) -> Option<Places<'a>> {
        self.pages.as_mut()?.places(span, behind)
    }

    /// Asks for the pages of a span that are not known. False when the component has not got them all
    /// where the host can use them.
    pub(super) async fn know_pages(&mut self, span: Span) -> Result<bool, Fault> {
        let (Some(direct), Some(pages)) = (self.functions.direct, &self.pages) else {
            return Ok(false);
        };
        for number in pages.numbers(span) {
            let Some(pages) = &self.pages else { return Ok(false) };
            if pages.knows(number) {
                continue;
            }
            let (offset, wanted) = (pages.offset(number), pages.length(number));
            let Some(list) = self.call(direct.page, (offset,)).await? else { return Ok(false) };
            if list.len() as u64 != wanted {
                let breach = Breach::PageLength { wanted, got: list.len() };
                return Err(Fault::Breach { function: "page", breach });
            }
            let held = self.store.data().share().held();
            let bytes = list.as_le_slice(&self.store);
            let Some(pages) = &mut self.pages else { return Ok(false) };
            if !pages.insert(number, bytes, held) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Forgets the pages that a call may move.
    pub(super) fn forget_pages(&mut self, span: Span) {
        if let Some(pages) = &mut self.pages {
            pages.forget(span);
        }
    }
}
