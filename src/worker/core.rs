//! What one worker knows and does, without I/O: bytes and time in, effects on its own queues out.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_queue::ArrayQueue;

use crate::driver::{Driver, End, Nanos, Sink};
use crate::limits;
use crate::mem::batch::{Join, Note};
use crate::mem::chunk::ChunkPool;
use crate::proto::frame::{self, PACKET_HEAD};
use crate::proto::key::NodeKey;
use crate::stats::{CloseReason, DropReason, WorkerStats};
use crate::tls::Transport;
use crate::worker::Doorbell;
use crate::worker::bridge::{Event, Identity, SessionEnd};
use crate::worker::directory::Directory;
use crate::worker::egress::{Bounds, Dropped};
use crate::worker::mailbox::Mailbox;
use crate::worker::publish::Publication;
use crate::worker::session::{Sessions, State, TokenBucket};
use crate::worker::timers::{Alarm, Wheel};

/// What a worker is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    pub bounds: Bounds,
    /// Chunks of all queues together, before the longest are cut.
    pub chunks_max: usize,
    /// Zero: never.
    pub write_timeout: Duration,
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
    /// Empty between turns: the list takes turns with `dirty`.
    pub(super) flushing: Vec<u32>,
    /// Sessions that are over.
    pub(super) closing: Vec<u32>,
    pub(super) watchers: Vec<u32>,
    /// Empty buffers for frames and records that straddle.
    spare: Vec<Vec<u8>>,
    spare_bytes: usize,
    pub(super) scratch: Vec<u8>,
    /// Lengths of queues with their sessions, while the longest are looked for.
    longest: Vec<(u32, u32)>,
    /// Sessions that are sent nothing until their takeover is known everywhere.
    pub(super) held: Vec<(u32, u32)>,
    pub(super) publications: VecDeque<Publication>,
    pub(super) last_publication: u64,
    events: Arc<ArrayQueue<Event>>,
    events_kept: VecDeque<Event>,
    pub(super) stopping: bool,
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
            sessions: Sessions::new(me),
            directory: Directory::default(),
            mailbox,
            chunks: ChunkPool::default(),
            wheel: Wheel::new(now),
            stats,
            dirty: Vec::new(),
            ripe: Vec::new(),
            flushing: Vec::new(),
            closing: Vec::new(),
            watchers: Vec::new(),
            spare: Vec::new(),
            spare_bytes: 0,
            scratch: Vec::new(),
            longest: Vec::new(),
            held: Vec::new(),
            publications: VecDeque::new(),
            last_publication: 0,
            events,
            events_kept: VecDeque::new(),
            stopping: false,
            random,
            queue_ms: 0.0,
            trim_at: now + limits::TRIM_EVERY.as_nanos() as Nanos,
        }
    }

    /// A session begins: it is known here at once, and everywhere when the publication that is returned is complete.
    /// Its greeting is the first thing that it will be sent. `None`: no slot is left.
    pub(super) fn join(&mut self, identity: &Identity, transport: Transport, greeting: &[u8]) -> Option<(u32, u64)> {
        let slot = self.sessions.take()?;
        let jitter = self.spread(limits::KEEP_ALIVE_JITTER);
        let join = Join {
            key: identity.key,
            conn: self.sessions.name(slot),
            stamp: self.now,
            ip: address_bytes(identity),
            port: identity.address.map_or(0, |a| a.port()),
            flags: present_flags(identity),
        };
        let session = &mut self.sessions[slot];
        session.state = State::Joining;
        session.key = identity.key;
        session.identity = *identity;
        session.mesh = identity.mesh;
        session.not_ideal = identity.not_ideal;
        session.transport = transport;
        session.since = self.now;
        session.keep_alive_every = limits::KEEP_ALIVE.as_nanos() as Nanos + jitter;
        session.not_here = TokenBucket::full(limits::NOT_HERE_BURST, self.now);
        session.egress.push_control(&mut self.chunks, greeting);
        self.stats.connections.add(1);
        self.stats.not_ideal_connections.add(u64::from(identity.not_ideal));
        let publication = self.publish(Note::Join(join));
        self.joined(&join);
        let peer = self.directory.peer(self.sessions[slot].peer);
        if peer.is_shared() {
            self.stats.dup_conns_total.add(1);
        }
        Some((slot, publication))
    }

    /// The session may be read and written from now on.
    pub(super) fn opened(&mut self, slot: u32) {
        let session = &mut self.sessions[slot];
        session.state = State::Open;
        session.keep_alive_at = self.now + session.keep_alive_every;
        session.round_trip_at = self.now;
        session.alarm = Nanos::MAX;
        self.wake_at(slot, self.now);
        self.mark_dirty(slot);
    }

    /// The session is over; everything else about its end happens at the end of the turn.
    pub(super) fn close(&mut self, slot: u32, reason: CloseReason) {
        let session = &mut self.sessions[slot];
        match session.state {
            State::Open => self.closing.push(slot),
            // Buried when its turn to open comes: until then its socket has not met the driver.
            State::Joining => {}
            _ => return,
        }
        session.state = State::Closing(reason);
    }

    /// The edge handed over a connection that cannot be named.
    #[cold]
    pub(super) fn refused(&mut self, identity: &Identity) {
        let reason = CloseReason::Internal;
        self.stats.closes[reason as usize].add(1);
        let end = SessionEnd {
            worker: self.me,
            identity: *identity,
            reason,
            lived: Duration::ZERO,
            totals: Default::default(),
        };
        self.events_kept.push_back(Event::Closed(end));
    }

    /// A session that ended before it began: its socket never met the driver.
    pub(super) fn detach_unopened(&mut self, slot: u32) {
        if let State::Closing(reason) = self.sessions[slot].state {
            self.bury(slot, reason);
            self.detached(slot);
        }
    }

    /// Everything that was queued for this session has reached the kernel.
    pub(super) fn is_flushed(&self, slot: u32) -> bool {
        let session = &self.sessions[slot];
        session.state == State::Open && session.egress.is_empty()
    }

    /// Takes a session that is over out of everything but its slot.
    pub(super) fn bury(&mut self, slot: u32, reason: CloseReason) {
        let session = &mut self.sessions[slot];
        session.state = State::Detaching;
        let key = session.key;
        let (queued, unsent) = session.egress.clear(&mut self.chunks);
        session.totals.dropped += u64::from(queued.data + queued.disco + unsent.data + unsent.disco);
        self.count_dropped(DropReason::GoneDisconnected, queued);
        self.count_dropped(DropReason::WriteError, unsent);
        let session = &mut self.sessions[slot];
        self.stats.connections.sub(1);
        self.stats.home_connections.sub(u64::from(session.home));
        self.stats.not_ideal_connections.sub(u64::from(session.not_ideal));
        if session.watching {
            self.stats.watchers.sub(1);
            self.watchers.retain(|w| *w != slot);
        }
        self.stats.closes[reason as usize].add(1);
        let end = SessionEnd {
            worker: self.me,
            identity: session.identity,
            reason,
            lived: Duration::from_nanos(self.now.saturating_sub(session.since)),
            totals: session.totals,
        };
        let name = self.sessions.name(slot);
        self.directory.forget_session(slot, &mut self.sessions);
        self.departed(&key, name);
        if !self.stopping {
            self.mailbox.broadcast(Note::Depart { key, conn: name });
        }
        self.events_kept.push_back(Event::Closed(end));
        let session = &mut self.sessions[slot];
        session.transport = Transport::Plain;
        session.wire = Vec::new();
        session.deframer = Default::default();
    }

    /// Tells the edge what it has room for.
    pub(super) fn report(&mut self) {
        while let Some(event) = self.events_kept.pop_front() {
            if let Err(event) = self.events.push(event) {
                self.events_kept.push_front(event);
                return;
            }
        }
    }

    pub(super) fn has_reports(&self) -> bool {
        !self.events_kept.is_empty()
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
        if dropped.any() {
            session.totals.dropped += u64::from(dropped.data + dropped.disco);
            self.count_dropped(DropReason::QueueHead, dropped);
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
            self.dirty.push(slot);
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
            self.sessions[slot].totals.dropped += u64::from(dropped.data + dropped.disco);
            self.count_dropped(DropReason::QueueHead, dropped);
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

    /// Mean time in the queue: a tenth of each new sample.
    #[inline]
    pub(super) fn sample_queue_time(&mut self, queued_us: u32) {
        let ms = f64::from(self.now_us().wrapping_sub(queued_us) / 1000);
        self.queue_ms += 0.1 * (ms - self.queue_ms);
    }

    /// Now and then, and only when nothing is queued: memory of a past burst goes back. A burst that comes back sooner
    /// finds it.
    pub(super) fn trim(&mut self) {
        if self.now >= self.trim_at {
            self.trim_at = self.now + limits::TRIM_EVERY.as_nanos() as Nanos;
            self.chunks.trim();
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

    /// Packets that wait here: in queues, committed, or in outboxes.
    pub fn packets_held(&self) -> u64 {
        let queued: u64 = self.sessions.iter().map(|s| u64::from(s.egress.packets_held(&self.chunks))).sum();
        queued + self.mailbox.packets_waiting()
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
    fn received(&mut self, slot: u32, bytes: &mut [u8]) {
        self.ingest(slot, bytes);
    }

    #[inline]
    fn settle<D: Driver>(&mut self, driver: &mut D) {
        self.flush_ripe(driver);
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

fn address_bytes(identity: &Identity) -> [u8; 16] {
    match identity.address.map(|a| a.ip()) {
        Some(IpAddr::V4(ip)) => ip.to_ipv6_mapped().octets(),
        Some(IpAddr::V6(ip)) => ip.octets(),
        None => [0; 16],
    }
}

fn present_flags(identity: &Identity) -> u8 {
    use frame::present;
    let mut flags = 0;
    if identity.mesh {
        flags |= present::MESH;
    }
    if identity.prober {
        flags |= present::PROBER;
    }
    if identity.not_ideal {
        flags |= present::NOT_IDEAL;
    }
    if flags == 0 { present::REGULAR } else { flags }
}
