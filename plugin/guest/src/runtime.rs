//! The heap, the panic handler, `cabi_realloc`, and what the compiler expects of a C library.
//!
//! A component that is panicking or out of heap traps: the host tells which export died, and there
//! is nobody in the component to whom more could be said.

use alloc::alloc::Layout;

#[global_allocator]
static HEAP: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}

/// Compares bytes. The compiler calls it for slices, and counts on a C library that has it; copying
/// and filling are instructions of WebAssembly.
///
/// # Safety
///
/// `length` bytes can be read at both addresses.
// SAFETY: the component has no C library that would define it too.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, length: usize) -> i32 {
    for at in 0..length {
        // SAFETY: the caller's promise.
        let (left, right) = unsafe { (*left.add(at), *right.add(at)) };
        if left != right {
            return i32::from(left) - i32::from(right);
        }
    }
    0
}

/// Allocates as the canonical ABI asks: `new_size` bytes, with what was at `old` moved there.
/// Traps when there is no memory.
///
/// # Safety
///
/// `old` comes from this function with `old_size` and `align`, or `old_size` is 0; `align` is a
/// power of two.
pub unsafe fn reallocate(old: *mut u8, old_size: usize, align: usize, new_size: usize) -> *mut u8 {
    if new_size == 0 {
        return core::ptr::without_provenance_mut(align);
    }
    // SAFETY: the canonical ABI asks for alignments of 1, 2, 4 and 8 and for sizes within a 32-bit
    // memory; `old` is as the caller promised.
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

/// Exports [`reallocate`] under the name by which a host allocates in a component.
#[macro_export]
macro_rules! export_realloc {
    () => {
        // SAFETY: no other symbol of a component has this name, and the host keeps the rules of
        // the canonical ABI, which are those of `reallocate`.
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
