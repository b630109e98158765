//! What touches the kernel, behind one narrow trait, so that the worker is the same over io_uring, epoll and the
//! simulated network.
//!
//! A driver owns sockets by slot. It receives by itself and lends what came to a [`Sink`]; it sends when asked, without
//! blocking, and says later when a socket that was full takes more. It keeps no pointer to anything it is given.

pub mod accept;
mod buffers;
mod enter;
pub mod epoll;
pub mod fd;
pub mod probe;
pub mod sim;
pub mod socket;
mod thick;
mod token;
pub mod udp;
pub mod uring;
pub mod wake;

use std::io::{self, IoSlice};
use std::time::Duration;

pub use wake::WakeHandle;

/// Nanoseconds of a monotonic clock that all workers share.
pub type Nanos = u64;

/// How a connection ended that the relay did not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The peer has sent all it wanted.
    Closed,
    /// Reset, timeout, or another error of the network.
    Reset,
}

/// Receives what a driver finds in one turn.
pub trait Sink {
    /// The turn's wait is over; everything that follows happens at `now`. Called first in each turn.
    fn awake(&mut self, now: Nanos);
    /// Something from the socket in `slot` comes soon, or nothing: only a hint, for what takes time to be at hand.
    fn expected(&mut self, _slot: u32) {}
    /// The same, but it comes next.
    fn receiving(&mut self, _slot: u32) {}
    /// Bytes from the socket in `slot`; they may be changed in place and are gone after the call. Until then they may
    /// be sent from where they lie.
    fn received<D: Driver>(&mut self, driver: &mut D, slot: u32, bytes: &mut [u8]);
    /// Called after each [`Self::received`]: what must not wait for the end of the turn may be sent now.
    fn settle<D: Driver>(&mut self, driver: &mut D);
    /// Called when sockets that bring little have all been received from and others, that bring much, still wait:
    /// what the first have led to may be sent now.
    fn answer<D: Driver>(&mut self, driver: &mut D);
    /// A socket that did not take everything takes more now.
    fn writable(&mut self, slot: u32);
    /// Nothing more will come from this socket.
    fn ended(&mut self, slot: u32, end: End);
    /// The slot may be used again: the kernel knows nothing of its socket any more.
    fn detached(&mut self, slot: u32);
}

/// What a driver counts of itself.
#[derive(Clone, Copy, Default, Debug)]
pub struct DriverStats {
    /// System calls of this driver that receive, wait or submit.
    pub waits: u64,
    pub receives: u64,
    pub sends: u64,
    /// Receives that found no buffer (io_uring).
    pub no_buffer: u64,
    pub wakes_sent: u64,
    pub wakes_received: u64,
    /// Entries to and from the kernel's ring (io_uring).
    pub submissions: u64,
    pub completions: u64,
}

pub trait Driver {
    type Socket;

    /// The clock.
    fn now(&mut self) -> Nanos;

    /// Takes a non-blocking socket and begins to receive from it. The slot is free.
    ///
    /// # Errors
    /// Ours or the system's; the socket is then closed and the slot still free.
    fn attach(&mut self, slot: u32, socket: Self::Socket) -> io::Result<()>;

    /// Sends as much of `parts` as the socket takes now; what is missing is announced by [`Sink::writable`].
    ///
    /// # Errors
    /// The connection is broken.
    fn send(&mut self, slot: u32, parts: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Stops receiving and closes the socket. [`Sink::detached`] follows, in this call's turn or a later one.
    fn detach(&mut self, slot: u32, sink: &mut impl Sink);

    /// Receives no more from a socket that will be [taken](Self::take). `true`: nothing more will come; else it must be
    /// asked again in a later turn.
    fn pause(&mut self, slot: u32) -> bool;

    /// Gives the socket of a slot away, open and with whatever has come since it was paused; the slot is then free.
    /// `None`: the kernel still refers to it; it must be asked again in a later turn.
    fn take(&mut self, slot: u32) -> Option<Self::Socket>;

    /// Looks for what has happened, for at most `wait` if that is nothing, and tells `sink`.
    ///
    /// # Errors
    /// The driver itself is broken and the worker cannot go on.
    fn turn(&mut self, wait: Duration, sink: &mut impl Sink) -> io::Result<()>;

    /// Wakes another worker that may be in [`Self::turn`].
    fn wake(&mut self, other: &WakeHandle);

    /// Bytes that the peer has not acknowledged; `None` where that is not known.
    fn unacknowledged(&mut self, slot: u32) -> Option<u32>;

    /// Smoothed round-trip time of the connection; `None` where that is not known.
    fn round_trip(&mut self, slot: u32) -> Option<Duration>;

    fn stats(&self) -> DriverStats;
}
