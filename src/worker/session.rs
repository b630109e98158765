//! One peer's connection as its worker sees it, and the table of them.

use std::time::Duration;

use crate::driver::Nanos;
use crate::mem::batch::ConnId;
use crate::mem::warm::warm;
use crate::proto::deframe::Deframer;
use crate::proto::key::NodeKey;
use crate::proto::ws::Unframer;
use crate::stats::CloseReason;
use crate::tls::{TlsFault, Transport};
use crate::worker::bridge::{Identity, Totals};
use crate::worker::directory::{AcquaintanceHeads, NO_ACQUAINTANCE, PeerId};
use crate::worker::egress::Egress;
use crate::worker::moving::Moving;
use crate::worker::placement::Lean;

/// Where a session is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Free,
    /// Comes from another worker: packets for it are queued, it is neither read nor written.
    Awaited,
    /// Known here, not yet to every other worker: packets for it are queued, it is neither read nor written.
    Joining,
    Open,
    /// Over; waits for the end of the turn.
    Closing(CloseReason),
    /// Gone from the directory; the kernel may still refer to its socket.
    Detaching,
}

/// A destination that was looked up.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    pub key: NodeKey,
    pub peer: PeerId,
    /// Of the directory's entry: the route holds while it does.
    pub version: u32,
    pub to: ConnId,
}

/// Destinations that one sender remembers: a peer talks to few others at a time.
pub const ROUTES: usize = 2;

#[derive(Debug)]
pub struct Session {
    pub generation: u32,
    pub state: State,
    /// In the list of sessions to flush.
    pub dirty: bool,
    /// In the list of sessions to flush before the end of the turn.
    pub ripe: bool,
    /// The socket takes nothing at the moment.
    pub blocked: bool,
    /// Other connections have the same key.
    pub shared: bool,
    /// Publication that must be acknowledged before anything is sent; 0 for none.
    pub held: u64,
    pub mesh: bool,
    pub watching: bool,
    pub home: bool,
    pub not_ideal: bool,
    pub pong_pending: bool,
    /// Was told that the relay is about to stop.
    pub told_to_leave: bool,
    /// Was told that another connection uses its key.
    pub unhealthy: bool,
    /// Why its TLS ended; the farewell says so.
    pub fault: Option<TlsFault>,
    pub key: NodeKey,
    /// Its own entry in this worker's directory.
    pub peer: PeerId,
    pub acquaintances: u32,
    pub transport: Transport,
    /// Its bytes are in messages.
    pub websocket: Option<Box<Unframer>>,
    /// The code of its close frame, if something decided that.
    pub farewell: Option<u16>,
    /// The beginning of a TLS record.
    pub wire: Vec<u8>,
    pub deframer: Deframer,
    pub egress: Egress,
    pub routes: [Option<Route>; ROUTES],
    pub identity: Identity,
    pub since: Nanos,
    /// When it last sent something while others had its key.
    pub spoke_at: Nanos,
    /// Earliest alarm in the wheel.
    pub alarm: Nanos,
    pub keep_alive_at: Nanos,
    pub keep_alive_every: Nanos,
    pub round_trip_at: Nanos,
    pub round_trip: Option<Duration>,
    /// When it last sent anything.
    pub active_at: Nanos,
    pub blocked_since: Nanos,
    /// What the peer had not acknowledged when that was last asked.
    pub blocked_bytes: Option<u32>,
    pub not_here: TokenBucket,
    pub totals: Totals,
    pub lean: Lean,
    /// On its way to or from another worker.
    pub moving: Option<Box<Moving>>,
}

/// Three at once, then one a second.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    tokens: u8,
    at: Nanos,
}

impl TokenBucket {
    pub fn full(burst: u8, now: Nanos) -> Self {
        Self { tokens: burst, at: now }
    }

    pub fn take(&mut self, burst: u8, now: Nanos) -> bool {
        const SECOND: Nanos = 1_000_000_000;
        let refill = now.saturating_sub(self.at) / SECOND;
        if refill > 0 {
            self.tokens = burst.min(self.tokens.saturating_add(u8::try_from(refill).unwrap_or(burst)));
            self.at += refill * SECOND;
        }
        if self.tokens == 0 {
            return false;
        }
        self.tokens -= 1;
        true
    }
}

