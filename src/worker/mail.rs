//! What other workers send: packets for sessions of ours, and notes of who comes and goes.

use crate::driver::Driver;
use crate::mem::batch::{Batch, ConnId, Item, Join, Note, Parcel};
use crate::proto::frame::{self, GoneReason, PACKET_HEAD};
use crate::proto::key::NodeKey;
use crate::stats::{CloseReason, DropReason};
use crate::worker::bulk::{Forward, Runs};
use crate::worker::core::Core;
use crate::worker::directory::{Change, PeerId};

impl Core {
    /// Reads what other workers have sent, at most `chains` of it.
    pub(super) fn read_mail<D: Driver>(&mut self, driver: &mut D, chains: usize) {
        for _ in 0..chains {
            if !self.mailbox.has_mail() {
                return;
            }
            let Some(chain) = self.mailbox.receive() else { return };
            let mut next = Some(chain);
            while let Some(mut batch) = next {
                next = batch.next.take();
                if batch.maker == self.me {
                    let publication = self.mailbox.welcome(batch);
                    if publication != 0 {
                        self.acknowledged(publication);
                    }
                } else {
                    self.read_batch(driver, &batch);
                    self.mailbox.send_home(batch);
                    self.flush_ripe(driver);
                }
            }
        }
    }

    fn read_batch<D: Driver>(&mut self, driver: &mut D, batch: &Batch) {
        let mut runs = Runs::new(driver);
        for item in &batch.items {
            match item {
                Item::Packet(parcel) => {
                    let (start, end) = (parcel.at as usize, (parcel.at + parcel.len) as usize);
                    if let Some(slot) = self.receiver(parcel, &batch.bytes[start..end]) {
                        runs.add(self, slot, &batch.bytes, (start, end), parcel.queued_us);
                    }
                }
                // What it says is in order with the packets.
                Item::Note(note) => {
                    runs.settle(self, &batch.bytes);
                    self.apply(note);
                }
            }
        }
        runs.settle(self, &batch.bytes);
    }

    /// The session that a packet from another worker is for.
    fn receiver(&mut self, parcel: &Parcel, frame: &[u8]) -> Option<u32> {
        self.stats.packets_from_workers.add(1);
        let Some(slot) = self.sessions.find(parcel.to) else {
            let payload = (frame.len() - PACKET_HEAD) as u64;
            self.stats.drop_packets(DropReason::GoneDisconnected, parcel.disco, 1, payload);
            return None;
        };
        if parcel.introduce {
            self.introduce_key(&NodeKey::from_prefix(&frame[frame::HEADER_LEN..]), slot);
        }
        Some(slot)
    }

    /// The session in `slot` is about to hear of `peer`.
    pub(super) fn introduce(&mut self, peer: PeerId, slot: u32) {
        if self.directory.introduce(peer, slot, &mut self.sessions) {
            self.sessions[slot].egress.introduced();
        }
    }

    pub(super) fn introduce_key(&mut self, source: &NodeKey, slot: u32) {
        if let Some(peer) = self.directory.find(source) {
            self.introduce(peer, slot);
        }
    }

    pub(super) fn apply(&mut self, note: &Note) {
        match note {
            Note::Join(join) => self.joined(join),
            Note::Depart { key, conn } => self.departed(key, *conn),
            Note::Active { key, conn, stamp } => {
                if let Some(peer) = self.directory.activate(key, *conn, *stamp) {
                    self.took_over(peer);
                    self.take_back(peer, *stamp);
                }
            }
            Note::Close { conn } => {
                if let Some(slot) = self.sessions.find(*conn) {
                    self.close(slot, CloseReason::ClosePeer);
                }
            }
            Note::Reserve { key, from } => self.reserve(key, *from),
            Note::Reserved { from, to } => self.reserved(*from, *to),
            Note::Release { to } => self.release(*to),
            Note::Moved { key, from, to } => self.moved(key, *from, *to),
            Note::Flushed { from } => self.flushed(*from),
        }
    }

    pub(super) fn joined(&mut self, join: &Join) {
        let (peer, change) = self.directory.join(join);
        if join.conn.worker() == self.me {
            self.sessions[join.conn.slot()].peer = peer;
        }
        if change == Change::Another {
            self.mark_shared(peer);
        }
        let present = frame::peer_present(&join.key, join.ip, join.port, join.flags);
        for at in 0..self.watchers.len() {
            self.push_in_order(self.watchers[at], &present);
        }
        self.count_keys();
    }

    pub(super) fn departed(&mut self, key: &NodeKey, conn: ConnId) {
        let born = self.directory.born(key, conn);
        match self.directory.depart(key, conn) {
            (peer, Change::First) => {
                if !self.stopping {
                    self.tell_gone(peer, key, born);
                }
                while self.directory.next_acquaintance(peer, &mut self.sessions).is_some() {}
                self.directory.forget(peer);
            }
            (peer, Change::Another) => self.mark_shared(peer),
            (_, Change::Nothing) => {}
        }
        self.count_keys();
    }

    /// Everybody here who has heard of the peer, or watches, learns that it is gone; behind its own packets.
    fn tell_gone(&mut self, peer: PeerId, key: &NodeKey, born: ConnId) {
        let gone = frame::peer_gone(key, GoneReason::Disconnected);
        while let Some(slot) = self.directory.next_acquaintance(peer, &mut self.sessions) {
            if let Some(moving) = &mut self.sessions[slot].moving
                && moving.keeps_news_of(key, born)
            {
                continue;
            }
            if !self.sessions[slot].watching {
                self.stats.peer_gone_disconnected.add(1);
                self.push_in_order(slot, &gone);
            }
        }
        for at in 0..self.watchers.len() {
            self.stats.peer_gone_disconnected.add(1);
            self.push_in_order(self.watchers[at], &gone);
        }
    }
}
