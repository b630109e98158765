//! Frames that are not packets, and what follows from several connections sharing a key.

use crate::driver::Nanos;
use crate::limits;
use crate::mem::batch::Note;
use crate::proto::frame::{self, HEADER_LEN, kind};
use crate::proto::key::NodeKey;
use crate::stats::CloseReason;
use crate::worker::core::Core;
use crate::worker::directory::PeerId;

/// Shown to the user by the Tailscale client.
const DUPLICATE_KEY: &str = "another connection uses the same node key; two machines may share a copied state";

impl Core {
    /// A whole frame whose length has been judged.
    pub(super) fn other_frame(&mut self, slot: u32, frame: &mut [u8]) {
        match frame[0] {
            kind::PING => self.ping(slot, frame),
            kind::NOTE_PREFERRED => self.note_preferred(slot, frame[HEADER_LEN] != 0),
            kind::FORWARD_PACKET => self.forwarded_packet(slot, frame),
            kind::WATCH_CONNS => self.watch(slot),
            kind::CLOSE_PEER => self.close_peer(&NodeKey::from_prefix(&frame[HEADER_LEN..])),
            _ => unreachable!("only frames that mean something are kept"),
        }
    }

    /// One pong may wait; further pings go unanswered until it is sent.
    fn ping(&mut self, slot: u32, frame: &[u8]) {
        self.stats.got_ping.add(1);
        if self.sessions[slot].pong_pending {
            return;
        }
        let Some(data) = frame[HEADER_LEN..].first_chunk::<8>() else { return };
        self.sessions[slot].pong_pending = true;
        self.stats.sent_pong.add(1);
        self.push_control(slot, &frame::pong(*data));
    }

    fn note_preferred(&mut self, slot: u32, home: bool) {
        let session = &mut self.sessions[slot];
        if session.home == home {
            return;
        }
        session.home = home;
        let settled = self.now.saturating_sub(session.since) > limits::HOME_SETTLED.as_nanos() as Nanos;
        if home {
            self.stats.home_connections.add(1);
            self.stats.home_moves_in.add(u64::from(settled));
        } else {
            self.stats.home_connections.sub(1);
            self.stats.home_moves_out.add(u64::from(settled));
        }
    }

    /// Everybody who is here, then every change. Asking again repeats the list.
    fn watch(&mut self, slot: u32) {
        if self.sessions[slot].key == self.settings.server_key {
            return;
        }
        let mut list = self.lend().unwrap_or_default();
        for peer in self.directory.iter() {
            if let Some(conn) = peer.active_conn() {
                list.extend_from_slice(&frame::peer_present(&peer.key, conn.ip, conn.port, conn.flags));
            }
        }
        for present in list.chunks_exact(frame::PEER_PRESENT_LEN) {
            self.push_in_order(slot, present);
        }
        self.recycle(list);
        let session = &mut self.sessions[slot];
        if !session.watching && session.is_present() {
            session.watching = true;
            self.stats.watchers.add(1);
            self.watchers.push(slot);
        }
    }

    fn close_peer(&mut self, key: &NodeKey) {
        let Some(peer) = self.directory.find(key) else { return };
        for at in 0..self.directory.peer(peer).conns().len() {
            let conn = self.directory.peer(peer).conns()[at].id;
            if conn.worker() == self.me {
                self.close(conn.slot(), CloseReason::ClosePeer);
            } else {
                self.mailbox.send_note(conn.worker(), Note::Close { conn });
            }
        }
    }

    /// A connection that shares its key has sent something: from now on it gets what is sent to the key.
    #[cold]
    pub(super) fn spoke(&mut self, slot: u32) {
        let session = &self.sessions[slot];
        let (key, peer) = (session.key, session.peer);
        let conn = self.sessions.name(slot);
        self.sessions[slot].spoke_at = self.now;
        let entry = self.directory.peer(peer);
        if entry.active() == conn {
            return;
        }
        // Later than what is known of the active one, also when two clocks reads give the same time.
        let stamp = entry.active_conn().map_or(self.now, |active| self.now.max(active.stamp + 1));
        if let Some(peer) = self.directory.activate(&key, conn, stamp) {
            self.took_over(peer);
        }
        let publication = self.publish(Note::Active { key, conn, stamp });
        if self.mailbox.workers() > 1 {
            // Whoever sees an answer may rely on it: packets for the key now come here, whichever worker sends them.
            self.hold(slot, publication);
        }
    }

    /// Another worker's connection has taken over at `stamp`. One of ours that has spoken since, before it could know,
    /// takes it back: whoever spoke last is active, whichever note came first.
    pub(super) fn take_back(&mut self, peer: PeerId, stamp: u64) {
        for at in 0..self.directory.peer(peer).conns().len() {
            let conn = self.directory.peer(peer).conns()[at].id;
            if conn.worker() == self.me && self.sessions[conn.slot()].spoke_at > stamp {
                self.spoke(conn.slot());
            }
        }
    }

    /// The active connection of a key has changed because another one spoke.
    pub(super) fn took_over(&mut self, peer: PeerId) {
        if !self.directory.peer(peer).is_contested() {
            return;
        }
        for at in 0..self.directory.peer(peer).conns().len() {
            let conn = self.directory.peer(peer).conns()[at].id;
            if conn.worker() == self.me && !self.sessions[conn.slot()].unhealthy {
                self.sessions[conn.slot()].unhealthy = true;
                self.push_control(conn.slot(), &frame::health(DUPLICATE_KEY));
            }
        }
    }

    /// The connections of a key have changed: notes on those of this worker whether they share it, and takes back the
    /// warning from one that is alone again.
    pub(super) fn mark_shared(&mut self, peer: PeerId) {
        let shared = self.directory.peer(peer).is_shared();
        for at in 0..self.directory.peer(peer).conns().len() {
            let conn = self.directory.peer(peer).conns()[at].id;
            if conn.worker() != self.me {
                continue;
            }
            let session = &mut self.sessions[conn.slot()];
            session.shared = shared;
            if !shared && session.unhealthy {
                session.unhealthy = false;
                self.push_control(conn.slot(), &frame::health(""));
            }
        }
    }
}
