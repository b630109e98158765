//! The driver over epoll: level-triggered, one receive per ready socket and turn, so that no socket is served twice
//! before all are served once.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::net::{RecvFlags, recv};

use super::thick::{Flow, LANDING_BYTES, Thick};
use super::token::{Op, Token};
use super::{Driver, DriverStats, End, Nanos, Sink, WakeHandle, socket};

/// Events taken in one turn.
const EVENTS: usize = 512;

pub struct Epoll {
    epoll: OwnedFd,
    wake: Arc<WakeHandle>,
    conns: Vec<Conn>,
    events: Vec<Event>,
    /// In bulk a sender's burst comes in one go, and stays in the cache.
    buffer: Box<[u8]>,
    thick: Thick,
    stats: DriverStats,
}

#[derive(Default)]
struct Conn {
    socket: Option<OwnedFd>,
    generation: u32,
    /// EPOLLOUT is asked for.
    blocked: bool,
    /// EPOLLIN is not asked for any more: the peer has ended,
    ended: bool,
    /// or the socket is about to be given away.
    paused: bool,
    /// The kernel watches it.
    listed: bool,
    flow: Flow,
}

impl Epoll {
    /// # Errors
    /// No descriptor is left.
    pub fn new(wake: Arc<WakeHandle>) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, wake.fd(), EventData::new_u64(Token::WAKE.encode()), EventFlags::IN)?;
        Ok(Self {
            epoll,
            wake,
            conns: Vec::new(),
            events: Vec::with_capacity(EVENTS),
            buffer: vec![0; LANDING_BYTES].into_boxed_slice(),
            thick: Thick::default(),
            stats: DriverStats::default(),
        })
    }

    fn ask_for(&mut self, slot: u32) {
        let conn = &self.conns[slot as usize];
        let Some(socket) = &conn.socket else { return };
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, !conn.ended && !conn.paused);
        flags.set(EventFlags::OUT, conn.blocked);
        let token = EventData::new_u64(Token { op: Op::Receive, generation: conn.generation, slot }.encode());
        // The descriptor is open: there is nothing that can fail here but memory, and then the write timeout ends the
        // connection.
        let _ = match (conn.listed, flags.is_empty()) {
            // The kernel reports a peer that hangs up whatever is asked for, again and again.
            (true, true) => epoll::delete(&self.epoll, socket),
            (true, false) => epoll::modify(&self.epoll, socket, token, flags),
            (false, true) => Ok(()),
            (false, false) => epoll::add(&self.epoll, socket, token, flags),
        };
        self.conns[slot as usize].listed = !flags.is_empty();
    }

    fn receive(&mut self, slot: u32, max: usize, sink: &mut impl Sink) {
        let conn = &mut self.conns[slot as usize];
        let Some(socket) = &conn.socket else { return };
        if conn.ended || conn.paused {
            return;
        }
        self.stats.receives += 1;
        sink.receiving(slot);
        let end = match recv(socket, &mut self.buffer[..max], RecvFlags::DONTWAIT) {
            Ok((0, _)) => End::Closed,
            Ok((n, _)) => {
                conn.flow.weigh(n);
                let mut buffer = std::mem::take(&mut self.buffer);
                sink.received(self, slot, &mut buffer[..n]);
                self.buffer = buffer;
                sink.settle(self);
                return;
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return,
            Err(_) => End::Reset,
        };
        conn.ended = true;
        self.ask_for(slot);
        sink.ended(slot, end);
    }

    /// Receives from sockets that bring much, each once, until their share of the turn is used up.
    fn serve_thick(&mut self, now: Nanos, sink: &mut impl Sink) {
        sink.answer(self);
        let (bytes, until) = self.thick.share(now);
        // Whoever is not served, or has more, is reported again by the next wait.
        for _ in 0..self.thick.len() {
            let Some(slot) = self.thick.pop() else { return };
            Thick::popped(&mut self.conns[slot as usize].flow);
            self.receive(slot, bytes, sink);
            if until != Nanos::MAX && self.now() >= until {
                return;
            }
        }
    }
}

