//! The driver over a simulated network with its own clock: the main bed of tests, and what benchmarks run on.
//!
//! Everything is on one thread. Whatever is random comes from one seed, so that a run can be repeated. Without
//! [`Faults`] the network delivers everything at once and allocates nothing once its buffers have grown.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::time::Duration;

use super::{Driver, DriverStats, End, Nanos, Sink, WakeHandle};

/// How badly the network treats its users.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Receives are cut at random places.
    pub short_reads: bool,
    /// Sends are cut at random places.
    pub short_writes: bool,
    /// Of 256 chances to receive in a turn, so many are passed over.
    pub stalls: u8,
}

/// xorshift: repeatable, and good enough to spread faults.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        // Neighbouring seeds must not begin alike.
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..4 {
            random.next();
        }
        random
    }

    #[expect(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// From 0 to `n - 1`; `n` is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        ((self.next() >> 16) % n as u64) as usize
    }

    /// True in `of_256` of 256 cases.
    pub fn chance(&mut self, of_256: u8) -> bool {
        (self.next() >> 24) as u8 >= 255 - of_256.min(254) && of_256 > 0
    }
}

/// The network, shared by its clients and drivers.
#[derive(Clone)]
pub struct Net(Rc<Inner>);

struct Inner {
    now: Cell<Nanos>,
    random: RefCell<Random>,
    faults: Cell<Faults>,
    pipes: RefCell<Vec<Pipe>>,
}

/// One connection.
#[derive(Default)]
struct Pipe {
    /// To the relay; the first `up_at` bytes have been received.
    up: Vec<u8>,
    up_at: usize,
    /// To the client; the first `down_at` bytes have been read.
    down: Vec<u8>,
    down_at: usize,
    /// Bytes to the client that the network holds.
    room: usize,
    client: ClientState,
    relay_gone: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum ClientState {
    #[default]
    Here,
    /// No more to send; what was sent still arrives.
    Closed,
    /// What was sent and not received is lost.
    Reset,
}

/// A socket of the relay.
#[derive(Debug)]
pub struct SimSocket {
    pipe: usize,
}

/// The other end.
#[derive(Clone)]
pub struct SimClient {
    net: Net,
    pipe: usize,
}

impl Net {
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self(Rc::new(Inner {
            now: Cell::new(1_000_000_000),
            random: RefCell::new(Random::new(seed)),
            faults: Cell::new(faults),
            pipes: RefCell::new(Vec::new()),
        }))
    }

    /// A new connection that holds `room` bytes on the way to the client.
    pub fn connect(&self, room: usize) -> (SimSocket, SimClient) {
        let mut pipes = self.0.pipes.borrow_mut();
        pipes.push(Pipe { room, ..Pipe::default() });
        let pipe = pipes.len() - 1;
        (SimSocket { pipe }, SimClient { net: self.clone(), pipe })
    }

    pub fn advance(&self, by: Duration) {
        self.0.now.set(self.0.now.get() + by.as_nanos() as Nanos);
    }

    pub fn set_faults(&self, faults: Faults) {
        self.0.faults.set(faults);
    }

    pub fn driver(&self) -> Sim {
        Sim { net: self.clone(), slots: Vec::new(), lent: Vec::new(), stats: DriverStats::default() }
    }
}

impl SimClient {
    pub fn write(&self, bytes: &[u8]) {
        let mut pipes = self.net.0.pipes.borrow_mut();
        let pipe = &mut pipes[self.pipe];
        if pipe.client == ClientState::Here && !pipe.relay_gone {
            pipe.up.extend_from_slice(bytes);
        }
    }

    /// Appends at most `max` bytes to `out`.
    pub fn read(&self, max: usize, out: &mut Vec<u8>) {
        let mut pipes = self.net.0.pipes.borrow_mut();
        let pipe = &mut pipes[self.pipe];
        let end = pipe.down.len().min(pipe.down_at.saturating_add(max));
        out.extend_from_slice(&pipe.down[pipe.down_at..end]);
        pipe.down_at = end;
        if pipe.down_at == pipe.down.len() {
            pipe.down.clear();
            pipe.down_at = 0;
        }
    }

    pub fn set_room(&self, room: usize) {
        self.net.0.pipes.borrow_mut()[self.pipe].room = room;
    }

    /// Sends no more; what was sent still arrives.
    pub fn close(&self) {
        self.end(ClientState::Closed);
    }

    /// What was sent and not received yet is lost.
    pub fn reset(&self) {
        self.end(ClientState::Reset);
    }

    fn end(&self, how: ClientState) {
        let mut pipes = self.net.0.pipes.borrow_mut();
        if pipes[self.pipe].client == ClientState::Here {
            pipes[self.pipe].client = how;
        }
    }

    /// The relay has closed its end; what it had sent may still be read.
    pub fn is_closed_by_relay(&self) -> bool {
        self.net.0.pipes.borrow()[self.pipe].relay_gone
    }
}

/// One worker's driver.
pub struct Sim {
    net: Net,
    slots: Vec<Option<Slot>>,
    lent: Vec<u8>,
    stats: DriverStats,
}

struct Slot {
    pipe: usize,
    blocked: bool,
    ended: bool,
    paused: bool,
}

