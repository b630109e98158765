//! How a session begins and ends, as far as its worker is concerned.

use std::net::IpAddr;
use std::time::Duration;

use crate::driver::{Nanos, Sink};
use crate::limits;
use crate::mem::batch::{Join, Note};
use crate::proto::frame;
use crate::stats::{CloseReason, DropReason};
use crate::tls::Transport;
use crate::worker::bridge::{Event, Handover, Identity, SessionEnd};
use crate::worker::core::Core;
use crate::worker::session::{State, TokenBucket};

impl Core {
    /// A session begins: it is known here at once, and everywhere when the publication that is returned is complete.
    /// Its greeting is the first thing that it will be sent. `None`: no slot is left.
    pub(super) fn join<S>(&mut self, handover: &mut Handover<S>) -> Option<(u32, u64)> {
        let identity = &handover.identity;
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
        session.transport = std::mem::replace(&mut handover.transport, Transport::Plain);
        session.websocket = handover.websocket.take();
        session.since = self.now;
        session.keep_alive_every = limits::KEEP_ALIVE.as_nanos() as Nanos + jitter;
        session.not_here = TokenBucket::full(limits::NOT_HERE_BURST, self.now);
        session.egress.push_control(&mut self.chunks, &handover.greeting);
        self.stats.connections.add(1);
        self.stats.not_ideal_connections.add(u64::from(identity.not_ideal));
        if let Some(version) = session.transport.version() {
            self.stats.tls_connections[version as usize].add(1);
        }
        if self.draining {
            self.say_restarting(slot);
        }
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
        session.round_trip_at = if self.settings.round_trips { self.now } else { Nanos::MAX };
        session.alarm = Nanos::MAX;
        self.wake_at(slot, self.now);
        self.mark_dirty(slot);
    }

    /// The session is over; everything else about its end happens at the end of the turn.
    pub(super) fn close(&mut self, slot: u32, reason: CloseReason) {
        let session = &mut self.sessions[slot];
        // One that all know under its new name ends under that name, at its new worker.
        if let Some(end) = session.moving.as_mut().and_then(|moving| moving.end()) {
            end.get_or_insert(reason);
            return;
        }
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

    /// The relay is about to stop: every session is told so, once. Those that are still to come are told when they do.
    pub(super) fn begin_drain(&mut self, reconnect_spread: Duration) {
        if self.draining {
            return;
        }
        self.draining = true;
        self.reconnect_spread = reconnect_spread;
        for slot in 0..self.sessions.slots() {
            // One that is on its way here is told where it is.
            if self.sessions[slot].state != State::Awaited {
                self.say_restarting(slot);
            }
        }
    }

    /// Tells the peer when to come back, unless that has been said, here or at another worker.
    pub(super) fn say_restarting(&mut self, slot: u32) {
        /// Behind the last moment at which it may begin.
        const TRY_FOR: Duration = Duration::from_secs(120);
        if !self.sessions[slot].is_present() || std::mem::replace(&mut self.sessions[slot].told_to_leave, true) {
            return;
        }
        let reconnect_in = (self.spread(self.reconnect_spread) / 1_000_000) as u32;
        let try_for = (self.reconnect_spread + TRY_FOR).as_millis() as u32;
        self.push_control(slot, &frame::restarting(reconnect_in, try_for));
    }

    /// Time is up: a session that was on its way ends where it is.
    pub(super) fn end_of_move(&mut self, slot: u32) {
        if self.sessions[slot].state == State::Awaited {
            let (queued, _) = self.sessions[slot].egress.clear(&mut self.chunks);
            self.dropped_from_queue(slot, DropReason::GoneDisconnected, queued);
            self.directory.forget_session(slot, &mut self.sessions);
            self.sessions.remove(slot);
        } else if let Some(moving) = self.sessions[slot].moving.take() {
            self.stays(slot, &moving);
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
        if let Some(moving) = session.moving.take() {
            self.stays(slot, &moving);
        }
        let session = &mut self.sessions[slot];
        let (queued, unsent) = session.egress.clear(&mut self.chunks);
        self.dropped_from_queue(slot, DropReason::GoneDisconnected, queued);
        self.dropped_from_queue(slot, DropReason::WriteError, unsent);
        let session = &mut self.sessions[slot];
        self.stats.connections.sub(1);
        self.stats.home_connections.sub(u64::from(session.home));
        self.stats.not_ideal_connections.sub(u64::from(session.not_ideal));
        if let Some(version) = session.transport.version() {
            self.stats.tls_connections[version as usize].sub(1);
        }
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
        session.websocket = None;
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
