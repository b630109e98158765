//! From queues to the socket: commit whole frames, seal them where they lie, one send at a time.

use std::io::IoSlice;

use crate::driver::{Driver, Nanos};
use crate::limits;
use crate::mem::chunk::{CAPACITY, Chunk, ChunkId, FrameClass, HEADROOM, NIL};
use crate::stats::CloseReason;
use crate::tls::{RecordLayer, TlsFault, Transport};
use crate::worker::core::Core;
use crate::worker::egress::COMMIT_BYTES;
use crate::worker::session::State;

/// Chunks in one send.
pub(super) const PARTS: usize = 8;

impl Core {
    /// Sends what waits in every session that is marked, each up to its share of the turn.
    pub(super) fn flush<D: Driver>(&mut self, driver: &mut D) {
        self.flush_ripe(driver);
        let mut marked = std::mem::take(&mut self.flushing);
        // Sessions that use up their share are marked again, in the list that is empty now.
        std::mem::swap(&mut marked, &mut self.dirty);
        for slot in marked.drain(..) {
            self.sessions[slot].dirty = false;
            self.flush_session(driver, slot);
        }
        self.flushing = marked;
        // Those that are marked again have had their share: they do not bring the next flush nearer.
        self.dirty_max = self.dirty.len() + limits::MARKED_SESSIONS;
    }

    /// Sends what has become worth a send of its own, while it is in the cache and its chunks are wanted back.
    #[inline]
    pub(super) fn flush_ripe<D: Driver>(&mut self, driver: &mut D) {
        while let Some(slot) = self.ripe.pop() {
            self.sessions[slot].ripe = false;
            self.flush_session(driver, slot);
        }
    }

    fn flush_session<D: Driver>(&mut self, driver: &mut D, slot: u32) {
        let mut share = limits::TURN_SEND_BYTES;
        loop {
            let session = &self.sessions[slot];
            if session.state != State::Open || session.blocked || session.held != 0 {
                return;
            }
            if !session.egress.has_wire() {
                match self.commit(slot) {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(fault) => {
                        self.sessions[slot].fault = Some(fault);
                        self.close(slot, CloseReason::Internal);
                        return;
                    }
                }
            }
            if share == 0 {
                self.mark_dirty(slot);
                return;
            }
            match self.send_committed(driver, slot) {
                Some(sent) => share = share.saturating_sub(sent),
                None => return,
            }
        }
    }

    /// Sends what is committed, at most so much as one send takes. `None`: the socket is full or broken.
    pub(super) fn send_committed<D: Driver>(&mut self, driver: &mut D, slot: u32) -> Option<usize> {
        let mut parts = [IoSlice::new(&[]); PARTS];
        let (count, bytes) = self.parts(slot, &mut parts);
        let Ok(sent) = driver.send(slot, &parts[..count]) else {
            self.close(slot, CloseReason::WriteError);
            return None;
        };
        self.sent(slot, sent);
        if sent < bytes {
            self.block(slot);
            return None;
        }
        Some(sent)
    }

    pub(super) fn parts<'a>(&'a self, slot: u32, parts: &mut [IoSlice<'a>; PARTS]) -> (usize, usize) {
        let (mut count, mut bytes) = (0, 0);
        let mut id = self.sessions[slot].egress.wire_head();
        while id != NIL && count < PARTS {
            let chunk = &self.chunks[id];
            parts[count] = IoSlice::new(chunk.bytes());
            bytes += chunk.len();
            count += 1;
            id = chunk.next;
        }
        (count, bytes)
    }

    #[inline]
    pub(super) fn sent(&mut self, slot: u32, bytes: usize) {
        let (mut packets, mut payload) = (0, 0);
        let count = |chunk: &Chunk| {
            packets += u64::from(chunk.packets);
            payload += u64::from(chunk.payload);
        };
        self.sessions[slot].egress.advance(&mut self.chunks, bytes, count);
        self.stats.unqueued(packets, payload);
        self.went(slot, packets, payload);
    }

    /// Counts packets that the kernel has taken.
    #[inline]
    pub(super) fn went(&mut self, slot: u32, packets: u64, payload: u64) {
        let totals = &mut self.sessions[slot].totals;
        totals.packets_out += packets;
        totals.bytes_out += payload;
        self.stats.packets_sent.add(packets);
        self.stats.bytes_sent.add(payload);
    }

