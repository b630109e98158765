//! The driver over io_uring: one multishot receive per socket into provided buffers, plain sends.
//!
//! A socket that brings much at a time is received from by a call instead, when a poll has said that it is readable:
//! the kernel fills provided buffers for all sockets before the first of them is looked at, and in bulk the first has
//! left the cache by then. One buffer that is filled and used up at once has not (decision 0005).
//!
//! What dies first: sockets are closed only when the kernel has posted the last completion of their receive, and the
//! ring is dropped before its buffers (field order).
#![allow(unsafe_code)]

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use rustix::net::{RecvFlags, recv};

use super::buffers::Buffers;
use super::enter::enter;
use super::thick::{Flow, LANDING_BYTES, Thick};
use super::token::{Op, Token};
use super::{Driver, DriverStats, End, Nanos, Sink, WakeHandle, socket};

/// Submissions between two system calls; more are pushed through in between.
const SUBMISSIONS: u32 = 512;
/// Completions that fit before the kernel must keep some for itself.
const COMPLETIONS: u32 = 8192;

pub struct Uring {
    ring: IoUring,
    /// Absent only while the worker looks at what one of them holds.
    buffers: Option<Box<Buffers>>,
    wake: Arc<WakeHandle>,
    conns: Vec<Conn>,
    /// Slots whose receive or poll has ended and must be asked for again after this turn.
    rearm: Vec<u32>,
    /// Where calls receive.
    landing: Box<[u8]>,
    thick: Thick,
    /// When this turn's completions were taken.
    turn_at: Nanos,
    stats: DriverStats,
}

#[derive(Default)]
struct Conn {
    socket: Option<OwnedFd>,
    generation: u32,
    /// The kernel holds a multishot receive on this socket.
    receiving: bool,
    /// A multishot poll for input is out.
    watching: bool,
    /// A poll for room to send is out.
    polling: bool,
    /// Thick: received from by calls.
    flow: Flow,
    /// A poll has said that the peer has ended.
    last_words: bool,
    /// Nothing more is received: the socket is about to be given away,
    paused: bool,
    /// and the poll for room was told to end.
    parting: bool,
    /// Detached: close when nothing is out any more.
    leaving: bool,
    ended: bool,
}

