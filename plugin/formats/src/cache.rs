//! A bounded cache, and the pages of a device's metadata.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec;

use memnbd_guest::{Error, Lower};

/// The length of a page. Shorter ones would take more calls of the host, longer ones more memory.
const PAGE: u64 = 16 << 10;

/// A map of bounded size that drops its least recently used entry for a new one.
///
/// It is made for some hundred entries: finding the one to drop looks at all.
#[derive(Clone, Debug)]
pub struct Cache<K, V> {
    entries: BTreeMap<K, (u64, V)>,
    capacity: usize,
    uses: u64,
}

impl<K: Ord + Clone, V> Cache<K, V> {
    /// Returns an empty cache for `capacity` entries, at least one.
    pub const fn new(capacity: usize) -> Self {
        let capacity = if capacity == 0 { 1 } else { capacity };
        Self { entries: BTreeMap::new(), capacity, uses: 0 }
    }

    /// Returns the value of a key.
    pub fn get(&mut self, key: &K) -> Option<&mut V> {
        self.uses += 1;
        let (used, value) = self.entries.get_mut(key)?;
        *used = self.uses;
        Some(value)
    }

    /// Takes the value of a key out of the cache.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.entries.remove(key).map(|(_, value)| value)
    }

    /// Drops the least recently used entry if the cache is full, and returns its value, whose memory
    /// can be used for the next.
    pub fn make_room(&mut self) -> Option<V> {
        if self.entries.len() < self.capacity {
            return None;
        }
        let oldest = self.entries.iter().min_by_key(|(_, (used, _))| *used);
        let oldest = oldest.map(|(key, _)| key.clone())?;
        self.remove(&oldest)
    }

    /// Adds an entry.
    pub fn insert(&mut self, key: K, value: V) {
        if !self.entries.contains_key(&key) {
            self.make_room();
        }
        self.uses += 1;
        self.entries.insert(key, (self.uses, value));
    }
}

/// Reads the metadata of a device, such as the tables of an image, through a bounded cache.
#[derive(Clone, Debug)]
pub struct Pages {
    device: Lower,
    size: u64,
    pages: Cache<u64, Box<[u8]>>,
}

impl Pages {
    /// Returns a reader that keeps up to `memory` bytes.
    pub fn new(device: Lower, memory: usize) -> Self {
        let pages = Cache::new(memory / PAGE as usize);
        Self { device, size: device.geometry().size, pages }
    }

    /// Returns the size of the device.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Reads the bytes at `offset` into `buffer`.
    ///
    /// # Errors
    ///
    /// Returns `EIO` if the range ends beyond the device, and the errors of the device.
    pub fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.size) {
            return Err(Error::EIO.because("the image ends before its metadata do"));
        }
        let mut at = offset;
        let mut rest = buffer;
        while !rest.is_empty() {
            let page = self.page(at / PAGE)?;
            let within = (at % PAGE) as usize;
            let length = rest.len().min(page.len() - within);
            let (part, after) = rest.split_at_mut(length);
            part.copy_from_slice(&page[within..within + length]);
            at += length as u64;
            rest = after;
        }
        Ok(())
    }

    /// Reads a big-endian number.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn be_u64(&mut self, offset: u64) -> Result<u64, Error> {
        let mut bytes = [0; 8];
        self.read(offset, &mut bytes)?;
        Ok(u64::from_be_bytes(bytes))
    }

    /// Reads a big-endian number.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn be_u32(&mut self, offset: u64) -> Result<u32, Error> {
        let mut bytes = [0; 4];
        self.read(offset, &mut bytes)?;
        Ok(u32::from_be_bytes(bytes))
    }

    /// Reads a little-endian number.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn le_u32(&mut self, offset: u64) -> Result<u32, Error> {
        self.be_u32(offset).map(u32::swap_bytes)
    }

    fn page(&mut self, number: u64) -> Result<&[u8], Error> {
        if self.pages.get(&number).is_none() {
            let start = number * PAGE;
            let length = (self.size - start).min(PAGE) as usize;
            let mut page = match self.pages.make_room() {
                Some(page) if page.len() == length => page,
                _ => vec![0; length].into_boxed_slice(),
            };
            self.device.read(start, &mut page)?;
            self.pages.insert(number, page);
        }
        self.pages.get(&number).map(|page| &page[..]).ok_or(Error::EIO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memnbd_guest::{Capabilities, testing};

    #[test]
    fn least_recently_used_entry_is_dropped() {
        let mut cache = Cache::new(2);
        cache.insert(1, 'a');
        cache.insert(2, 'b');
        assert_eq!(cache.get(&1), Some(&mut 'a'));
        cache.insert(3, 'c');
        assert_eq!([1, 2, 3].map(|key| cache.get(&key).copied()), [Some('a'), None, Some('c')]);
        cache.insert(3, 'd');
        assert_eq!(cache.make_room(), Some('a'));
        assert_eq!(cache.make_room(), None);
        assert_eq!(cache.get(&3).copied(), Some('d'));
    }

    #[test]
    fn pages_are_read_across_their_bounds_up_to_the_end() {
        let size = 3 * PAGE + 100;
        let device = testing::device(size, Capabilities::WRITABLE);
        let content: alloc::vec::Vec<u8> = (0..size).map(|at| (at * 7 / 5) as u8).collect();
        device.write(0, &content, false).unwrap();
        let mut pages = Pages::new(device, 2 * PAGE as usize);
        for offset in [0, 1, PAGE - 3, PAGE, 2 * PAGE - 1, 3 * PAGE - 7, size - 8] {
            let at = offset as usize;
            let expected: [u8; 8] = content[at..at + 8].try_into().unwrap();
            assert_eq!(pages.be_u64(offset).unwrap(), u64::from_be_bytes(expected));
            let expected: [u8; 4] = content[at..at + 4].try_into().unwrap();
            assert_eq!(pages.le_u32(offset).unwrap(), u32::from_le_bytes(expected));
        }
        let mut all = vec![0; size as usize];
        pages.read(0, &mut all).unwrap();
        assert!(all == content);
        assert!(pages.be_u64(size - 7).is_err());
        assert!(pages.be_u64(u64::MAX).is_err());
    }
}
