//! How a sleeping worker is woken: by its eventfd, or by a message to its ring.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// Shared with everybody who may wake the worker.
#[derive(Debug)]
pub struct WakeHandle {
    eventfd: OwnedFd,
    /// Descriptor of the worker's ring, or -1 while it has none.
    ring: AtomicI32,
}

impl WakeHandle {
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<Self> {
        Ok(Self { eventfd: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?, ring: AtomicI32::new(-1) })
    }

    /// Wakes the worker from any thread. A full counter means that it is awake already.
    pub fn wake(&self) {
        let _ = rustix::io::write(&self.eventfd, &1_u64.to_ne_bytes());
    }

    /// Takes note of wakes so far.
    pub fn clear(&self) {
        let _ = rustix::io::read(&self.eventfd, &mut [0_u8; 8]);
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }

    pub(super) fn set_ring(&self, fd: RawFd) {
        self.ring.store(fd, Ordering::Release);
    }

    pub(super) fn ring(&self) -> Option<RawFd> {
        let fd = self.ring.load(Ordering::Acquire);
        (fd >= 0).then_some(fd)
    }
}
