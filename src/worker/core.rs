//! What one worker knows and does, without I/O: bytes and time in, effects on its own queues out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_queue::ArrayQueue;

use crate::driver::{Driver, End, Nanos, Sink};
use crate::limits;
use crate::mem::chunk::ChunkPool;
use crate::proto::frame::PACKET_HEAD;
use crate::proto::key::NodeKey;
use crate::stats::{CloseReason, DropReason, WorkerStats};
use crate::tls::Transport;
use crate::worker::Doorbell;
use crate::worker::bridge::Event;
use crate::worker::directory::Directory;
use crate::worker::egress::{Bounds, Dropped};
use crate::worker::mailbox::Mailbox;
use crate::worker::placement::Placement;
use crate::worker::publish::Publication;
use crate::worker::session::{Sessions, State};
use crate::worker::timers::{Alarm, Wheel};

/// What a worker is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    pub bounds: Bounds,
    /// Chunks of all queues together, before the longest are cut.
    pub chunks_max: usize,
    /// Of a run that is sent without being queued, at least.
    pub run_bytes: usize,
    /// Zero: never.
    pub write_timeout: Duration,
    /// Sessions move to the worker that most of their packets go to.
    pub moves: bool,
    /// How long a worker looks for more to do before it sleeps; zero: not at all.
    pub busy_poll: Duration,
    /// Round-trip times of connections are sampled.
    pub round_trips: bool,
    /// The relay's own key: a watcher with it is a relay that dialled itself.
    pub server_key: NodeKey,
    /// Seeds what is only spread, such as keepalives.
    pub seed: u64,
}

pub struct Core {
    pub(super) me: u16,
    bell: Arc<Doorbell>,
    pub(super) settings: Settings,
    pub(super) now: Nanos,
    /// When something was last received.
    pub(super) active_at: Nanos,
    pub(super) sessions: Sessions,
    pub(super) directory: Directory,
    pub(super) mailbox: Mailbox,
    pub(super) chunks: ChunkPool,
    pub(super) wheel: Wheel,
    pub(super) stats: Arc<WorkerStats>,
    /// Sessions with something to send.
    pub(super) dirty: Vec<u32>,
    /// Of those, sessions with so much that they are not left waiting for the end of the turn.
    pub(super) ripe: Vec<u32>,
    /// How long `dirty` may get before the end of the turn.
    pub(super) dirty_max: usize,
    /// Empty between turns: the list takes turns with `dirty`.
    pub(super) flushing: Vec<u32>,
    pub(super) placement: Placement,
    /// Sessions that are over.
    pub(super) closing: Vec<u32>,
    /// Sessions that have a name at another worker and are still here.
    pub(super) leaving: Vec<u32>,
    pub(super) watchers: Vec<u32>,
    /// Empty buffers for frames and records that straddle.
    spare: Vec<Vec<u8>>,
    spare_bytes: usize,
    pub(super) scratch: Vec<u8>,
    /// What one receive has brought, opened. As long as it ever had to be.
    pub(super) opened: Vec<u8>,
    /// Lengths of queues with their sessions, while the longest are looked for.
    longest: Vec<(u32, u32)>,
    /// Sessions that are sent nothing until their takeover is known everywhere.
    pub(super) held: Vec<(u32, u32)>,
    pub(super) publications: VecDeque<Publication>,
    pub(super) last_publication: u64,
    pub(super) events: Arc<ArrayQueue<Event>>,
    pub(super) events_kept: VecDeque<Event>,
    /// Everybody here has been told that the relay is about to stop.
    pub(super) draining: bool,
    pub(super) stopping: bool,
    /// How far apart clients shall come back after a stop.
    pub(super) reconnect_spread: Duration,
    random: u64,
    queue_ms: f64,
    trim_at: Nanos,
}

