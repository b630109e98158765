//! Who is served when: sockets that bring little at once, those that bring much in turns of their own.
//!
//! A bulk sender must not make others wait: what a thin socket has brought is received and answered first, and while
//! thin sockets are at work a thick one is received from in short slices. When there are only thick ones they get as
//! much as they bring, which is what the cache likes best.

use std::collections::VecDeque;

use super::Nanos;

/// A socket that brings more than this in the mean is thick,
const THICK: u32 = 16 * 1024;
/// and thin again when it brings less than this.
const THIN: u32 = 8 * 1024;

/// One receive from a thick socket: a sender's burst, whole, in bulk.
pub const LANDING_BYTES: usize = 128 * 1024;
/// The same while thin sockets are at work.
const SLICE_BYTES: usize = 32 * 1024;
/// Thick sockets are served so long before thin ones are looked at again.
const SLICE: Nanos = 25_000;
/// Thin sockets are at work for this long after they have brought something.
const ALERT: Nanos = 2_000_000;

/// How much one socket brings at a time: the mean, each receive an eighth of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flow {
    mean: u32,
    pub thick: bool,
    /// Stands in the queue of thick sockets.
    queued: bool,
}

impl Flow {
    /// Notes one receive; `true`: it has changed sides.
    #[inline]
    pub fn weigh(&mut self, len: usize) -> bool {
        self.mean = self.mean - self.mean / 8 + len as u32 / 8;
        let stays = if self.thick { self.mean >= THIN } else { self.mean <= THICK };
        self.thick ^= !stays;
        !stays
    }
}

/// Thick sockets that are readable, in the order in which they are served.
#[derive(Debug, Default)]
pub struct Thick {
    queue: VecDeque<u32>,
    thin_at: Nanos,
}

impl Thick {
    #[inline]
    pub fn push(&mut self, slot: u32, flow: &mut Flow) {
        if !std::mem::replace(&mut flow.queued, true) {
            self.queue.push_back(slot);
        }
    }

    #[inline]
    pub fn pop(&mut self) -> Option<u32> {
        self.queue.pop_front()
    }

    /// Must be called for what was popped, if its slot is still in use.
    #[inline]
    pub fn popped(flow: &mut Flow) {
        flow.queued = false;
    }

    pub fn len(&self) -> usize {
        self.queue.len()
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// A thin socket has brought something.
    #[inline]
    pub fn saw_thin(&mut self, now: Nanos) {
        self.thin_at = now;
    }

    /// What may be received from each thick socket, and when that must end.
    #[inline]
    pub fn share(&self, now: Nanos) -> (usize, Nanos) {
        if now < self.thin_at + ALERT { (SLICE_BYTES, now + SLICE) } else { (LANDING_BYTES, Nanos::MAX) }
    }
}
