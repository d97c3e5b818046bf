//! Reading and writing the pages of an instance without calling it.

use super::Instance;
use crate::block::{Chunk, Scatter, Span};
use crate::component::direct::Resident;
use crate::component::fault::{Breach, Fault};

impl Instance {
    /// The beginning of a span, as far as it can be read and written without a call. It is good until
    /// the next call.
    #[inline]
    pub fn resident(&self, span: Span) -> Option<Resident> {
        self.pages.as_ref()?.resident(span)
    }

    /// A chunk of what is resident: in order, at least one, none after the last.
    #[inline]
    pub fn resident_chunk(&self, resident: Resident, index: usize) -> Option<Chunk<'_>> {
        self.pages.as_ref()?.chunk(resident, index).map(Chunk::Data)
    }

    /// Has the processor fetch the beginning of what is resident.
    #[inline]
    pub fn prefetch(&self, resident: Resident) {
        if let Some(pages) = &self.pages {
            pages.prefetch(resident);
        }
    }

    /// Writes to the beginning of what is resident.
    ///
    /// # Panics
    ///
    /// When that is shorter than the data.
    #[inline]
    pub fn write_resident(&mut self, resident: Resident, data: &[u8]) {
        if let Some(pages) = &mut self.pages {
            pages.write(resident, data);
        }
    }

    /// What is resident as memory to receive to, and `behind` for what follows; what is received there is
    /// written. Perhaps it is the beginning only, and then without `behind`.
    #[inline]
    pub fn scatter<'a>(
        &'a mut self,
        resident: Resident,
        behind: &'a mut [u8],
    ) -> Option<Scatter<'a>> {
        self.pages.as_mut()?.scatter(resident, behind)
    }

    /// A span, if all of it can be read without a call. A page that is not known is asked for, if it is all
    /// that the span needs: where several are missing, to read is one call, too.
    ///
    /// # Errors
    ///
    /// The component failed.
    pub async fn make_resident(&mut self, span: Span) -> Result<Option<Resident>, Fault> {
        if self.pages.as_ref().is_some_and(|pages| pages.is_one(span)) {
            self.map_pages(span).await?;
        }
        Ok(self.resident(span).filter(|resident| resident.length() == span.length))
    }

    /// Asks for the pages of a span that are not known. False when the component has not got them all
    /// where the host can use them.
    pub(super) async fn map_pages(&mut self, span: Span) -> Result<bool, Fault> {
        let (Some(direct), Some(pages)) = (self.functions.direct, &self.pages) else {
            return Ok(false);
        };
        for number in pages.numbers(span) {
            let Some(pages) = &self.pages else { return Ok(false) };
            if pages.contains(number) {
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
