//! A connection: its socket, what of a frame it has received, and what its socket did not take.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use crate::frame::{self, Key};
use crate::login::Step;

/// What may wait for one receiver. Enough for whoever reads at all; a packet beyond it is dropped whole.
const WAITING_MAX: usize = 4 << 20;

pub struct Conn {
    pub socket: OwnedFd,
    pub state: State,
    /// The beginning of a frame, or of a login, whose rest has not come.
    pub tail: Vec<u8>,
    waiting: VecDeque<u8>,
    /// Whether epoll is asked for room in the socket.
    pub asked: bool,
}

pub enum State {
    Login(Step),
    /// Logged in under `key`. Packets go most often to where the last one went.
    Relay {
        key: Key,
        last: usize,
    },
}

impl Conn {
    pub fn new(socket: OwnedFd) -> Self {
        let state = State::Login(Step::default());
        Self { socket, state, tail: Vec::new(), waiting: VecDeque::new(), asked: false }
    }

    pub fn key(&self) -> Option<&Key> {
        match &self.state {
            State::Login(_) => None,
            State::Relay { key, .. } => Some(key),
        }
    }

    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Sends `frames` (whole ones) behind what waits; the socket's failure shows when it is read.
    pub fn send(&mut self, frames: &[u8]) {
        let mut sent = 0;
        if self.waiting.is_empty() {
            sent = send_some(&self.socket, frames);
            if sent == frames.len() {
                return;
            }
        }
        self.keep(frames, sent);
    }

    /// Sends what waits, as far as it goes.
    pub fn flush(&mut self) {
        while !self.waiting.is_empty() {
            let front = self.waiting.as_slices().0;
            let (sent, len) = (send_some(&self.socket, front), front.len());
            self.waiting.drain(..sent);
            if sent < len {
                return;
            }
        }
        // A burst is over: its memory goes back.
        self.waiting = VecDeque::new();
    }

    /// Keeps what is not sent of `frames`: the rest of the frame that was cut in any case, others where there is room.
    fn keep(&mut self, frames: &[u8], sent: usize) {
        let mut at = 0;
        while let Ok(Some(len)) = frame::whole(&frames[at..]) {
            let end = at + len;
            let cut = at < sent && sent < end;
            if sent < end && (cut || self.waiting.len() + len <= WAITING_MAX) {
                self.waiting.extend(&frames[at.max(sent)..end]);
            }
            at = end;
        }
    }
}

/// How much of `bytes` the socket took.
fn send_some(socket: &OwnedFd, bytes: &[u8]) -> usize {
    loop {
        match send(socket, bytes, SendFlags::NOSIGNAL) {
            Ok(sent) => return sent,
            Err(Errno::INTR) => {}
            Err(_) => return 0,
        }
    }
}
