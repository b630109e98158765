//! Where a packet goes: a session here, another worker, or nowhere. The only place that decides.

use crate::mem::batch::{ConnId, Parcel};
use crate::proto::frame::{self, GoneReason, HEADER_LEN, PACKET_HEAD};
use crate::proto::key::NodeKey;
use crate::stats::DropReason;
use crate::worker::core::Core;
use crate::worker::directory::PeerId;
use crate::worker::session::Route;

/// A decision.
#[derive(Clone, Copy, Debug)]
struct Target {
    to: ConnId,
    /// The destination's worker must note that it has heard of the source.
    introduce: bool,
}

impl Core {
    /// A whole SendPacket frame.
    #[inline]
    pub(super) fn packet(&mut self, slot: u32, frame: &mut [u8]) {
        let dest = NodeKey::from_prefix(&frame[HEADER_LEN..]);
        if let Some((to, disco)) = self.forward(slot, &dest, frame) {
            self.enqueue(to, frame, disco, self.now_us());
        }
    }

    /// Counts and relabels a SendPacket frame for `dest`. What is not for a session of this worker has been dealt with;
    /// for one that is, returns its slot, and whether the packet is disco.
    #[inline]
    pub(super) fn forward(&mut self, slot: u32, dest: &NodeKey, frame: &mut [u8]) -> Option<(u32, bool)> {
        let payload = (frame.len() - PACKET_HEAD) as u64;
        let disco = frame::is_disco(&frame[PACKET_HEAD..]);
        let totals = &mut self.sessions[slot].totals;
        totals.packets_in += 1;
        totals.bytes_in += payload;
        self.stats.packets_received[usize::from(disco)].add(1);
        self.stats.bytes_received.add(payload);
        let Some(target) = self.route(slot, dest) else {
            self.unknown(slot, dest, disco, payload, DropReason::UnknownDest);
            return None;
        };
        let source = self.sessions[slot].key;
        frame::relabel(frame, &source);
        if target.to.worker() == self.me {
            self.stats.packets_local.add(1);
            return Some((target.to.slot(), disco));
        }
        self.crosses(slot, target.to.worker());
        self.send_across(target, frame, disco);
        None
    }

    /// Counts packets and disco packets that went the way of one that [`Self::forward`] has returned.
    #[inline]
    pub(super) fn forwarded_here(&mut self, slot: u32, packets: [u64; 2], payload: u64) {
        let both = packets[0] + packets[1];
        if both == 0 {
            return;
        }
        let totals = &mut self.sessions[slot].totals;
        totals.packets_in += both;
        totals.bytes_in += payload;
        self.stats.packets_received[0].add(packets[0]);
        self.stats.packets_received[1].add(packets[1]);
        self.stats.bytes_received.add(payload);
        self.stats.packets_local.add(both);
    }

    /// A session's packet goes to another worker.
    #[inline]
    fn crosses(&mut self, slot: u32, to: u16) {
        let session = &mut self.sessions[slot];
        if session.lean.vote(self.placement.epoch, to, session.totals.packets_in) {
            self.placement.nominate(slot);
        }
    }

    /// A whole ForwardPacket frame of a mesh peer: delivered to clients of this relay only, one hop.
    pub(super) fn forwarded_packet(&mut self, slot: u32, frame: &mut [u8]) {
        const KEY: usize = NodeKey::LEN;
        let source = NodeKey::from_prefix(&frame[HEADER_LEN..]);
        let dest = NodeKey::from_prefix(&frame[HEADER_LEN + KEY..]);
        let payload = (frame.len() - HEADER_LEN - 2 * KEY) as u64;
        let disco = frame::is_disco(&frame[HEADER_LEN + 2 * KEY..]);
        self.stats.packets_forwarded_in.add(1);
        let Some(peer) = self.directory.find(&dest) else {
            self.unknown(slot, &dest, disco, payload, DropReason::UnknownDestOnFwd);
            return;
        };
        let to = self.directory.peer(peer).active();
        // The RecvPacket is the same bytes with one key less in front of the payload.
        let frame = &mut frame[KEY..];
        let len = (frame.len() - HEADER_LEN) as u32;
        frame[..HEADER_LEN].copy_from_slice(&frame::header(frame::kind::RECV_PACKET, len));
        frame[HEADER_LEN..PACKET_HEAD].copy_from_slice(&source.0);
        if to.worker() == self.me {
            self.introduce_key(&source, to.slot());
            self.stats.packets_local.add(1);
            self.enqueue(to.slot(), frame, disco, self.now_us());
        } else {
            self.send_across(Target { to, introduce: true }, frame, disco);
        }
    }

    /// Hands a RecvPacket frame to the worker of its session.
    #[inline]
    fn send_across(&mut self, target: Target, frame: &[u8], disco: bool) {
        let queued_us = self.now_us();
        self.stats.packets_to_workers.add(1);
        let parcel = Parcel { to: target.to, at: 0, len: 0, queued_us, disco, introduce: target.introduce };
        let dropped = self.mailbox.send_packet(parcel, frame);
        if dropped.any() {
            self.stats.outbox_dropped.add(u64::from(dropped.data + dropped.disco));
            self.count_dropped(DropReason::QueueHead, dropped);
        }
    }

    /// The route to `dest`, from what this session remembers or from the directory.
    #[inline]
    fn route(&mut self, slot: u32, dest: &NodeKey) -> Option<Target> {
        for route in self.sessions[slot].routes.iter().flatten() {
            if route.key == *dest && self.directory.is_current(route.peer, route.version) {
                return Some(Target { to: route.to, introduce: false });
            }
        }
        self.look_up(slot, dest)
    }

    fn look_up(&mut self, slot: u32, dest: &NodeKey) -> Option<Target> {
        let peer: PeerId = self.directory.find(dest)?;
        let entry = self.directory.peer(peer);
        let route = Route { key: *dest, peer, version: entry.version(), to: entry.active() };
        let session = &mut self.sessions[slot];
        session.routes.rotate_right(1);
        session.routes[0] = Some(route);
        let source = session.peer;
        let here = route.to.worker() == self.me;
        if here {
            self.introduce(source, route.to.slot());
        }
        Some(Target { to: route.to, introduce: !here })
    }

    /// Nobody has this key. A disco packet is answered, within limits, so that its sender looks elsewhere.
    fn unknown(&mut self, slot: u32, dest: &NodeKey, disco: bool, payload: u64, reason: DropReason) {
        self.stats.drop_packets(reason, disco, 1, payload);
        self.sessions[slot].totals.drops[reason as usize] += 1;
        let now = self.now;
        if disco && self.sessions[slot].not_here.take(crate::limits::NOT_HERE_BURST, now) {
            self.stats.peer_gone_not_here.add(1);
            self.push_control(slot, &frame::peer_gone(dest, GoneReason::NotHere));
        }
    }
}
