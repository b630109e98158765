//! A session goes to another worker, and takes everything along: its queues, its place in the TLS stream, its half
//! frames, and whom it has heard of. No packet is lost or overtaken on the way (decision 0006).
//!
//! ```text
//!     from                          to                       every other worker
//!      |-- Reserve ----------------->|  a slot, with a name
//!      |<-- Reserved ----------------|
//!      |  reads no more
//!      |-- Moved ------------------->|------------------------>|  packets go to the new name
//!      |<-- Flushed -----------------|<------------------------|  behind all that went to the old one
//!      |-- Arrive: socket, queues -->|  old queue, then what has come since; reads and writes
//! ```

use crate::driver::{Driver, Nanos};
use crate::mem::batch::{ConnId, Note};
use crate::proto::frame::{self, GoneReason};
use crate::proto::key::NodeKey;
use crate::stats::{CloseReason, DropReason};
use crate::worker::core::Core;
use crate::worker::egress::{Egress, Packed};
use crate::worker::session::{Session, State};

/// Where a session is on its way.
#[derive(Debug)]
pub enum Moving {
    /// Here, about to leave.
    Leaving {
        phase: Phase,
        /// Why it ended meanwhile.
        end: Option<CloseReason>,
        /// Peers that it has heard of and that have gone since all know it under its new name, by key and first name.
        heard: Vec<(NodeKey, ConnId)>,
    },
    /// About to come.
    Awaited {
        end: Option<CloseReason>,
        /// Peers of whose departure it will be told behind what is queued here.
        told: Vec<NodeKey>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Waits for a name.
    Asked,
    /// Has one; what the kernel has already received still comes.
    Pausing { to: ConnId },
    /// Everybody has been told; so many have not answered.
    Announced { to: ConnId, unflushed: u16 },
}

impl Moving {
    /// Where an end is noted that can only happen at the new worker.
    pub(super) fn end(&mut self) -> Option<&mut Option<CloseReason>> {
        match self {
            Self::Leaving { phase: Phase::Announced { .. }, end, .. } | Self::Awaited { end, .. } => Some(end),
            Self::Leaving { .. } => None,
        }
    }

    /// A peer has gone of which the session has heard. `true`: it must not be told here and now, because packets of
    /// that peer may be ahead of it at its new worker.
    pub(super) fn keeps_news_of(&mut self, key: &NodeKey, born: ConnId) -> bool {
        match self {
            Self::Leaving { phase: Phase::Announced { .. }, heard, .. } => {
                heard.push((*key, born));
                true
            }
            Self::Leaving { .. } => false,
            Self::Awaited { told, .. } => {
                told.push(*key);
                false
            }
        }
    }
}

/// A session between two workers.
#[derive(Debug)]
pub struct Arrival<S> {
    socket: S,
    /// The name that was reserved for it.
    to: ConnId,
    /// Without its queues.
    session: Session,
    queues: Packed,
    heard: Vec<(NodeKey, ConnId)>,
    end: Option<CloseReason>,
}

impl<S> Arrival<S> {
    pub(super) fn worker(&self) -> u16 {
        self.to.worker()
    }
}

impl Core {
    /// Asks another worker to take a session. `false`: it cannot move, now or at all.
    pub(super) fn begin_move(&mut self, slot: u32, to: u16) -> bool {
        let session = &self.sessions[slot];
        let fit = session.state == State::Open
            && session.moving.is_none()
            && !(session.mesh || session.watching || session.shared || session.blocked)
            && session.held == 0;
        if !fit || self.stopping || to == self.me || usize::from(to) >= self.mailbox.workers() {
            return false;
        }
        let (key, from) = (session.key, self.sessions.name(slot));
        let leaving = Moving::Leaving { phase: Phase::Asked, end: None, heard: Vec::new() };
        self.sessions[slot].moving = Some(Box::new(leaving));
        self.mailbox.send_note(to, Note::Reserve { key, from });
        true
    }

    /// A session of another worker wants to come: gives it a slot in which packets for it can wait.
    pub(super) fn reserve(&mut self, key: &NodeKey, from: ConnId) {
        let peer = self.directory.find(key).filter(|_| !self.stopping);
        let to = peer.and_then(|peer| {
            let slot = self.sessions.take()?;
            let session = &mut self.sessions[slot];
            session.state = State::Awaited;
            session.key = *key;
            session.peer = peer;
            session.moving = Some(Box::new(Moving::Awaited { end: None, told: Vec::new() }));
            Some(self.sessions.name(slot))
        });
        self.mailbox.send_note(from.worker(), Note::Reserved { from, to });
    }

