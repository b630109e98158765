//! The ring of receive buffers that the kernel fills (provided buffers).
//!
//! One mapping holds the ring of entries, another the buffers. Where the kernel consumes buffers incrementally, one
//! buffer serves many receives; elsewhere each receive takes a whole one.
#![allow(unsafe_code)]

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;
use io_uring::{IoUring, cqueue};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// Buffers in all: about one L2 cache, so that what is received is still there when it is opened and copied.
const COUNT: u16 = 32;
pub const SIZE: usize = 64 * 1024;
const GROUP: u16 = 0;

pub struct Buffers {
    ring: NonNull<BufRingEntry>,
    memory: NonNull<u8>,
    /// Bytes of each buffer that are used up. Stays zero where buffers are not consumed incrementally.
    used: [u32; COUNT as usize],
    tail: u16,
    incremental: bool,
}

const RING_BYTES: usize = COUNT as usize * size_of::<BufRingEntry>();
const MEMORY_BYTES: usize = COUNT as usize * SIZE;

impl Buffers {
    pub const GROUP: u16 = GROUP;

    /// Maps the memory and registers it with `uring`, which must be dropped before the buffers are.
    ///
    /// # Errors
    /// The kernel has no provided buffer rings, or no memory is left.
    pub fn register(uring: &IoUring) -> io::Result<Self> {
        let mut buffers = Self {
            ring: map(RING_BYTES)?.cast(),
            memory: map(MEMORY_BYTES)?,
            used: [0; COUNT as usize],
            tail: 0,
            incremental: true,
        };
        let address = buffers.ring.as_ptr() as u64;
        let register = |flags| {
            // SAFETY: the ring is page-aligned, has COUNT entries, and lives until after `uring` by the contract above.
            unsafe { uring.submitter().register_buf_ring_with_flags(address, COUNT, GROUP, flags) }
        };
        if register(io_uring::types::IOU_PBUF_RING_INC as u16).is_err() {
            buffers.incremental = false;
            register(0)?;
        }
        for id in 0..COUNT {
            buffers.offer(id);
        }
        buffers.publish();
        Ok(buffers)
    }

    pub fn is_incremental(&self) -> bool {
        self.incremental
    }

    /// The bytes that a completion with these flags has received, of which there are `len`.
    ///
    /// The slice must be done with before [`Self::release`] is called for the same completion.
    #[inline]
    pub fn received(&mut self, flags: u32, len: usize) -> Option<&mut [u8]> {
        let id = cqueue::buffer_select(flags)?;
        let at = *self.used.get(usize::from(id))? as usize;
        if at + len > SIZE {
            return None;
        }
        // SAFETY: the buffer lies in the mapping, the kernel has finished with these bytes and writes, if it goes on
        // with this buffer, only behind them; `&mut self` makes this the only reference.
        Some(unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr().add(usize::from(id) * SIZE + at), len) })
    }

    /// Gives back what a completion has used; the kernel sees it after [`Self::publish`].
    #[inline]
    pub fn release(&mut self, flags: u32, len: usize) {
        let Some(id) = cqueue::buffer_select(flags) else { return };
        if self.incremental && cqueue::buffer_more(flags) {
            self.used[usize::from(id)] += len as u32;
            return;
        }
        self.used[usize::from(id)] = 0;
        self.offer(id);
    }

    /// Lets the kernel see all buffers that were released.
    #[inline]
    pub fn publish(&mut self) {
        // SAFETY: the tail lies in the first entry of the mapping, is aligned, and is written by nobody else; the
        // kernel reads it with acquire order.
        unsafe {
            let tail = BufRingEntry::tail(self.ring.as_ptr()).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }

    fn offer(&mut self, id: u16) {
        let at = usize::from(self.tail % COUNT);
        // SAFETY: `at` is inside the ring; the entry is ours until the tail is published. The tail itself shares
        // memory with a reserved field that these setters do not touch.
        unsafe {
            let entry = &mut *self.ring.as_ptr().add(at);
            entry.set_addr(self.memory.as_ptr().add(usize::from(id) * SIZE) as u64);
            entry.set_len(SIZE as u32);
            entry.set_bid(id);
        }
        self.tail = self.tail.wrapping_add(1);
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: both were mapped with these sizes; the ring that knew of them is gone.
        unsafe {
            let _ = munmap(self.ring.as_ptr().cast(), RING_BYTES);
            let _ = munmap(self.memory.as_ptr().cast(), MEMORY_BYTES);
        }
    }
}

fn map(bytes: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: a new anonymous mapping at an address of the kernel's choice.
    let at =
        unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)? };
    NonNull::new(at.cast()).ok_or_else(|| io::Error::other("mapped at address zero"))
}

const _: () = assert!(COUNT.is_power_of_two(), "the kernel masks the tail");