impl Driver for Epoll {
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
        conn.generation = Token::next_generation(conn.generation);
        conn.blocked = false;
        conn.ended = false;
        conn.paused = false;
        conn.listed = true;
        conn.flow = Flow::default();
        let token = Token { op: Op::Receive, generation: conn.generation, slot };
        epoll::add(&self.epoll, &socket, EventData::new_u64(token.encode()), EventFlags::IN)?;
        conn.socket = Some(socket);
        Ok(())
    }

    #[inline]
    fn send(&mut self, slot: u32, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let conn = &mut self.conns[slot as usize];
        let Some(socket) = &conn.socket else { return Ok(0) };
        self.stats.sends += 1;
        let n = socket::send(socket.as_fd(), parts)?;
        if !conn.blocked && n < parts.iter().map(|p| p.len()).sum() {
            conn.blocked = true;
            self.ask_for(slot);
        }
        Ok(n)
    }

    fn detach(&mut self, slot: u32, sink: &mut impl Sink) {
        // Closing takes it out of the set: nobody else has a descriptor of this socket.
        if let Some(conn) = self.conns.get_mut(slot as usize)
            && let Some(socket) = conn.socket.take()
        {
            socket::shutdown(&socket);
        }
        sink.detached(slot);
    }

    fn pause(&mut self, slot: u32) -> bool {
        self.conns[slot as usize].paused = true;
        self.ask_for(slot);
        true
    }

    fn take(&mut self, slot: u32) -> Option<OwnedFd> {
        let conn = &mut self.conns[slot as usize];
        let socket = conn.socket.take()?;
        if std::mem::take(&mut conn.listed) {
            // Not closed but given away: it must be taken out of the set by hand.
            let _ = epoll::delete(&self.epoll, &socket);
        }
        Some(socket)
    }

    fn turn(&mut self, wait: Duration, sink: &mut impl Sink) -> io::Result<()> {
        let timeout =
            rustix::event::Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
        self.stats.waits += 1;
        self.events.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let now = self.now();
        sink.awake(now);
        for at in 0..self.events.len() {
            let event = self.events[at];
            let token = Token::decode(event.data.u64());
            if token.op == Op::Wake {
                self.wake.clear();
                self.stats.wakes_received += 1;
                continue;
            }
            let slot = token.slot;
            let Some(conn) = self.conns.get_mut(slot as usize) else { continue };
            if conn.socket.is_none() || conn.generation != token.generation {
                continue;
            }
            let flags = event.flags;
            if conn.blocked && flags.intersects(EventFlags::OUT | EventFlags::ERR | EventFlags::HUP) {
                conn.blocked = false;
                self.ask_for(slot);
                sink.writable(slot);
            }
            if flags.intersects(EventFlags::IN | EventFlags::ERR | EventFlags::HUP) {
                let flow = &mut self.conns[slot as usize].flow;
                if flow.thick {
                    self.thick.push(slot, flow);
                } else {
                    self.thick.saw_thin(now);
                    if let Some(next) = self.events.get(at + 1) {
                        let next = Token::decode(next.data.u64());
                        if next.op == Op::Receive {
                            sink.expected(next.slot);
                        }
                    }
                    self.receive(slot, LANDING_BYTES, sink);
                }
            }
        }
        if !self.thick.is_empty() {
            self.serve_thick(now, sink);
        }
        Ok(())
    }

    fn wake(&mut self, other: &WakeHandle) {
        self.stats.wakes_sent += 1;
        other.wake();
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

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[derive(Default)]
    struct Heard {
        bytes: usize,
        ended: bool,
    }

    impl Sink for Heard {
        fn awake(&mut self, _: Nanos) {}
        fn received<D: Driver>(&mut self, _: &mut D, _: u32, bytes: &mut [u8]) {
            self.bytes += bytes.len();
        }
        fn settle<D: Driver>(&mut self, _: &mut D) {}
        fn answer<D: Driver>(&mut self, _: &mut D) {}
        fn writable(&mut self, _: u32) {}
        fn ended(&mut self, _: u32, _: End) {
            self.ended = true;
        }
        fn detached(&mut self, _: u32) {}
    }

    /// A worker with such a session would not sleep again until the session has moved.
    #[test]
    fn a_paused_socket_whose_peer_hangs_up_is_not_reported_and_loses_nothing() {
        let new = || Epoll::new(Arc::new(WakeHandle::new().unwrap())).unwrap();
        let (mut from, mut to, mut heard) = (new(), new(), Heard::default());
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        from.attach(3, ours.into()).unwrap();
        assert!(from.pause(3));
        theirs.write_all(b"last words").unwrap();
        drop(theirs);
        from.turn(Duration::from_millis(10), &mut heard).unwrap();
        assert!(from.events.is_empty() && heard.bytes == 0 && !heard.ended);

        to.attach(0, from.take(3).unwrap()).unwrap();
        while !heard.ended {
            to.turn(Duration::from_secs(5), &mut heard).unwrap();
            assert!(!to.events.is_empty(), "the end is reported");
        }
        assert_eq!(heard.bytes, 10);
        // The old slot is free again.
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        from.attach(3, ours.into()).unwrap();
        theirs.write_all(b"hello").unwrap();
        from.turn(Duration::from_secs(5), &mut heard).unwrap();
        assert_eq!(heard.bytes, 15);
    }
}