impl Uring {
    /// Must be called on the thread that will call everything else: the ring has a single issuer.
    ///
    /// # Errors
    /// The kernel or its policy does not allow what the driver needs.
    pub fn new(wake: Arc<WakeHandle>) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_taskrun_flag()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)?;
        let buffers = Buffers::register(&ring)?;
        let mut driver = Self {
            ring,
            buffers: Some(Box::new(buffers)),
            wake,
            conns: Vec::new(),
            rearm: Vec::new(),
            landing: vec![0; LANDING_BYTES].into_boxed_slice(),
            thick: Thick::default(),
            turn_at: 0,
            stats: DriverStats::default(),
        };
        driver.poll_wake();
        driver.wake.set_ring(driver.ring.as_raw_fd());
        Ok(driver)
    }

    /// Whether one buffer serves several receives on this kernel.
    pub fn is_incremental(&self) -> bool {
        self.buffers.as_ref().is_some_and(|buffers| buffers.is_incremental())
    }

    fn push(&mut self, entry: &squeue::Entry) {
        self.stats.submissions += 1;
        loop {
            // SAFETY: no entry of this driver points to memory of ours, but for the buffers, which outlive the ring;
            // descriptors are closed only after their last completion.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return;
            }
            self.stats.waits += 1;
            if self.ring.submit().is_err() {
                // Nothing can be submitted at all. The next turn meets the same error and ends the worker.
                return;
            }
        }
    }

    fn poll_wake(&mut self) {
        let entry = opcode::PollAdd::new(types::Fd(self.wake.fd().as_raw_fd()), libc::POLLIN as u32)
            .multi(true)
            .build()
            .user_data(Token::WAKE.encode());
        self.push(&entry);
    }

    fn token(&self, slot: u32, op: Op) -> u64 {
        Token { op, generation: self.conns[slot as usize].generation, slot }.encode()
    }

    /// Asks for input, in the way that fits the socket.
    fn listen(&mut self, slot: u32) {
        let conn = &mut self.conns[slot as usize];
        let Some(socket) = &conn.socket else { return };
        if conn.receiving || conn.watching || conn.leaving || conn.ended || conn.paused {
            return;
        }
        let fd = types::Fd(socket.as_raw_fd());
        if conn.flow.thick {
            conn.watching = true;
            let token = self.token(slot, Op::Readable);
            let events = (libc::POLLIN | libc::POLLRDHUP) as u32;
            self.push(&opcode::PollAdd::new(fd, events).multi(true).build().user_data(token));
        } else {
            conn.receiving = true;
            let token = self.token(slot, Op::Receive);
            self.push(&opcode::RecvMulti::new(fd, Buffers::GROUP).build().user_data(token));
        }
    }

    /// Notes how much one receive has brought; goes over to the other way when that is what fits now.
    #[inline]
    fn weigh(&mut self, slot: u32, len: usize) {
        if self.conns[slot as usize].flow.weigh(len) {
            self.cancel_input(slot);
        }
    }

    /// Ends the request for input that is out; its last completion asks anew.
    fn cancel_input(&mut self, slot: u32) {
        let conn = &self.conns[slot as usize];
        let (receiving, watching) = (conn.receiving, conn.watching);
        if receiving {
            self.cancel(slot, Op::Receive);
        }
        if watching {
            self.cancel(slot, Op::Readable);
        }
    }

    /// A poll has said that there is input.
    fn readable(&mut self, slot: u32, result: i32, flags: u32) {
        let conn = &mut self.conns[slot as usize];
        conn.watching = cqueue::more(flags);
        if !conn.watching && !conn.leaving {
            self.rearm.push(slot);
        }
        if result >= 0 {
            // The end of the stream is behind all bytes, and is told of only once.
            conn.last_words |= result & i32::from(libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) != 0;
            self.thick.push(slot, &mut conn.flow);
        }
    }

    /// Receives from sockets that bring much, each once, until their share of the turn is used up.
    fn serve_thick(&mut self, now: Nanos, sink: &mut impl Sink) {
        sink.answer(self);
        let (bytes, until) = self.thick.share(now);
        for _ in 0..self.thick.len() {
            let Some(slot) = self.thick.pop() else { return };
            Thick::popped(&mut self.conns[slot as usize].flow);
            self.receive_by_call(slot, bytes, sink);
            if until != Nanos::MAX && self.now() >= until {
                return;
            }
        }
    }

    fn receive_by_call(&mut self, slot: u32, max: usize, sink: &mut impl Sink) {
        let conn = &mut self.conns[slot as usize];
        let Some(socket) = &conn.socket else { return };
        if !conn.flow.thick || conn.ended || conn.leaving || conn.paused {
            return;
        }
        self.stats.receives += 1;
        let end = match recv(socket, &mut self.landing[..max], RecvFlags::DONTWAIT) {
            Ok((0, _)) => End::Closed,
            Ok((n, _)) => {
                if n == max || conn.last_words {
                    // A poll does not tell of what is left.
                    self.thick.push(slot, &mut conn.flow);
                }
                let mut landing = std::mem::take(&mut self.landing);
                sink.received(self, slot, &mut landing[..n]);
                self.landing = landing;
                sink.settle(self);
                self.weigh(slot, n);
                return;
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return,
            Err(_) => End::Reset,
        };
        self.conns[slot as usize].ended = true;
        sink.ended(slot, end);
    }

    fn completed(&mut self, token: Token, result: i32, flags: u32, sink: &mut impl Sink) {
        let slot = token.slot;
        let known =
            self.conns.get(slot as usize).is_some_and(|c| c.socket.is_some() && c.generation == token.generation);
        if !known {
            debug_assert!(cqueue::buffer_select(flags).is_none(), "a slot is reused only after its last receive");
            return;
        }
        match token.op {
            Op::Receive => self.receive_completed(slot, result, flags, sink),
            Op::Readable => self.readable(slot, result, flags),
            Op::Writable => {
                let conn = &mut self.conns[slot as usize];
                conn.polling = false;
                if !conn.leaving {
                    sink.writable(slot);
                }
            }
            Op::Wake | Op::Ignore => {}
        }
        self.leave_if_quiet(slot, sink);
    }

    fn receive_completed(&mut self, slot: u32, result: i32, flags: u32, sink: &mut impl Sink) {
        let conn = &mut self.conns[slot as usize];
        let (leaving, ended) = (conn.leaving, conn.ended);
        conn.receiving = cqueue::more(flags);
        let receiving = conn.receiving;
        if result > 0 {
            let len = result as usize;
            if !leaving {
                self.thick.saw_thin(self.turn_at);
            }
            if let Some(mut buffers) = self.buffers.take() {
                if let Some(bytes) = buffers.received(flags, len).filter(|_| !leaving) {
                    sink.received(self, slot, bytes);
                }
                buffers.release(flags, len);
                self.buffers = Some(buffers);
            }
            if !receiving && !leaving {
                self.rearm.push(slot);
            }
            if !leaving {
                sink.settle(self);
                self.weigh(slot, len);
            }
            return;
        }
        if cqueue::buffer_select(flags).is_some() {
            self.release_unused(flags);
        }
        if leaving || ended {
            return;
        }
        let end = match -result {
            0 => End::Closed,
            libc::ENOBUFS => {
                self.stats.no_buffer += 1;
                if !receiving {
                    self.rearm.push(slot);
                }
                return;
            }
            libc::EAGAIN | libc::EINTR | libc::ECANCELED => {
                if !receiving {
                    self.rearm.push(slot);
                }
                return;
            }
            _ => End::Reset,
        };
        self.conns[slot as usize].ended = true;
        sink.ended(slot, end);
    }

    fn release_unused(&mut self, flags: u32) {
        if let Some(buffers) = &mut self.buffers {
            buffers.release(flags, 0);
        }
    }

    /// Closes a detached socket once the kernel holds nothing that refers to it.
    fn leave_if_quiet(&mut self, slot: u32, sink: &mut impl Sink) {
        let conn = &mut self.conns[slot as usize];
        if conn.leaving && !conn.receiving && !conn.watching && !conn.polling {
            conn.leaving = false;
            conn.socket = None;
            sink.detached(slot);
        }
    }

    fn cancel(&mut self, slot: u32, op: Op) {
        let token = self.token(slot, op);
        let entry = opcode::AsyncCancel::new(token)
            .build()
            .user_data(Token::IGNORE.encode())
            .flags(squeue::Flags::SKIP_SUCCESS);
        self.push(&entry);
    }
}

