//! From bytes of the socket to whole frames: open in place, cut at frame borders.

use crate::driver::Driver;
use crate::proto::deframe::Step;
use crate::proto::frame::kind;
use crate::stats::CloseReason;
use crate::tls::record::{HEADER_LEN, RecordLayer};
use crate::tls::{Flow, Opened, Tls12, TlsFault, Transport};
use crate::worker::bulk::{Each, Forward, Runs};
use crate::worker::core::Core;
use crate::worker::session::State;

impl Core {
    /// Takes what the socket in `slot` has brought.
    #[inline]
    pub(super) fn receive<D: Driver>(&mut self, driver: &mut D, slot: u32, bytes: &mut [u8]) {
        let session = &mut self.sessions[slot];
        let runs = matches!(session.transport, Transport::Plain) && session.websocket.is_none();
        if runs && session.state == State::Open && !self.stopping {
            session.active_at = self.now;
            self.frames_to(&mut Runs::new(driver), slot, bytes);
        } else {
            self.ingest(slot, bytes);
        }
    }

    /// The same without a way to send.
    #[inline]
    pub(super) fn ingest(&mut self, slot: u32, bytes: &mut [u8]) {
        let session = &mut self.sessions[slot];
        if session.state != State::Open || self.stopping {
            return;
        }
        session.active_at = self.now;
        // The transport is out of the session while frames run through the rest of the worker.
        match std::mem::replace(&mut session.transport, Transport::Plain) {
            Transport::Plain => self.opened_bytes(slot, bytes),
            Transport::Tls13(mut records) => {
                let result = self.records(slot, &mut records, bytes);
                self.sessions[slot].transport = Transport::Tls13(records);
                self.judge(slot, result);
            }
            Transport::Tls12(mut conn) => {
                let result = self.records12(slot, &mut conn, bytes);
                self.sessions[slot].transport = Transport::Tls12(conn);
                self.judge(slot, result);
            }
        }
    }

    fn judge(&mut self, slot: u32, result: Result<Flow, TlsFault>) {
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

    /// TLS 1.3: whole records are opened where they lie; one that straddles two receives is put together first.
    #[inline]
    fn records(&mut self, slot: u32, records: &mut RecordLayer, bytes: &mut [u8]) -> Result<Flow, TlsFault> {
        let mut at = 0;
        if !self.sessions[slot].wire.is_empty() {
            let mut wire = std::mem::take(&mut self.sessions[slot].wire);
            let whole = complete_record(&mut wire, bytes, &mut at);
            if !whole {
                self.sessions[slot].wire = wire;
                return Ok(Flow::Open);
            }
            let flow = self.one_record(slot, records, &mut wire).map(|(flow, _)| flow);
            self.recycle(wire);
            if flow? == Flow::Closed {
                return Ok(Flow::Closed);
            }
        }
        while at < bytes.len() && self.sessions[slot].state == State::Open {
            match self.one_record(slot, records, &mut bytes[at..])? {
                (Flow::Closed, _) => return Ok(Flow::Closed),
                (Flow::Open, 0) => {
                    let mut wire = self.lend().unwrap_or_default();
                    wire.extend_from_slice(&bytes[at..]);
                    self.sessions[slot].wire = wire;
                    break;
                }
                (Flow::Open, used) => at += used,
            }
        }
        Ok(Flow::Open)
    }

    /// Opens the record at the front and acts on it; 0 bytes used: it is not whole.
    #[inline]
    fn one_record(&mut self, slot: u32, records: &mut RecordLayer, wire: &mut [u8]) -> Result<(Flow, usize), TlsFault> {
        Ok(match records.open(wire)? {
            Opened::Need => (Flow::Open, 0),
            Opened::Data { data, used } => {
                self.opened_bytes(slot, &mut wire[data]);
                (Flow::Open, used)
            }
            Opened::Control { used } => (Flow::Open, used),
            Opened::Closed => (Flow::Closed, 0),
        })
    }

    /// TLS 1.2: rustls opens into a buffer of its own.
    fn records12(&mut self, slot: u32, conn: &mut Tls12, bytes: &mut [u8]) -> Result<Flow, TlsFault> {
        let mut wire = std::mem::take(&mut self.sessions[slot].wire);
        let mut plain = std::mem::take(&mut self.scratch);
        let input = if wire.is_empty() {
            bytes
        } else {
            wire.extend_from_slice(bytes);
            &mut wire[..]
        };
        plain.clear();
        let result = conn.open(input, &mut plain);
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
        self.opened_bytes(slot, &mut plain);
        self.scratch = plain;
        result.map(|(_, flow)| flow)
    }

    #[inline]
    pub(super) fn frames(&mut self, slot: u32, bytes: &mut [u8]) {
        self.frames_to(&mut Each, slot, bytes);
    }

    /// Cuts plaintext into frames and acts on each.
    #[inline]
    fn frames_to(&mut self, packets: &mut impl Forward, slot: u32, bytes: &mut [u8]) {
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
