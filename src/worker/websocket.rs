//! Sessions inside of a WebSocket: DERP's bytes lie in binary messages, one for each chunk that leaves.

use crate::mem::chunk::{CAPACITY, ChunkId, HEADROOM};
use crate::proto::ws::{self, CloseCode, Step};
use crate::stats::CloseReason;
use crate::tls::record;
use crate::worker::bulk::Forward;
use crate::worker::core::Core;
use crate::worker::session::State;

impl Core {
    /// Takes opened bytes of any session.
    #[inline]
    pub(super) fn opened_bytes(&mut self, packets: &mut impl Forward, slot: u32, bytes: &mut [u8]) {
        if self.sessions[slot].websocket.is_none() {
            self.frames_to(packets, slot, bytes);
        } else {
            self.messages(slot, bytes);
        }
    }

    /// The unframer is out of the session while frames run through the rest of the worker: nothing is sent meanwhile.
    fn messages(&mut self, slot: u32, bytes: &mut [u8]) {
        let Some(mut unframer) = self.sessions[slot].websocket.take() else { return };
        let mut at = 0;
        while self.sessions[slot].state == State::Open {
            match unframer.next(bytes, at) {
                Step::Data { start, end } => {
                    self.frames(slot, &mut bytes[start..end]);
                    at = end;
                }
                Step::Ping { used } => {
                    at = used;
                    self.mark_dirty(slot);
                }
                Step::Need => break,
                Step::Closed { code } => {
                    self.sessions[slot].farewell = code;
                    self.close(slot, CloseReason::PeerClosed);
                }
                Step::Forbidden(code) => {
                    self.sessions[slot].farewell = Some(code as u16);
                    self.close(slot, CloseReason::BadWebSocket);
                }
            }
        }
        self.sessions[slot].websocket = Some(unframer);
    }

    /// The answer to a ping, in a chunk of its own.
    pub(super) fn take_pong(&mut self, slot: u32) -> Option<ChunkId> {
        let unframer = self.sessions[slot].websocket.as_mut().filter(|unframer| unframer.owes_pong())?;
        let id = self.chunks.take();
        self.chunks[id].append(unframer.pong());
        unframer.forget_pong();
        Some(id)
    }

    /// Makes one message of a chunk that is about to be sealed.
    #[inline]
    pub(super) fn wrap(&mut self, slot: u32, id: ChunkId) {
        if self.sessions[slot].websocket.is_none() {
            return;
        }
        let chunk = &mut self.chunks[id];
        let (header, len) = ws::header(chunk.len());
        let end = chunk.start as usize;
        chunk.data[end - len..end].copy_from_slice(&header[..len]);
        chunk.start -= len as u32;
    }

    /// The close frame that a session ends with; empty for one that is no WebSocket.
    pub(super) fn close_frame(&self, slot: u32, reason: CloseReason) -> Vec<u8> {
        let session = &self.sessions[slot];
        if session.websocket.is_none() {
            return Vec::new();
        }
        let ours = match reason {
            CloseReason::Shutdown => CloseCode::GoingAway,
            CloseReason::Internal => CloseCode::Internal,
            _ => CloseCode::Normal,
        };
        // The peer's own code is its answer, and none is no code of ours.
        let code = if reason == CloseReason::PeerClosed {
            session.farewell
        } else {
            Some(session.farewell.unwrap_or(ours as u16))
        };
        ws::close(code)
    }
}

// A chunk is one message and one record, with both headers in front of it.
const _: () = assert!(CAPACITY + ws::HEADER_MAX <= record::MAX_PLAINTEXT && CAPACITY <= u16::MAX as usize);
const _: () = assert!(HEADROOM >= record::HEADER_LEN + ws::HEADER_MAX);