    /// The socket is full. The write timeout runs from here, and from each sign that the peer still takes something.
    pub(super) fn block(&mut self, slot: u32) {
        let session = &mut self.sessions[slot];
        session.blocked = true;
        session.blocked_since = self.now;
        session.blocked_bytes = None;
        let timeout = self.write_timeout(slot);
        if timeout > 0 {
            self.wake_at(slot, self.now + timeout / 2);
        }
    }

    /// Nanoseconds; 0 is never.
    pub(super) fn write_timeout(&self, slot: u32) -> Nanos {
        let mesh = self.sessions[slot].mesh;
        let timeout = if mesh { limits::MESH_WRITE_TIMEOUT } else { self.settings.write_timeout };
        if self.settings.write_timeout.is_zero() { 0 } else { timeout.as_nanos() as Nanos }
    }

    /// Moves whole frames from the queues to the wire, sealed. `false`: nothing waits.
    pub(super) fn commit(&mut self, slot: u32) -> Result<bool, TlsFault> {
        let mut transport = std::mem::replace(&mut self.sessions[slot].transport, Transport::Plain);
        let result = self.commit_sealed(slot, &mut transport);
        self.sessions[slot].transport = transport;
        let (frames, bytes) = result?;
        if frames > 0 {
            self.stats.write_frames.record(frames);
        }
        Ok(bytes > 0)
    }

    fn commit_sealed(&mut self, slot: u32, transport: &mut Transport) -> Result<(u64, usize), TlsFault> {
        let (mut frames, mut bytes) = (0, 0);
        if let Some(pong) = self.take_pong(slot) {
            bytes += self.chunks[pong].len();
            self.seal(slot, transport, pong)?;
        }
        while bytes < COMMIT_BYTES {
            let Some(mut committed) = self.sessions[slot].egress.commit(&mut self.chunks) else { break };
            loop {
                frames += self.note_commit(slot, committed.id);
                bytes += self.chunks[committed.id].len();
                self.wrap(slot, committed.id);
                self.seal(slot, transport, committed.id)?;
                if !committed.continues {
                    break;
                }
                committed = self.sessions[slot].egress.commit_rest(&mut self.chunks, committed.from);
            }
        }
        Ok((frames, bytes))
    }

    /// Takes the statistics of the frames that begin in a chunk.
    #[inline]
    fn note_commit(&mut self, slot: u32, id: ChunkId) -> u64 {
        let count = self.chunks[id].frames().len();
        for at in 0..count {
            let meta = self.chunks[id].frames()[at];
            if meta.class == FrameClass::Control {
                self.sessions[slot].pong_pending = false;
            } else {
                self.sample_queue_time(meta.queued_us);
            }
        }
        count as u64
    }

    #[inline]
    fn seal(&mut self, slot: u32, transport: &mut Transport, id: ChunkId) -> Result<(), TlsFault> {
        self.stats.record_bytes.record(self.chunks[id].len() as u64);
        match transport {
            Transport::Plain => {}
            Transport::Tls13(records) => {
                self.refresh_key(slot, records)?;
                let chunk = &mut self.chunks[id];
                let range = records.seal_in_place(&mut chunk.data, chunk.start as usize, chunk.end as usize)?;
                chunk.start = range.start as u32;
                chunk.end = range.end as u32;
            }
            Transport::Tls12(conn) => {
                let mut sealed = std::mem::take(&mut self.scratch);
                sealed.clear();
                let made = conn.seal(self.chunks[id].bytes(), &mut sealed);
                let chunk = &mut self.chunks[id];
                // One record of TLS 1.2 is at most 29 bytes longer than what is in it, which the chunk has room for.
                chunk.start = 0;
                chunk.end = sealed.len() as u32;
                chunk.data[..sealed.len()].copy_from_slice(&sealed);
                self.scratch = sealed;
                made?;
            }
        }
        self.sessions[slot].egress.push_wire(&mut self.chunks, id);
        Ok(())
    }

