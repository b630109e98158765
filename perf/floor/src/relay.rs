//! The loop: wait, read once per ready socket, cut, rewrite, write once per run of frames to one destination.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::mem;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use aws_lc_rs::error::Unspecified;
use foldhash::fast::RandomState;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketFlags, accept_with, recv, sockopt};

use crate::cipher::Cipher;
use crate::conn::{Conn, State};
use crate::frame::{self, HEADER, Key, MAX_FRAME, PACKET_HEAD, kind};
use crate::handshake::Handshake;
use crate::login::{Keys, Progress};

const LISTENER: u64 = u64::MAX;
const EVENTS: usize = 4096;
/// What one read may bring, behind the beginning of a frame.
const READ: usize = 256 << 10;

pub struct Relay {
    listener: TcpListener,
    epoll: OwnedFd,
    keys: Keys,
    /// By slot; the kernel's events carry it.
    conns: Vec<Option<Conn>>,
    free: Vec<usize>,
    directory: HashMap<Key, usize, RandomState>,
    buffer: Vec<u8>,
    cipher: Option<(Cipher, Handshake)>,
}

fn ciphers() -> Result<(Cipher, Handshake), Unspecified> {
    Ok((Cipher::new()?, Handshake::new()?))
}

/// Frames to one destination, one behind the other in the receive buffer.
struct Run {
    to: usize,
    from: usize,
    end: usize,
}

/// The connection ends.
struct Gone;

