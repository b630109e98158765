//! Asking for memory before it is needed: with hundreds of sessions, what belongs to one is rarely in the cache when
//! its next packet comes, and a system call is long enough to bring it in.

#![allow(unsafe_code)]

/// Bytes that processors bring in at once.
const LINE: usize = 64;

/// Asks for all of it. Only a hint: nothing waits, nothing is read.
#[inline]
pub fn warm<T>(value: &T) {
    let start = std::ptr::from_ref(value).cast::<u8>();
    for at in (0..size_of::<T>()).step_by(LINE) {
        // SAFETY: within the value.
        line(unsafe { start.add(at) });
    }
    if size_of::<T>() > 0 {
        // The end may be in one line more. SAFETY: within the value.
        line(unsafe { start.add(size_of::<T>() - 1) });
    }
}

#[inline]
fn line(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch of whatever address has no effect but on the cache.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{at}]", at = in(reg) at, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = at;
}
