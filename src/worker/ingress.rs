//! From bytes of the socket to whole frames: open side by side, cut at frame borders.

use crate::driver::Driver;
use crate::mem::warm::warm;
use crate::proto::deframe::Step;
use crate::proto::frame::kind;
use crate::stats::CloseReason;
use crate::tls::record::{HEADER_LEN, RecordLayer};
use crate::tls::{Flow, Opened, Tls12, TlsFault, Transport};
use crate::worker::bulk::{Each, Forward, Runs};
use crate::worker::core::Core;
use crate::worker::session::State;

impl Core {
    /// Asks for the memory that the next receive of this session needs, and a packet that goes where its last one went.
    #[inline]
    pub(super) fn warm(&self, slot: u32) {
        let session = &self.sessions[slot];
        warm(session);
        if let Transport::Tls13(records) = &session.transport {
            records.warm_rx();
        }
        if let Some(route) = &session.routes[0] {
            self.directory.warm(route.peer);
            if route.to.worker() == self.me {
                self.sessions.warm(route.to.slot());
            }
        }
    }

    /// Takes what the socket in `slot` has brought.
    #[inline]
    pub(super) fn receive<D: Driver>(&mut self, driver: &mut D, slot: u32, bytes: &mut [u8]) {
        self.take_in(&mut Runs::new(driver), slot, bytes);
    }

    /// The same without a way to send.
    pub(super) fn ingest(&mut self, slot: u32, bytes: &mut [u8]) {
        self.take_in(&mut Each, slot, bytes);
    }

    #[inline]
    fn take_in(&mut self, packets: &mut impl Forward, slot: u32, bytes: &mut [u8]) {
        let session = &mut self.sessions[slot];
        if session.state != State::Open || self.stopping {
            return;
        }
        session.active_at = self.now;
        // The transport is out of its session only while records are opened, not while frames run through the rest of
        // the worker: one of them may be for this very session.
        match std::mem::replace(&mut session.transport, Transport::Plain) {
            Transport::Plain => self.opened_bytes(packets, slot, bytes),
            Transport::Tls13(mut records) => {
                let mut opened = std::mem::take(&mut self.opened);
                let (end, result) = self.records(slot, &mut records, bytes, &mut opened);
                self.sessions[slot].transport = Transport::Tls13(records);
                self.opened_bytes(packets, slot, &mut opened[..end]);
                self.opened = opened;
                self.judge(slot, result);
            }
            Transport::Tls12(mut conn) => {
                let mut opened = std::mem::take(&mut self.scratch);
                opened.clear();
                let result = self.records12(slot, &mut conn, bytes, &mut opened);
                self.sessions[slot].transport = Transport::Tls12(conn);
                self.opened_bytes(packets, slot, &mut opened);
                self.scratch = opened;
                self.judge(slot, result);
            }
        }
    }

    /// What came of opening, once the frames before that have been acted on: the first reason to end is the one that
    /// counts.
    fn judge(&mut self, slot: u32, result: Result<Flow, TlsFault>) {
        if self.sessions[slot].state != State::Open {
            return;
        }
        match result {
            Ok(Flow::Open) => {}
            Ok(Flow::Closed) => self.close(slot, CloseReason::PeerClosed),
            Err(fault) => {
                self.sessions[slot].fault = Some(fault);
                let reason = match fault {
                    TlsFault::PeerAlert(_) => CloseReason::PeerReset,
                    TlsFault::Forbidden(_) => CloseReason::BadRecord,
                    TlsFault::Ours => CloseReason::Internal,
                };
                self.close(slot, reason);
            }
        }
    }

    /// TLS 1.3: opens whole records side by side, to the front of `opened`. Returns where that ends.
    ///
    /// The beginning of a frame that the last receive ended with stands in front if this one is worth it, so that what
    /// follows is cut into frames where it lies.
    #[inline]
    fn records(
        &mut self,
        slot: u32,
        records: &mut RecordLayer,
        bytes: &[u8],
        opened: &mut Vec<u8>,
    ) -> (usize, Result<Flow, TlsFault>) {
        let mut end = 0;
        let session = &mut self.sessions[slot];
        let head = if bytes.len() >= self.settings.run_bytes && session.websocket.is_none() {
            session.deframer.begun()
        } else {
            &[]
        };
        // No record carries more than it is long.
        let room = head.len() + session.wire.len() + bytes.len();
        if opened.len() < room {
            opened.resize(room, 0);
        }
        if !head.is_empty() {
            end = head.len();
            opened[..end].copy_from_slice(head);
            session.deframer.forget_begun();
        }
        let mut at = 0;
        if !session.wire.is_empty() {
            let whole = complete_record(&mut session.wire, bytes, &mut at);
            if !whole {
                return (end, Ok(Flow::Open));
            }
            let wire = std::mem::take(&mut session.wire);
            let result = records.open(&wire, &mut opened[end..]);
            self.recycle(wire);
            match result {
                Ok(Opened::Data { len, .. }) => end += len,
                Ok(Opened::Control { .. }) => {}
                Ok(Opened::Closed) => return (end, Ok(Flow::Closed)),
                // Only of a record that is longer than TLS allows.
                Ok(Opened::Need) => return (end, Err(TlsFault::Ours)),
                Err(fault) => return (end, Err(fault)),
            }
        }
        while at < bytes.len() {
            match records.open(&bytes[at..], &mut opened[end..]) {
                Ok(Opened::Data { len, used }) => {
                    end += len;
                    at += used;
                }
                Ok(Opened::Control { used }) => at += used,
                Ok(Opened::Closed) => return (end, Ok(Flow::Closed)),
                Ok(Opened::Need) => {
                    let mut wire = self.lend().unwrap_or_default();
                    wire.extend_from_slice(&bytes[at..]);
                    self.sessions[slot].wire = wire;
                    break;
                }
                Err(fault) => return (end, Err(fault)),
            }
        }
        (end, Ok(Flow::Open))
    }