impl Session {
    fn vacant() -> Self {
        Self {
            generation: 0,
            state: State::Free,
            dirty: false,
            ripe: false,
            blocked: false,
            shared: false,
            held: 0,
            mesh: false,
            watching: false,
            home: false,
            not_ideal: false,
            pong_pending: false,
            told_to_leave: false,
            unhealthy: false,
            fault: None,
            key: NodeKey::ZERO,
            peer: PeerId::MAX,
            acquaintances: NO_ACQUAINTANCE,
            transport: Transport::Plain,
            websocket: None,
            farewell: None,
            wire: Vec::new(),
            deframer: Deframer::default(),
            egress: Egress::default(),
            routes: [None; ROUTES],
            identity: Identity {
                key: NodeKey::ZERO,
                address: None,
                mesh: false,
                prober: false,
                not_ideal: false,
                websocket: false,
            },
            since: 0,
            spoke_at: 0,
            alarm: 0,
            keep_alive_at: 0,
            keep_alive_every: 0,
            round_trip_at: 0,
            round_trip: None,
            active_at: 0,
            blocked_since: 0,
            blocked_bytes: None,
            not_here: TokenBucket { tokens: 0, at: 0 },
            totals: Totals::default(),
            lean: Lean::default(),
            moving: None,
        }
    }

    /// Takes part in relaying: packets may be queued for it.
    #[inline]
    pub fn is_present(&self) -> bool {
        matches!(self.state, State::Open | State::Joining | State::Awaited)
    }
}

/// All sessions of one worker, by slot.
pub struct Sessions {
    me: u16,
    slots: Vec<Session>,
    free: Vec<u32>,
    used: usize,
}

impl Sessions {
    pub fn new(me: u16) -> Self {
        Self { me, slots: Vec::new(), free: Vec::new(), used: 0 }
    }

    /// A vacant slot; `None` when all names are in use.
    pub fn take(&mut self) -> Option<u32> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots.len() < ConnId::SLOTS_MAX => {
                self.slots.push(Session::vacant());
                (self.slots.len() - 1) as u32
            }
            None => return None,
        };
        self.used += 1;
        Some(slot)
    }

    /// Frees a slot; names of its last user no longer match.
    pub fn give(&mut self, slot: u32) {
        let generation = (self.slots[slot as usize].generation + 1) % ConnId::GENERATIONS;
        self.slots[slot as usize] = Session { generation, ..Session::vacant() };
        self.free.push(slot);
        self.used -= 1;
    }

    /// Takes a session out of its slot, which is then free; names of it no longer match.
    pub fn remove(&mut self, slot: u32) -> Session {
        let generation = self.slots[slot as usize].generation;
        let session = std::mem::replace(&mut self.slots[slot as usize], Session { generation, ..Session::vacant() });
        self.give(slot);
        session
    }

    pub fn name(&self, slot: u32) -> ConnId {
        ConnId::new(self.me, slot, self.slots[slot as usize].generation)
    }

    /// The slot of a connection that is still there.
    #[inline]
    pub fn find(&self, conn: ConnId) -> Option<u32> {
        let slot = conn.slot();
        let session = self.slots.get(slot as usize)?;
        (session.generation == conn.generation() && session.is_present()).then_some(slot)
    }

    /// Asks for the memory of a slot.
    #[inline]
    pub fn warm(&self, slot: u32) {
        if let Some(session) = self.slots.get(slot as usize) {
            warm(session);
        }
    }

    pub fn used(&self) -> usize {
        self.used
    }

    pub fn slots(&self) -> u32 {
        self.slots.len() as u32
    }

    pub fn iter(&self) -> impl Iterator<Item = &Session> {
        self.slots.iter()
    }
}

impl std::ops::Index<u32> for Sessions {
    type Output = Session;
    #[inline]
    fn index(&self, slot: u32) -> &Session {
        &self.slots[slot as usize]
    }
}

impl std::ops::IndexMut<u32> for Sessions {
    #[inline]
    fn index_mut(&mut self, slot: u32) -> &mut Session {
        &mut self.slots[slot as usize]
    }
}

impl AcquaintanceHeads for Sessions {
    fn head(&mut self, slot: u32) -> &mut u32 {
        &mut self.slots[slot as usize].acquaintances
    }
}