    pub(super) fn reserved(&mut self, from: ConnId, to: Option<ConnId>) {
        let session = self.sessions.find(from).map(|slot| &mut self.sessions[slot]);
        let moving = session.map(|session| &mut session.moving);
        match (moving, to) {
            (Some(moving), None) => *moving = None,
            (Some(Some(moving)), Some(to)) => {
                if let Moving::Leaving { phase, .. } = &mut **moving {
                    *phase = Phase::Pausing { to };
                    self.leaving.push(from.slot());
                }
            }
            // It has ended in the meantime.
            (_, Some(to)) => self.mailbox.send_note(to.worker(), Note::Release { to }),
            (None, None) => {}
        }
    }

    /// Nobody comes. Nobody else knows the name: nothing can be queued under it.
    pub(super) fn release(&mut self, to: ConnId) {
        if let Some(slot) = self.sessions.find(to) {
            debug_assert!(self.sessions[slot].egress.is_empty());
            self.sessions.remove(slot);
        }
    }

    /// A session that was about to leave has ended, or may not go.
    pub(super) fn stays(&mut self, slot: u32, moving: &Moving) {
        if let Moving::Leaving { phase: Phase::Pausing { to }, .. } = moving {
            self.mailbox.send_note(to.worker(), Note::Release { to: *to });
        }
        self.leaving.retain(|other| *other != slot);
    }

    /// A connection has a new name; says that nothing more will come for the old one.
    pub(super) fn moved(&mut self, key: &NodeKey, from: ConnId, to: ConnId) {
        let peer = self.directory.rename(key, from, to);
        if to.worker() == self.me
            && let (Some(peer), Some(slot)) = (peer, self.sessions.find(to))
        {
            self.sessions[slot].shared = self.directory.peer(peer).is_shared();
        }
        self.mailbox.send_note(from.worker(), Note::Flushed { from });
    }

    pub(super) fn flushed(&mut self, from: ConnId) {
        let Some(slot) = self.sessions.find(from) else { return };
        if let Some(Moving::Leaving { phase: Phase::Announced { unflushed, .. }, .. }) =
            self.sessions[slot].moving.as_deref_mut()
        {
            *unflushed -= 1;
        }
    }

    /// Brings every move from here on by as much as can be done now; hands each session that is ready to `go`.
    pub(super) fn advance_moves<D: Driver>(&mut self, driver: &mut D, mut go: impl FnMut(Arrival<D::Socket>)) {
        let mut leaving = std::mem::take(&mut self.leaving);
        leaving.retain(|slot| {
            let Some(Moving::Leaving { phase, .. }) = self.sessions[*slot].moving.as_deref() else { return false };
            match *phase {
                Phase::Asked => true,
                Phase::Pausing { .. } if self.stopping => {
                    // What it would still send is not read any more anyway.
                    if let Some(moving) = self.sessions[*slot].moving.take() {
                        self.stays(*slot, &moving);
                    }
                    false
                }
                Phase::Pausing { to } => {
                    let ready = driver.pause(*slot) && self.sessions[*slot].held == 0;
                    if ready && self.sessions[*slot].state == State::Open {
                        self.announce(*slot, to);
                    }
                    true
                }
                Phase::Announced { to, unflushed: 0 } => match driver.take(*slot) {
                    Some(socket) => {
                        go(self.leave(*slot, to, socket));
                        false
                    }
                    None => true,
                },
                Phase::Announced { .. } => true,
            }
        });
        debug_assert!(self.leaving.is_empty(), "nothing begins to leave in here");
        self.leaving = leaving;
    }

    fn announce(&mut self, slot: u32, to: ConnId) {
        let (key, from) = (self.sessions[slot].key, self.sessions.name(slot));
        self.directory.rename(&key, from, to);
        self.mailbox.broadcast(Note::Moved { key, from, to });
        if let Some(Moving::Leaving { phase, .. }) = self.sessions[slot].moving.as_deref_mut() {
            *phase = Phase::Announced { to, unflushed: self.mailbox.workers() as u16 - 1 };
        }
    }

    fn leave<S>(&mut self, slot: u32, to: ConnId, socket: S) -> Arrival<S> {
        let mut heard = self.directory.heard_by(slot, &mut self.sessions);
        self.directory.forget_session(slot, &mut self.sessions);
        let mut session = self.sessions.remove(slot);
        let mut end = None;
        if let Some(moving) = session.moving.take()
            && let Moving::Leaving { end: ended, heard: gone, .. } = *moving
        {
            end = ended;
            heard.extend(gone);
        }
        let queues = session.egress.pack(&mut self.chunks);
        let held = queues.held();
        self.stats.unqueued(u64::from(held.data + held.disco), held.data_bytes + held.disco_bytes);
        self.stats.packets_moved_out.add(u64::from(held.data + held.disco));
        self.stats.connections.sub(1);
        self.stats.home_connections.sub(u64::from(session.home));
        self.stats.not_ideal_connections.sub(u64::from(session.not_ideal));
        if let Some(version) = session.transport.version() {
            self.stats.tls_connections[version as usize].sub(1);
        }
        self.stats.moves.add(1);
        Arrival { socket, to, session, queues, heard, end }
    }