impl Relay {
    pub fn bind(address: SocketAddr, cipher: bool) -> io::Result<Self> {
        let listener = TcpListener::bind(address)
            .map_err(|err| io::Error::new(err.kind(), format!("cannot listen on {address}: {err}")))?;
        listener.set_nonblocking(true)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        Ok(Self {
            listener,
            epoll,
            keys: Keys::random().map_err(io::Error::other)?,
            conns: Vec::new(),
            free: Vec::new(),
            directory: HashMap::default(),
            buffer: vec![0; MAX_FRAME + READ],
            cipher: cipher.then(ciphers).transpose().map_err(io::Error::other)?,
        })
    }

    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    pub fn run(&mut self) -> io::Result<Infallible> {
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            for &Event { data, flags } in &events {
                match data.u64() {
                    LISTENER => self.accept()?,
                    slot => self.ready(slot as usize, flags),
                }
            }
        }
    }

    /// Takes in whoever waits. Out of descriptors is the end: a loop that cannot accept would spin, and its figures
    /// would mean nothing.
    fn accept(&mut self) -> io::Result<()> {
        loop {
            let socket = match accept_with(&self.listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(socket) => socket,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(errno) => {
                    let text = format!("cannot accept: {errno} (too many open files: raise `ulimit -n`)");
                    return Err(io::Error::other(text));
                }
            };
            sockopt::set_tcp_nodelay(&socket, true)?;
            let slot = self.free.pop().unwrap_or_else(|| {
                self.conns.push(None);
                self.conns.len() - 1
            });
            epoll::add(&self.epoll, &socket, EventData::new_u64(slot as u64), EventFlags::IN)?;
            self.conns[slot] = Some(Conn::new(socket));
        }
    }

    /// An event may be for a connection that ended a moment ago, and whose slot has another: reading it finds nothing.
    fn ready(&mut self, slot: usize, flags: EventFlags) {
        if flags.contains(EventFlags::OUT)
            && let Some(conn) = &mut self.conns[slot]
        {
            conn.flush();
            self.watch(slot);
        }
        if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            let mut buffer = mem::take(&mut self.buffer);
            let done = self.read(slot, &mut buffer);
            self.buffer = buffer;
            if let Err(Gone) = done {
                self.close(slot);
            }
        }
    }

    fn read(&mut self, slot: usize, buffer: &mut [u8]) -> Result<(), Gone> {
        let Some(conn) = &mut self.conns[slot] else {
            return Ok(());
        };
        let begun = conn.tail.len();
        buffer[..begun].copy_from_slice(&conn.tail);
        let came = match recv(&conn.socket, &mut buffer[begun..], RecvFlags::empty()) {
            Ok((0, _)) => return Err(Gone),
            Ok((came, _)) => came,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(_) => return Err(Gone),
        };
        conn.tail.clear();
        let bytes = &mut buffer[..begun + came];
        if let Some((cipher, _)) = &mut self.cipher {
            cipher.pass(&bytes[begun..]);
        }
        let at = self.log_in(slot, bytes)?;
        let at = self.forward(slot, bytes, at)?;
        if let Some(conn) = &mut self.conns[slot] {
            conn.tail.extend_from_slice(&bytes[at..]);
        }
        Ok(())
    }

    /// How much of `bytes` the login took; none where it is long done.
    fn log_in(&mut self, slot: usize, bytes: &[u8]) -> Result<usize, Gone> {
        let mut at = 0;
        while let Some(conn) = &mut self.conns[slot]
            && let State::Login(step) = &mut conn.state
        {
            let mut answer = Vec::new();
            match self.keys.advance(*step, &bytes[at..], &mut answer).map_err(|_| Gone)? {
                Progress::More => break,
                Progress::Upgraded(used) => {
                    at += used;
                    if let Some((cipher, handshake)) = &mut self.cipher {
                        handshake.spend(cipher).map_err(|_| Gone)?;
                    }
                    *step = crate::login::Step::ClientInfo;
                }
                Progress::LoggedIn(used, key) => {
                    at += used;
                    conn.state = State::Relay { key, last: slot };
                    if let Some(older) = self.directory.insert(key, slot) {
                        self.close(older);
                    }
                }
            }
            // A socket that is this new takes the few bytes whole.
            let conn = self.conns[slot].as_mut().ok_or(Gone)?;
            rustix::net::send(&conn.socket, &answer, rustix::net::SendFlags::NOSIGNAL).map_err(|_| Gone)?;
        }
        Ok(at)
    }

    /// Forwards every whole frame from `at` on, and says where the first that is not whole begins.
    fn forward(&mut self, slot: usize, bytes: &mut [u8], mut at: usize) -> Result<usize, Gone> {
        let Some(Conn { state: State::Relay { key, last }, .. }) = &self.conns[slot] else {
            return Ok(at);
        };
        let (source, mut last) = (*key, *last);
        let mut run = Run { to: 0, from: at, end: at };
        while let Some(len) = frame::whole(&bytes[at..]).map_err(|_| Gone)? {
            let frame = &mut bytes[at..at + len];
            match frame[0] {
                kind::SEND_PACKET if len >= PACKET_HEAD => {
                    let found = self.find(&frame[HEADER..PACKET_HEAD], last);
                    if found != Some(run.to) || run.end != at {
                        self.send(&run, bytes);
                        run = Run { to: found.unwrap_or(0), from: at, end: at };
                    }
                    if let Some(to) = found {
                        let frame = &mut bytes[at..at + len];
                        frame[0] = kind::RECV_PACKET;
                        frame[HEADER..PACKET_HEAD].copy_from_slice(&source);
                        run.end = at + len;
                        last = to;
                    }
                }
                kind::PING => {
                    frame[0] = kind::PONG;
                    self.send(&run, bytes);
                    run = Run { to: slot, from: at, end: at + len };
                }
                _ => {}
            }
            at += len;
        }
        self.send(&run, bytes);
        if let Some(Conn { state: State::Relay { last: kept, .. }, .. }) = &mut self.conns[slot] {
            *kept = last;
        }
        Ok(at)
    }

    fn find(&self, key: &[u8], last: usize) -> Option<usize> {
        let there = self.conns[last].as_ref().and_then(Conn::key);
        if there.is_some_and(|there| there == key) {
            return Some(last);
        }
        self.directory.get(key).copied()
    }

    fn send(&mut self, run: &Run, bytes: &[u8]) {
        if run.from == run.end {
            return;
        }
        if let Some((cipher, _)) = &mut self.cipher {
            cipher.pass(&bytes[run.from..run.end]);
        }
        if let Some(conn) = &mut self.conns[run.to] {
            conn.send(&bytes[run.from..run.end]);
            if conn.has_waiting() != conn.asked {
                self.watch(run.to);
            }
        }
    }

    /// Asks for room in the socket while something waits for it, and not otherwise.
    fn watch(&mut self, slot: usize) {
        let Some(conn) = &mut self.conns[slot] else {
            return;
        };
        conn.asked = conn.has_waiting();
        let flags = if conn.asked { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
        epoll::modify(&self.epoll, &conn.socket, EventData::new_u64(slot as u64), flags)
            .expect("a socket that is open and was added");
    }

    fn close(&mut self, slot: usize) {
        let Some(conn) = self.conns[slot].take() else {
            return;
        };
        if let Some(key) = conn.key()
            && self.directory.get(key) == Some(&slot)
        {
            self.directory.remove(key);
        }
        self.free.push(slot);
    }
}