impl Core {
    pub fn new(
        settings: Settings,
        me: u16,
        bell: Arc<Doorbell>,
        mailbox: Mailbox,
        stats: Arc<WorkerStats>,
        events: Arc<ArrayQueue<Event>>,
        now: Nanos,
    ) -> Self {
        // Neighbours must not draw the same numbers: their clients would come back together.
        let random = (settings.seed ^ (u64::from(me) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1;
        Self {
            me,
            bell,
            settings,
            now,
            active_at: 0,
            sessions: Sessions::new(me),
            directory: Directory::default(),
            mailbox,
            chunks: ChunkPool::default(),
            wheel: Wheel::new(now),
            stats,
            dirty: Vec::new(),
            ripe: Vec::new(),
            dirty_max: limits::MARKED_SESSIONS,
            flushing: Vec::new(),
            placement: Placement::default(),
            closing: Vec::new(),
            leaving: Vec::new(),
            watchers: Vec::new(),
            spare: Vec::new(),
            spare_bytes: 0,
            scratch: Vec::new(),
            opened: Vec::new(),
            longest: Vec::new(),
            held: Vec::new(),
            publications: VecDeque::new(),
            last_publication: 0,
            events,
            events_kept: VecDeque::new(),
            draining: false,
            stopping: false,
            reconnect_spread: Duration::ZERO,
            random,
            queue_ms: 0.0,
            trim_at: now + limits::TRIM_EVERY.as_nanos() as Nanos,
        }
    }

    /// Queues news of who comes and goes, behind all packets and all such news before it.
    pub(super) fn push_in_order(&mut self, slot: u32, frame: &[u8]) {
        let session = &mut self.sessions[slot];
        if !session.is_present() {
            return;
        }
        session.egress.push_in_order(&mut self.chunks, frame);
        let max = self.settings.bounds.bytes.saturating_mul(2).saturating_add(control_max(session.mesh));
        if session.egress.queued_bytes() > max {
            self.close(slot, CloseReason::ControlBacklog);
            return;
        }
        self.mark_dirty(slot);
    }

    /// Queues a frame of the relay's own; a peer that lets too many pile up is closed.
    pub(super) fn push_control(&mut self, slot: u32, frame: &[u8]) {
        let session = &mut self.sessions[slot];
        if !session.is_present() {
            return;
        }
        session.egress.push_control(&mut self.chunks, frame);
        if session.egress.control_bytes() > control_max(session.mesh) {
            self.close(slot, CloseReason::ControlBacklog);
            return;
        }
        self.mark_dirty(slot);
    }

    /// Queues a packet for a session of this worker.
    #[inline]
    pub(super) fn enqueue(&mut self, slot: u32, frame: &[u8], disco: bool, queued_us: u32) {
        let session = &mut self.sessions[slot];
        if !session.is_present() {
            self.stats.drop_packets(DropReason::GoneDisconnected, disco, 1, (frame.len() - PACKET_HEAD) as u64);
            return;
        }
        let dropped = session.egress.push_packet(&mut self.chunks, &self.settings.bounds, frame, disco, queued_us);
        self.stats.queued(1, (frame.len() - PACKET_HEAD) as u64);
        if dropped.any() {
            self.dropped_from_queue(slot, DropReason::QueueHead, dropped);
        }
        self.mark_dirty(slot);
        let session = &mut self.sessions[slot];
        if session.dirty && !session.ripe && session.egress.queued_bytes() >= limits::RIPE_BYTES {
            session.ripe = true;
            self.ripe.push(slot);
        }
        if self.chunks.in_use() > self.settings.chunks_max {
            self.shed();
        }
    }

    #[inline]
    pub(super) fn mark_dirty(&mut self, slot: u32) {
        let session = &mut self.sessions[slot];
        if !session.dirty && !session.blocked && session.held == 0 && session.state == State::Open {
            session.dirty = true;
            if let Transport::Tls13(records) = &session.transport {
                records.warm_tx();
            }
            self.dirty.push(slot);
        }
    }

    /// Packets that were queued for a session and will not be sent.
    pub(super) fn dropped_from_queue(&mut self, slot: u32, reason: DropReason, dropped: Dropped) {
        self.sessions[slot].totals.drops[reason as usize] += u64::from(dropped.data + dropped.disco);
        self.stats.unqueued(u64::from(dropped.data + dropped.disco), dropped.data_bytes + dropped.disco_bytes);
        self.count_dropped(reason, dropped);
        // The oldest are as old as each other, or nearly: they were thrown out at once.
        if let (DropReason::QueueHead, Some(queued_us)) = (reason, dropped.queued_us) {
            let waited = self.waited_us(queued_us);
            (0..dropped.data + dropped.disco).for_each(|_| self.average_queue_time(waited));
        }
    }

    pub(super) fn count_dropped(&self, reason: DropReason, dropped: Dropped) {
        self.stats.drop_packets(reason, false, u64::from(dropped.data), dropped.data_bytes);
        self.stats.drop_packets(reason, true, u64::from(dropped.disco), dropped.disco_bytes);
    }

    /// All queues together are over the budget: the longest give up half, until a sixteenth of the budget is free.
    /// So much at once, because each time looks at every session.
    #[cold]
    fn shed(&mut self) {
        let goal = self.settings.chunks_max / 16 * 15;
        let mut longest = std::mem::take(&mut self.longest);
        longest.extend(
            (0..self.sessions.slots())
                .map(|slot| (self.sessions[slot].egress.queued_bytes(), slot))
                .filter(|(bytes, _)| *bytes > 0),
        );
        longest.sort_unstable_by(|a, b| b.cmp(a));
        for (bytes, slot) in longest.drain(..) {
            if self.chunks.in_use() <= goal {
                break;
            }
            let dropped = self.sessions[slot].egress.shed(&mut self.chunks, bytes / 2);
            self.dropped_from_queue(slot, DropReason::QueueHead, dropped);
        }
        self.longest = longest;
    }

    /// Looks at the session at `at` or earlier.
    pub(super) fn wake_at(&mut self, slot: u32, at: Nanos) {
        let session = &mut self.sessions[slot];
        if at < session.alarm {
            session.alarm = at;
            self.wheel.set(Alarm { slot, generation: session.generation }, at);
        }
    }

    #[inline]
    pub(super) fn now_us(&self) -> u32 {
        (self.now / 1000) as u32
    }

    /// Microseconds since then.
    #[inline]
    pub(super) fn waited_us(&self, since_us: u32) -> u32 {
        elapsed_us(self.now_us(), since_us)
    }

    /// A packet leaves its queue to be sent.
    #[inline]
    pub(super) fn sample_queue_time(&mut self, queued_us: u32) {
        let waited = self.waited_us(queued_us);
        self.stats.queue_time.record(u64::from(waited));
        self.average_queue_time(waited);
    }

    /// Mean time in the queue, of packets that were thrown out too (the reference's rule): a tenth of each new sample.
    #[inline]
    fn average_queue_time(&mut self, waited_us: u32) {
        let ms = f64::from(waited_us / 1000);
        self.queue_ms += 0.1 * (ms - self.queue_ms);
    }

    /// So many packets are sent together, of which the first has been here since then: mostly since this turn began.
    #[inline]
    pub(super) fn sample_run(&mut self, packets: u64, queued_us: u32) {
        let waited = self.waited_us(queued_us);
        self.stats.queue_time.record_times(u64::from(waited), packets);
        let ms = f64::from(waited / 1000);
        self.queue_ms = ms + (self.queue_ms - ms) * 0.9_f64.powi(packets as i32);
    }

    /// Now and then, and only when nothing is queued: memory of a past burst goes back. A burst that comes back sooner
    /// finds it.
    pub(super) fn trim(&mut self) {
        if self.now >= self.trim_at {
            self.trim_at = self.now + limits::TRIM_EVERY.as_nanos() as Nanos;
            self.chunks.trim();
            self.mailbox.trim();
        }
    }

    pub(super) fn publish_stats(&mut self) {
        self.stats.queue_ms.set(self.queue_ms.to_bits());
        self.stats.chunks_in_use.set(self.chunks.in_use() as u64);
        self.stats.acquaintances.set(self.directory.acquaintances() as u64);
    }

    pub(super) fn count_keys(&self) {
        let (dup_keys, dup_conns) = self.directory.duplicates();
        self.stats.keys.set(self.directory.keys() as u64);
        self.stats.dup_keys.set(dup_keys as u64);
        self.stats.dup_conns.set(dup_conns as u64);
    }

    /// A pseudo-random part of `span`; only for spreading things in time.
    pub(super) fn spread(&mut self, span: Duration) -> Nanos {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let span = span.as_nanos() as Nanos;
        if span == 0 { 0 } else { self.random % span }
    }

    /// An empty buffer for what straddles.
    #[inline]
    pub(super) fn lend(&mut self) -> Option<Vec<u8>> {
        let buffer = self.spare.pop()?;
        self.spare_bytes -= buffer.capacity();
        Some(buffer)
    }

    /// Buffers come back here when nothing straddles any more.
    #[inline]
    pub(super) fn recycle(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() > 0 && self.spare_bytes + buffer.capacity() <= limits::SPARE_BYTES {
            buffer.clear();
            self.spare_bytes += buffer.capacity();
            self.spare.push(buffer);
        }
    }

    /// Packets in the queues of sessions, or committed and not yet taken by the kernel.
    pub fn packets_queued(&self) -> u64 {
        self.sessions.iter().map(|s| u64::from(s.egress.packets_held(&self.chunks))).sum()
    }

    /// Packets that wait here: in queues, committed, or in outboxes.
    pub fn packets_held(&self) -> u64 {
        self.packets_queued() + self.mailbox.packets_waiting()
    }

    /// Slots that are or were in use.
    pub fn slots(&self) -> u32 {
        self.sessions.slots()
    }

    /// Slots in use: sessions, and those that are about to come.
    pub fn sessions_used(&self) -> usize {
        self.sessions.used()
    }

    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    pub fn stats(&self) -> &WorkerStats {
        &self.stats
    }

    /// Chunks in use, batches away: both are zero when all is quiet.
    pub fn memory_held(&self) -> (usize, bool) {
        (self.chunks.in_use(), self.mailbox.is_settled())
    }
}

impl Sink for Core {
    fn awake(&mut self, now: Nanos) {
        self.now = now;
        self.bell.answer();
    }

    #[inline]
    fn expected(&mut self, slot: u32) {
        self.sessions.warm(slot);
    }

    #[inline]
    fn receiving(&mut self, slot: u32) {
        self.warm(slot);
    }

    #[inline]
    fn received<D: Driver>(&mut self, driver: &mut D, slot: u32, bytes: &mut [u8]) {
        self.active_at = self.now;
        self.receive(driver, slot, bytes);
    }

    #[inline]
    fn settle<D: Driver>(&mut self, driver: &mut D) {
        self.flush_ripe(driver);
        if self.dirty.len() >= self.dirty_max {
            self.flush(driver);
        }
    }

    fn answer<D: Driver>(&mut self, driver: &mut D) {
        self.flush(driver);
    }

    fn writable(&mut self, slot: u32) {
        self.sessions[slot].blocked = false;
        self.mark_dirty(slot);
    }

    fn ended(&mut self, slot: u32, end: End) {
        let reason = match end {
            End::Closed => CloseReason::PeerClosed,
            End::Reset => CloseReason::PeerReset,
        };
        self.close(slot, reason);
    }

    fn detached(&mut self, slot: u32) {
        debug_assert_eq!(self.sessions[slot].state, State::Detaching);
        self.sessions.give(slot);
    }
}

fn control_max(mesh: bool) -> u32 {
    if mesh { limits::CONTROL_BYTES_MAX_MESH } else { limits::CONTROL_BYTES_MAX }
}

/// A worker looks at its clock once a turn: what another one has sent may have come later than that, and has then not
/// waited at all. Both count round after 71 minutes.
#[inline]
fn elapsed_us(now: u32, since: u32) -> u32 {
    let us = now.wrapping_sub(since);
    if us <= i32::MAX as u32 { us } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::elapsed_us;

    #[test]
    fn a_packet_that_came_after_the_turn_began_has_not_waited() {
        assert_eq!([elapsed_us(7, 7), elapsed_us(9, 7), elapsed_us(7, 9)], [0, 2, 0]);
        assert_eq!([elapsed_us(3, u32::MAX), elapsed_us(u32::MAX, 3)], [4, 0]);
    }
}