impl Driver for Uring {
    type Socket = OwnedFd;

    fn now(&mut self) -> Nanos {
        socket::monotonic()
    }

    fn attach(&mut self, slot: u32, socket: OwnedFd) -> io::Result<()> {
        socket::prepare(&socket)?;
        let at = slot as usize;
        if self.conns.len() <= at {
            self.conns.resize_with(at + 1, Conn::default);
        }
        let conn = &mut self.conns[at];
        debug_assert!(conn.socket.is_none());
        *conn = Conn { socket: Some(socket), generation: Token::next_generation(conn.generation), ..Conn::default() };
        self.listen(slot);
        Ok(())
    }

    #[inline]
    fn send(&mut self, slot: u32, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let conn = &mut self.conns[slot as usize];
        let Some(socket) = &conn.socket else { return Ok(0) };
        self.stats.sends += 1;
        let n = socket::send(socket.as_fd(), parts)?;
        if !conn.polling && n < parts.iter().map(|p| p.len()).sum() {
            conn.polling = true;
            let fd = types::Fd(socket.as_raw_fd());
            let token = self.token(slot, Op::Writable);
            self.push(&opcode::PollAdd::new(fd, libc::POLLOUT as u32).build().user_data(token));
        }
        Ok(n)
    }

    fn detach(&mut self, slot: u32, sink: &mut impl Sink) {
        let Some(conn) = self.conns.get_mut(slot as usize) else {
            sink.detached(slot);
            return;
        };
        conn.leaving = true;
        let polling = conn.polling;
        if let Some(socket) = &conn.socket {
            // The peer learns of it now, whenever the last completion comes.
            socket::shutdown(socket);
        }
        self.cancel_input(slot);
        if polling {
            self.cancel(slot, Op::Writable);
        }
        self.leave_if_quiet(slot, sink);
    }

