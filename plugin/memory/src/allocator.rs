//! The parameters that say how memory is allocated.

use alloc::string::{String, ToString};

use crate::pages::{LANDING_SIZE, Memory, PAGE_SIZE};
use crate::store::{NoSpace, Store};

/// The choices of the parameter `allocator`. A comma introduces an option of the allocator, as in
/// nbdkit.
pub const CHOICES: [&str; 5] =
    ["sparse", "zstd", "malloc", "malloc,mlock=false", "malloc,mlock=true"];

/// The most memory that an instance can have, in bytes.
const LARGEST_MEMORY: u64 = 4 << 30;

/// How memory is allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocator {
    /// When it is written.
    Sparse,
    /// All of it when the disk is opened.
    Malloc,
}

impl Allocator {
    /// Returns the allocator that the parameters `allocator` and `mlock` choose.
    ///
    /// # Errors
    ///
    /// Returns a message if they contradict each other or ask for what is not possible.
    pub fn new(choice: Option<&str>, mlock: Option<bool>) -> Result<Self, &'static str> {
        let choice = choice.unwrap_or("sparse");
        let (name, option) = choice.split_once(',').unwrap_or((choice, ""));
        if name == "zstd" {
            return Err(
                "allocator=zstd is the built-in component memory-zstd, which this one is not",
            );
        }
        if name != "malloc" && mlock.is_some() {
            return Err("mlock is an option of allocator=malloc");
        }
        if option == "mlock=true" || mlock == Some(true) {
            return Err("mlock=true is not possible, for a component cannot lock its memory; \
                 use mlock=false and the server's option --swap, which locks all of the server");
        }
        Ok(if name == "malloc" { Self::Malloc } else { Self::Sparse })
    }
}

/// Gives all parts of a disk of `size` bytes pages, which they keep from then on.
///
/// # Errors
///
/// Returns a message if they do not fit the limit.
pub fn allocate_all<M: Memory>(store: &mut Store<M>, size: u64, limit: u64) -> Result<(), String> {
    let limit = limit.min(LARGEST_MEMORY);
    let fits = size.saturating_add(LANDING_SIZE.into()) <= limit;
    if fits && make_pages(store, size).is_ok() {
        store.allocated = true;
        return Ok(());
    }
    let mut text = String::from("allocator=malloc takes the memory for the whole disk at once: ");
    text.push_str(&size.to_string());
    text.push_str(" bytes and a few MiB do not fit the limit of ");
    text.push_str(&limit.to_string());
    text.push_str(if limit == LARGEST_MEMORY {
        " bytes that this allocator has"
    } else {
        " bytes that --max-memory or the memory of the machine sets"
    });
    text.push_str("; use a smaller size, or allocator=sparse or allocator=zstd");
    Err(text)
}

/// Makes all pages of a disk, and touches them, so that the host has the memory.
fn make_pages<M: Memory>(store: &mut Store<M>, size: u64) -> Result<(), NoSpace> {
    let mut offset = 0;
    while offset < size {
        let (address, length) = store.make_page(offset)?;
        store.pages.memory().bytes_mut(address, length).fill(0);
        offset += u64::from(PAGE_SIZE);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Status;
    use crate::testing::disk;

    #[test]
    fn parameters_choose_an_allocator() {
        for (choice, mlock, allocator) in [
            (None, None, Allocator::Sparse),
            (Some("sparse"), None, Allocator::Sparse),
            (Some("malloc"), None, Allocator::Malloc),
            (Some("malloc"), Some(false), Allocator::Malloc),
            (Some("malloc,mlock=false"), None, Allocator::Malloc),
        ] {
            assert_eq!(Allocator::new(choice, mlock), Ok(allocator), "{choice:?} {mlock:?}");
        }
    }

    #[test]
    fn what_is_not_possible_is_refused_with_a_way_out() {
        for (choice, mlock, words) in [
            (Some("malloc,mlock=true"), None, "--swap"),
            (Some("malloc,mlock=true"), Some(false), "--swap"),
            (Some("malloc"), Some(true), "--swap"),
            (Some("sparse"), Some(false), "allocator=malloc"),
            (None, Some(true), "allocator=malloc"),
            (Some("zstd"), None, "memory-zstd"),
        ] {
            let error = Allocator::new(choice, mlock).unwrap_err();
            assert!(error.contains(words), "{choice:?} {mlock:?}: {error}");
        }
    }

    #[test]
    fn allocated_disk_is_never_short_of_memory() {
        const SIZE: u64 = (5 << 20) + 77;
        // The landing zone, the disk, and the directory.
        let mut store = disk(SIZE, 64 + 161 + 31);
        allocate_all(&mut store, SIZE, u64::MAX).unwrap();
        let total = store.pages.total();
        let all = [(SIZE, Status::Zero)];
        assert_eq!(store.extents_of(0, SIZE, 9), all);
        let data = vec![7; 2 << 20];
        for offset in [0, 1, SIZE - data.len() as u64] {
            store.write_bytes(offset, &data).unwrap();
            assert!(store.read_bytes(offset, 2 << 20) == data);
        }
        // Zeroes keep their pages.
        store.zero(5, 100_000);
        assert_eq!(store.read_bytes(4, 3), [7, 0, 0]);
        store.zero(0, SIZE);
        assert_eq!(store.extents_of(0, SIZE, 9), all);
        assert_eq!(store.pages.total(), total);
        store.audit();
    }

    #[test]
    fn disk_that_does_not_fit_is_refused_with_the_limit() {
        // Room for the landing zone alone.
        let mut store = disk(1 << 20, LANDING_SIZE / PAGE_SIZE);
        let error = allocate_all(&mut store, 1 << 20, 2_500_000).unwrap_err();
        assert!(error.contains("1048576 bytes") && error.contains("2500000 bytes"), "{error}");
        assert!(error.contains("--max-memory"), "{error}");
        let error = allocate_all(&mut store, 4 << 30, u64::MAX).unwrap_err();
        assert!(error.contains("4294967296") && !error.contains("--max-memory"), "{error}");
        // The limit is that of all instances, but there may be less.
        assert!(allocate_all(&mut store, 1 << 20, u64::MAX).is_err());
    }
}