    /// Before each record: a new key, if one is due.
    #[inline]
    pub(super) fn refresh_key(&mut self, slot: u32, records: &mut RecordLayer) -> Result<(), TlsFault> {
        if records.key_update_due() {
            let mut message = std::mem::take(&mut self.scratch);
            message.clear();
            let made = records.key_update(&mut message);
            self.push_wire_bytes(slot, &message);
            self.scratch = message;
            made?;
        }
        Ok(())
    }

    fn push_wire_bytes(&mut self, slot: u32, bytes: &[u8]) {
        let id = self.chunks.take();
        self.chunks[id].append(bytes);
        self.sessions[slot].egress.push_wire(&mut self.chunks, id);
    }

    /// Ends every session that is over: says so to the peer if the socket takes it, and lets the socket go.
    pub(super) fn reap<D: Driver>(&mut self, driver: &mut D) {
        while let Some(slot) = self.closing.pop() {
            let State::Closing(reason) = self.sessions[slot].state else { continue };
            let session = &mut self.sessions[slot];
            if !session.egress.has_wire() && !matches!(reason, CloseReason::PeerReset | CloseReason::WriteError) {
                let mut farewell = std::mem::take(&mut self.scratch);
                farewell.clear();
                let fault = session.fault;
                let close = self.close_frame(slot, reason);
                let transport = &mut self.sessions[slot].transport;
                // A record that cannot be sealed leaves the peer with a bare end, which it must survive anyway.
                let _ = transport.seal_into(&close, &mut farewell);
                transport.farewell(fault, &mut farewell);
                if !farewell.is_empty() {
                    let _ = driver.send(slot, &[IoSlice::new(&farewell)]);
                }
                self.scratch = farewell;
            }
            self.bury(slot, reason);
            driver.detach(slot, self);
        }
    }

    /// Looks at the deadlines of one session.
    pub(super) fn alarm<D: Driver>(&mut self, driver: &mut D, slot: u32) {
        let session = &mut self.sessions[slot];
        if session.state != State::Open {
            return;
        }
        session.alarm = Nanos::MAX;
        if self.now >= session.keep_alive_at {
            session.keep_alive_at = self.now + session.keep_alive_every;
            self.push_control(slot, &crate::proto::frame::KEEP_ALIVE);
        }
        if self.now >= self.sessions[slot].round_trip_at {
            self.sessions[slot].round_trip_at = self.now + limits::RTT_SAMPLE.as_nanos() as Nanos;
            let round_trip = driver.round_trip(slot);
            self.sessions[slot].round_trip = round_trip;
            let label = round_trip.map_or(crate::stats::ROUND_TRIP_ERROR, crate::stats::round_trip_label);
            self.stats.round_trip[label].add(1);
        }
        let mut next = self.sessions[slot].keep_alive_at.min(self.sessions[slot].round_trip_at);
        let timeout = self.write_timeout(slot);
        if self.sessions[slot].blocked && timeout > 0 {
            next = next.min(self.check_write(driver, slot, timeout));
        }
        self.wake_at(slot, next);
    }

    /// Ends a connection whose peer has taken nothing for the whole timeout; a slow one may go on. What the peer has
    /// acknowledged is asked at half time and at the end, not at every full socket. Returns when to look again.
    fn check_write<D: Driver>(&mut self, driver: &mut D, slot: u32, timeout: Nanos) -> Nanos {
        let since = self.sessions[slot].blocked_since;
        let (half, due) = (since + timeout / 2, since + timeout);
        if self.now < half {
            return half;
        }
        let unacknowledged = driver.unacknowledged(slot);
        let session = &mut self.sessions[slot];
        match session.blocked_bytes {
            Some(before) if self.now >= due => {
                if unacknowledged.is_none_or(|bytes| bytes >= before) {
                    self.stats.write_timeouts.add(1);
                    self.close(slot, CloseReason::WriteTimeout);
                    return Nanos::MAX;
                }
                session.blocked_since = self.now;
                session.blocked_bytes = unacknowledged;
                self.now + timeout
            }
            Some(_) => due,
            None => {
                session.blocked_bytes = Some(unacknowledged.unwrap_or(0));
                due.max(self.now + timeout / 4)
            }
        }
    }
}

// A chunk is one record.
const _: () = assert!(CAPACITY <= crate::tls::record::MAX_PLAINTEXT && HEADROOM >= crate::tls::record::HEADER_LEN);