    /// TLS 1.2: rustls appends what it opens.
    fn records12(
        &mut self,
        slot: u32,
        conn: &mut Tls12,
        bytes: &mut [u8],
        opened: &mut Vec<u8>,
    ) -> Result<Flow, TlsFault> {
        let mut wire = std::mem::take(&mut self.sessions[slot].wire);
        let input = if wire.is_empty() {
            bytes
        } else {
            wire.extend_from_slice(bytes);
            &mut wire[..]
        };
        let result = conn.open(input, opened);
        let rest = match &result {
            Ok((used, _)) => *used..input.len(),
            Err(_) => 0..0,
        };
        let mut kept = Vec::new();
        if !rest.is_empty() {
            kept = self.lend().unwrap_or_default();
            kept.extend_from_slice(&input[rest]);
        }
        self.recycle(wire);
        self.sessions[slot].wire = kept;
        result.map(|(_, flow)| flow)
    }

    #[inline]
    pub(super) fn frames(&mut self, slot: u32, bytes: &mut [u8]) {
        self.frames_to(&mut Each, slot, bytes);
    }

    /// Cuts plaintext into frames and acts on each.
    #[inline]
    pub(super) fn frames_to(&mut self, packets: &mut impl Forward, slot: u32, bytes: &mut [u8]) {
        let session = &mut self.sessions[slot];
        let mesh = session.mesh;
        if session.shared && !bytes.is_empty() {
            self.spoke(slot);
        }
        let mut deframer = std::mem::take(&mut self.sessions[slot].deframer);
        if deframer.wants_buffer()
            && let Some(buffer) = self.lend()
        {
            deframer.reuse(buffer);
        }
        let mut at = 0;
        while self.sessions[slot].state == State::Open {
            match deframer.next(bytes, at, mesh) {
                Step::Frame { start, end } => {
                    if bytes[start] == kind::SEND_PACKET {
                        packets.packet(self, slot, bytes, start, end);
                    } else {
                        packets.settle(self, bytes);
                        self.other_frame(slot, &mut bytes[start..end]);
                    }
                    at = end;
                }
                Step::Stitched { used } => {
                    packets.settle(self, bytes);
                    let mut frame = deframer.take_stitched();
                    self.frame(slot, &mut frame);
                    deframer.reuse(frame);
                    at = used;
                }
                Step::Skipped { used } => {
                    self.stats.unknown_frames.add(1);
                    at = used;
                }
                Step::Need => break,
                Step::Forbidden { kind } => self.forbidden(slot, kind),
            }
        }
        packets.settle(self, bytes);
        if let Some(buffer) = deframer.spare() {
            self.recycle(buffer);
        }
        self.sessions[slot].deframer = deframer;
    }

    #[cold]
    fn forbidden(&mut self, slot: u32, kind: u8) {
        if kind == kind::PING {
            self.stats.got_ping.add(1);
        }
        let mesh_only = matches!(kind, kind::FORWARD_PACKET | kind::WATCH_CONNS | kind::CLOSE_PEER);
        let reason = if mesh_only && !self.sessions[slot].mesh { CloseReason::NotMesh } else { CloseReason::BadFrame };
        self.close(slot, reason);
    }

    #[inline]
    fn frame(&mut self, slot: u32, frame: &mut [u8]) {
        if frame[0] == kind::SEND_PACKET { self.packet(slot, frame) } else { self.other_frame(slot, frame) }
    }
}

/// Moves bytes from `bytes[at..]` until `wire` holds one whole record.
fn complete_record(wire: &mut Vec<u8>, bytes: &[u8], at: &mut usize) -> bool {
    loop {
        let need = match wire.first_chunk::<HEADER_LEN>() {
            // A length that TLS forbids is refused when the record is opened: its header is enough for that.
            Some(&[.., a, b]) => HEADER_LEN + usize::from(u16::from_be_bytes([a, b])),
            None => HEADER_LEN,
        };
        if wire.len() >= HEADER_LEN && wire.len() >= need.min(crate::tls::record::MAX_RECORD) {
            return true;
        }
        let n = need.saturating_sub(wire.len()).min(bytes.len() - *at);
        if n == 0 {
            return false;
        }
        wire.extend_from_slice(&bytes[*at..*at + n]);
        *at += n;
    }
}