impl Sim {
    /// Whether a turn would bring something.
    pub fn has_input(&self) -> bool {
        let pipes = self.net.0.pipes.borrow();
        self.slots.iter().flatten().any(|slot| {
            let pipe = &pipes[slot.pipe];
            (slot.blocked && pipe.room > pipe.down.len() - pipe.down_at)
                || (!slot.ended && !slot.paused && (pipe.up_at < pipe.up.len() || pipe.client != ClientState::Here))
        })
    }

    fn serve(&mut self, slot: u32, sink: &mut impl Sink) {
        let inner = self.net.0.clone();
        let faults = inner.faults.get();
        let Some(state) = &mut self.slots[slot as usize] else { return };
        let at = state.pipe;
        let (writable, reset) = {
            let pipe = &inner.pipes.borrow()[at];
            let room = pipe.room.saturating_sub(pipe.down.len() - pipe.down_at);
            (state.blocked && (room > 0 || pipe.client == ClientState::Reset), pipe.client == ClientState::Reset)
        };
        if writable {
            state.blocked = false;
            sink.writable(slot);
        }
        if state.ended || state.paused {
            return;
        }
        if reset {
            state.ended = true;
            sink.ended(slot, End::Reset);
            return;
        }
        if inner.random.borrow_mut().chance(faults.stalls) {
            return;
        }
        let ended = {
            let pipe = &mut inner.pipes.borrow_mut()[at];
            let mut n = pipe.up.len() - pipe.up_at;
            if faults.short_reads && n > 1 {
                n = 1 + inner.random.borrow_mut().below(n);
            }
            self.lent.clear();
            self.lent.extend_from_slice(&pipe.up[pipe.up_at..pipe.up_at + n]);
            pipe.up_at += n;
            if pipe.up_at == pipe.up.len() {
                pipe.up.clear();
                pipe.up_at = 0;
            }
            pipe.up.is_empty() && pipe.client == ClientState::Closed
        };
        if !self.lent.is_empty() {
            self.stats.receives += 1;
            let mut lent = std::mem::take(&mut self.lent);
            sink.expected(slot);
            sink.receiving(slot);
            sink.received(self, slot, &mut lent);
            self.lent = lent;
            sink.settle(self);
        }
        if ended {
            if let Some(state) = &mut self.slots[slot as usize] {
                state.ended = true;
            }
            sink.ended(slot, End::Closed);
        }
    }
}

impl Driver for Sim {
    type Socket = SimSocket;

    fn now(&mut self) -> Nanos {
        self.net.0.now.get()
    }

    fn attach(&mut self, slot: u32, socket: SimSocket) -> io::Result<()> {
        let at = slot as usize;
        if self.slots.len() <= at {
            self.slots.resize_with(at + 1, || None);
        }
        self.slots[at] = Some(Slot { pipe: socket.pipe, blocked: false, ended: false, paused: false });
        Ok(())
    }

    fn send(&mut self, slot: u32, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(state) = &mut self.slots[slot as usize] else { return Ok(0) };
        let inner = &self.net.0;
        let pipe = &mut inner.pipes.borrow_mut()[state.pipe];
        if pipe.client == ClientState::Reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        self.stats.sends += 1;
        let all: usize = parts.iter().map(|p| p.len()).sum();
        let mut n = all.min(pipe.room.saturating_sub(pipe.down.len() - pipe.down_at));
        if inner.faults.get().short_writes && n > 1 {
            n = 1 + inner.random.borrow_mut().below(n);
        }
        let mut left = n;
        for part in parts {
            let here = left.min(part.len());
            pipe.down.extend_from_slice(&part[..here]);
            left -= here;
        }
        state.blocked = n < all;
        Ok(n)
    }

    fn detach(&mut self, slot: u32, sink: &mut impl Sink) {
        if let Some(state) = self.slots.get_mut(slot as usize).and_then(Option::take) {
            self.net.0.pipes.borrow_mut()[state.pipe].relay_gone = true;
        }
        sink.detached(slot);
    }

    fn pause(&mut self, slot: u32) -> bool {
        if let Some(state) = &mut self.slots[slot as usize] {
            state.paused = true;
        }
        // The kernel may take its time.
        !self.net.0.random.borrow_mut().chance(self.net.0.faults.get().stalls)
    }

    fn take(&mut self, slot: u32) -> Option<SimSocket> {
        if self.net.0.random.borrow_mut().chance(self.net.0.faults.get().stalls) {
            return None;
        }
        self.slots[slot as usize].take().map(|state| SimSocket { pipe: state.pipe })
    }

    fn turn(&mut self, _: Duration, sink: &mut impl Sink) -> io::Result<()> {
        self.stats.waits += 1;
        sink.awake(self.now());
        if self.slots.is_empty() {
            return Ok(());
        }
        let first =
            if self.net.0.faults.get().stalls > 0 { self.net.0.random.borrow_mut().below(self.slots.len()) } else { 0 };
        for at in 0..self.slots.len() {
            self.serve(((first + at) % self.slots.len()) as u32, sink);
        }
        Ok(())
    }

    fn wake(&mut self, _: &WakeHandle) {
        self.stats.wakes_sent += 1;
    }

    fn unacknowledged(&mut self, slot: u32) -> Option<u32> {
        let pipe = self.slots.get(slot as usize)?.as_ref()?.pipe;
        let pipes = self.net.0.pipes.borrow();
        Some((pipes[pipe].down.len() - pipes[pipe].down_at) as u32)
    }

    fn round_trip(&mut self, _: u32) -> Option<Duration> {
        Some(Duration::from_millis(1))
    }

    fn stats(&self) -> DriverStats {
        self.stats
    }
}
