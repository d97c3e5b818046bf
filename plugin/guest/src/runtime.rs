//! The heap, the panic handler, `cabi_realloc`, and the functions of a C library that the compiler
//! relies on.
//!
//! A component traps when it panics or its heap is exhausted. The host reports which call trapped.
//! The message of the panic is lost: the code that formats messages would be larger than most
//! backends.

use alloc::alloc::Layout;

#[global_allocator]
static HEAP: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}

/// Compares `length` bytes at two addresses, like C's `memcmp`.
///
/// The compiler calls it to compare slices, and expects a C library to define it. Copying and
/// filling need no such function, as they are WebAssembly instructions.
///
/// # Safety
///
/// `length` bytes must be readable at both addresses.
// SAFETY: no C library is linked into the component, so there is no other definition of the symbol.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, length: usize) -> i32 {
    let mut at = 0;
    // Eight bytes at a time, which WebAssembly reads at any address.
    while length - at >= 8 {
        // SAFETY: guaranteed by the caller.
        let (left, right) = unsafe {
            let (left, right): (*const u64, *const u64) =
                (left.add(at).cast(), right.add(at).cast());
            (u64::from_be(left.read_unaligned()), u64::from_be(right.read_unaligned()))
        };
        if left != right {
            return left.cmp(&right) as i32;
        }
        at += 8;
    }
    while at < length {
        // SAFETY: guaranteed by the caller.
        let (left, right) = unsafe { (*left.add(at), *right.add(at)) };
        if left != right {
            return i32::from(left) - i32::from(right);
        }
        at += 1;
    }
    0
}

/// Allocates `new_size` bytes as the canonical ABI requires, and moves the content of `old` there.
/// Traps if there is not enough memory.
///
/// # Safety
///
/// Either `old_size` is 0, or `old` was returned by this function for `old_size` and `align`.
/// `align` must be a power of two.
pub unsafe fn reallocate(old: *mut u8, old_size: usize, align: usize, new_size: usize) -> *mut u8 {
    if new_size == 0 {
        return core::ptr::without_provenance_mut(align);
    }
    // SAFETY: the canonical ABI uses only alignments of 1, 2, 4 and 8 and sizes that fit into a
    // 32-bit memory; the caller guarantees that `old` is valid.
    let new = unsafe {
        if old_size == 0 {
            alloc::alloc::alloc(Layout::from_size_align_unchecked(new_size, align))
        } else {
            let layout = Layout::from_size_align_unchecked(old_size, align);
            alloc::alloc::realloc(old, layout, new_size)
        }
    };
    if new.is_null() {
        core::arch::wasm32::unreachable();
    }
    new
}

/// Exports [`reallocate`] as `cabi_realloc`, which the host calls to allocate in a component.
#[macro_export]
macro_rules! export_realloc {
    () => {
        // SAFETY: no other symbol of a component has this name, and the host follows the rules of
        // the canonical ABI, which imply those of `reallocate`.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn cabi_realloc(
            old: *mut u8,
            old_size: usize,
            align: usize,
            new_size: usize,
        ) -> *mut u8 {
            // SAFETY: see above.
            unsafe { $crate::runtime::reallocate(old, old_size, align, new_size) }
        }
    };
}