    /// A session has come: what it brings goes in front of what has been queued for it here.
    pub(super) fn arrive<D: Driver>(&mut self, driver: &mut D, arrival: Arrival<D::Socket>) {
        let Arrival { socket, to, session: came, queues, mut heard, end } = arrival;
        let held = queues.held();
        self.stats.packets_moved_in.add(u64::from(held.data + held.disco));
        // Only a worker that is ending has let go of the slot; the socket closes as it is dropped.
        let Some(slot) = self.sessions.find(to) else {
            self.count_dropped(DropReason::GoneDisconnected, held);
            return;
        };
        self.stats.queued(u64::from(held.data + held.disco), held.data_bytes + held.disco_bytes);
        let moving = self.sessions[slot].moving.take();
        let (mut told, mut ended) = (Vec::new(), end);
        if let Some(Moving::Awaited { end, told: news }) = moving.map(|moving| *moving) {
            ended = ended.or(end);
            told = news;
        }
        let later = self.sessions[slot].egress.pack(&mut self.chunks);
        self.sessions[slot].egress = Egress::unpack(&queues, &mut self.chunks);
        self.install(slot, came);
        heard.sort_unstable();
        for connections in heard.chunk_by(|a, b| a.0 == b.0) {
            self.remember(slot, connections, &told);
        }
        let dropped = self.sessions[slot].egress.append(&later, &mut self.chunks, &self.settings.bounds);
        self.dropped_from_queue(slot, DropReason::QueueHead, dropped);
        if driver.attach(slot, socket).is_err() {
            ended = Some(CloseReason::Internal);
        }
        self.go_on(slot);
        if let Some(reason) = ended {
            self.close(slot, reason);
        }
    }

    /// What is the session's own comes along; what is this worker's stays.
    fn install(&mut self, slot: u32, came: Session) {
        let here = &mut self.sessions[slot];
        let place = std::mem::replace(here, came);
        here.generation = place.generation;
        here.state = State::Open;
        (here.dirty, here.ripe, here.blocked) = (false, false, false);
        here.held = 0;
        here.alarm = Nanos::MAX;
        here.routes = Default::default();
        here.peer = place.peer;
        here.acquaintances = place.acquaintances;
        here.egress = place.egress;
        here.shared = place.shared;
        here.lean.rest(self.placement.epoch);
        here.unhealthy |= place.unhealthy;
        self.stats.connections.add(1);
        self.stats.home_connections.add(u64::from(here.home));
        self.stats.not_ideal_connections.add(u64::from(here.not_ideal));
        if let Some(version) = here.transport.version() {
            self.stats.tls_connections[version as usize].add(1);
        }
    }

    /// The session has heard of a peer, known to its old worker by these connections. Those that are here have not
    /// gone; of others it is told now, behind all that its old worker had for it, unless that will be told anyway.
    fn remember(&mut self, slot: u32, connections: &[(NodeKey, ConnId)], told: &[NodeKey]) {
        let key = connections[0].0;
        let is_one = |born| connections.iter().any(|(_, other)| *other == born);
        let peer = self.directory.find(&key);
        match peer.filter(|id| self.directory.peer(*id).conns().iter().any(|conn| is_one(conn.born))) {
            Some(peer) => {
                self.directory.introduce(peer, slot, &mut self.sessions);
            }
            None if self.stopping || told.contains(&key) => {}
            None => {
                self.stats.peer_gone_disconnected.add(1);
                let gone = frame::peer_gone(&key, GoneReason::Disconnected);
                self.sessions[slot].egress.push_in_order(&mut self.chunks, &gone);
            }
        }
    }

    /// Whatever the session has missed on its way.
    fn go_on(&mut self, slot: u32) {
        self.wake_at(slot, self.now);
        let session = &self.sessions[slot];
        if session.unhealthy && !session.shared {
            self.sessions[slot].unhealthy = false;
            self.push_control(slot, &frame::health(""));
        }
        if self.draining {
            self.say_restarting(slot);
        }
        let peer = self.sessions[slot].peer;
        if let Some(active) = self.directory.peer(peer).active_conn()
            && self.sessions[slot].shared
        {
            let stamp = active.stamp;
            self.take_back(peer, stamp);
        }
        self.mark_dirty(slot);
    }
}
