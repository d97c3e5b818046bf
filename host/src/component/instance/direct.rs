//! Reading and writing the pages of an instance without calling it.

use super::Instance;
use crate::block::{Chunk, Scatter, Span};
use crate::component::breach::Breach;
use crate::component::call::Call;
use crate::component::direct::Resident;
use crate::component::fault::Fault;
use crate::component::region::Hint;

impl Instance {
    /// Returns the beginning of a span, as far as it can be read and written without a call. The
    /// result is valid until the next call.
    #[inline]
    pub fn resident(&self, span: Span) -> Option<Resident> {
        self.pages.as_ref()?.resident(span)
    }

    /// Returns a chunk of the resident bytes. The chunks are in order and there is at least one;
    /// `None` follows the last.
    #[inline]
    pub fn resident_chunk(&self, resident: Resident, index: usize) -> Option<Chunk<'_>> {
        self.pages.as_ref()?.chunk(resident, index).map(Chunk::Data)
    }

    /// Returns the place of the resident bytes, to be prefetched.
    #[inline]
    pub fn hint(&self, resident: Resident) -> Option<Hint> {
        self.pages.as_ref()?.hint(resident)
    }

    /// Writes to the beginning of the resident bytes.
    ///
    /// # Panics
    ///
    /// Panics if there are fewer resident bytes than `data` has.
    #[inline]
    pub fn write_resident(&mut self, resident: Resident, data: &[u8]) {
        if let Some(pages) = &mut self.pages {
            pages.write(resident, data);
        }
    }

    /// Returns the resident bytes as buffers to receive into, followed by `behind` for the bytes
    /// after them. Bytes received there count as written. The result may cover only the first part
    /// of the resident bytes, and then it does not include `behind`.
    #[inline]
    pub fn scatter<'a>(
        &'a mut self,
        resident: Resident,
        behind: &'a mut [u8],
    ) -> Option<Scatter<'a>> {
        self.pages.as_mut()?.scatter(resident, behind)
    }

    /// Returns a span if all of it can be accessed without a call. If the span lies within a single
    /// page whose location is unknown, the component is asked for it. Longer spans are not worth
    /// asking for: reading them takes one call, too.
    ///
    /// # Errors
    ///
    /// Returns an error if the component fails.
    pub async fn make_resident(&mut self, span: Span) -> Result<Option<Resident>, Fault> {
        if self.pages.as_ref().is_some_and(|pages| pages.is_one(span)) {
            self.map_pages(span).await?;
        }
        Ok(self.resident(span).filter(|resident| resident.length() == span.length))
    }

    /// Makes a span accessible without a call, if the component has room for it: a hole becomes
    /// zeroes. Returns false if not all of it is.
    ///
    /// # Errors
    ///
    /// Returns an error if the component fails.
    pub async fn make_pages(&mut self, span: Span) -> Result<bool, Fault> {
        self.find_pages(span, true).await
    }

    /// Asks the component for those pages of a span whose location is unknown. Returns false if it
    /// does not have all of them where the host can access them.
    pub(super) async fn map_pages(&mut self, span: Span) -> Result<bool, Fault> {
        self.find_pages(span, false).await
    }

    async fn find_pages(&mut self, span: Span, make: bool) -> Result<bool, Fault> {
        let (Some(direct), Some(pages)) = (self.functions.direct, &self.pages) else {
            return Ok(false);
        };
        for number in pages.numbers(span) {
            let Some(pages) = &self.pages else { return Ok(false) };
            if pages.contains(number) {
                continue;
            }
            let (offset, wanted) = (pages.offset(number), pages.length(number));
            let (call, function) = match make {
                true => (Call::MakePage(offset), direct.make_page),
                false => (Call::Page(offset), direct.page),
            };
            let Some(list) = self.call(call, function, (offset,)).await? else { return Ok(false) };
            if list.len() as u64 != wanted {
                let breach = Breach::PageLength { wanted, got: list.len() };
                return Err(Fault::Breach { call, breach });
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

    /// Removes the pages of a span from the page table, because a call may move them.
    pub(super) fn forget_pages(&mut self, span: Span) {
        if let Some(pages) = &mut self.pages {
            pages.forget(span);
        }
    }
}