    fn turn(&mut self, wait: Duration, sink: &mut impl Sink) -> io::Result<()> {
        while let Some(slot) = self.rearm.pop() {
            self.listen(slot);
        }
        let wait = if self.thick.is_empty() { wait } else { Duration::ZERO };
        self.stats.waits += u64::from(enter(&mut self.ring, wait)?);
        let now = self.now();
        self.turn_at = now;
        sink.awake(now);
        // One completion at a time: what a completion leads to may submit, which borrows the ring.
        let mut next = self.ring.completion().next();
        while let Some(entry) = next {
            next = self.ring.completion().next();
            if let Some(next) = &next {
                let token = Token::decode(next.user_data());
                if token.op == Op::Receive && next.result() > 0 {
                    sink.receiving(token.slot);
                }
            }
            self.stats.completions += 1;
            let token = Token::decode(entry.user_data());
            match token.op {
                Op::Wake => {
                    self.stats.wakes_received += 1;
                    // A message from another ring has the same token and result 0; only the eventfd needs clearing.
                    if entry.result() > 0 {
                        self.wake.clear();
                        if !cqueue::more(entry.flags()) {
                            self.poll_wake();
                        }
                    }
                }
                Op::Ignore => {}
                _ => self.completed(token, entry.result(), entry.flags(), sink),
            }
            next = next.or_else(|| self.ring.completion().next());
        }
        if let Some(buffers) = &mut self.buffers {
            buffers.publish();
        }
        if !self.thick.is_empty() {
            self.serve_thick(now, sink);
        }
        Ok(())
    }

    fn pause(&mut self, slot: u32) -> bool {
        let conn = &mut self.conns[slot as usize];
        if !conn.paused {
            conn.paused = true;
            self.cancel_input(slot);
        }
        let conn = &self.conns[slot as usize];
        !conn.receiving && !conn.watching
    }

    fn take(&mut self, slot: u32) -> Option<OwnedFd> {
        if !self.pause(slot) {
            return None;
        }
        let conn = &mut self.conns[slot as usize];
        if conn.polling {
            if !conn.parting {
                conn.parting = true;
                self.cancel(slot, Op::Writable);
            }
            return None;
        }
        conn.socket.take()
    }

    fn wake(&mut self, other: &WakeHandle) {
        self.stats.wakes_sent += 1;
        match other.ring() {
            Some(ring) => {
                let entry = opcode::MsgRingData::new(types::Fd(ring), 0, Token::WAKE.encode(), None)
                    .build()
                    .user_data(Token::IGNORE.encode())
                    .flags(squeue::Flags::SKIP_SUCCESS);
                self.push(&entry);
                // It must ring before we sleep or work on: the other core waits for what it announces.
                self.stats.waits += 1;
                if self.ring.submit().is_err() {
                    other.wake();
                }
            }
            None => other.wake(),
        }
    }

    fn unacknowledged(&mut self, slot: u32) -> Option<u32> {
        self.conns.get(slot as usize)?.socket.as_ref().and_then(socket::unacknowledged)
    }

    fn round_trip(&mut self, slot: u32) -> Option<Duration> {
        self.conns.get(slot as usize)?.socket.as_ref().and_then(socket::round_trip)
    }

    fn stats(&self) -> DriverStats {
        self.stats
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.wake.set_ring(-1);
    }
}
