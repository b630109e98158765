//! A client of the simulated network, in bytes of its own: what it sends, what it gets, and what it has the right to
//! complain about.

use std::collections::{HashMap, VecDeque};

use derpring::driver::sim::{Random, SimClient};
use derpring::tls::{Flow, Transport};

pub type Key = [u8; 32];

pub const DISCO_MAGIC: &[u8] = b"TS\xf0\x9f\x92\xac";
const BODY: usize = 20;

/// What a packet says of itself: (sender's connection, number, length) and who it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub from_conn: u32,
    pub to_peer: u32,
    pub number: u32,
    pub disco: bool,
}

/// Payload bytes that can be checked without knowing more than they say.
pub fn payload(stamp: Stamp, len: usize) -> Vec<u8> {
    let mut out = Vec::new();
    if stamp.disco {
        out.extend_from_slice(DISCO_MAGIC);
    }
    let len = len.max(if stamp.disco { 62 } else { BODY });
    let head = out.len();
    out.extend_from_slice(&stamp.from_conn.to_be_bytes());
    out.extend_from_slice(&stamp.to_peer.to_be_bytes());
    out.extend_from_slice(&stamp.number.to_be_bytes());
    out.extend_from_slice(&(len as u32).to_be_bytes());
    out.extend_from_slice(&[0xa5; 4]);
    while out.len() < len {
        let at = out.len() as u32;
        out.push((at ^ stamp.number ^ stamp.from_conn.rotate_left(3)) as u8);
    }
    debug_assert!(out.len() >= head + BODY);
    out
}

fn check_payload(bytes: &[u8]) -> Result<Stamp, String> {
    let disco = bytes.starts_with(DISCO_MAGIC);
    let body = if disco { &bytes[DISCO_MAGIC.len()..] } else { bytes };
    if body.len() < BODY {
        return Err(format!("a payload of {} bytes was never sent", bytes.len()));
    }
    let word = |at: usize| u32::from_be_bytes(body[at..at + 4].try_into().expect("four bytes"));
    let stamp = Stamp { from_conn: word(0), to_peer: word(4), number: word(8), disco };
    if payload(stamp, word(12) as usize) != bytes {
        return Err(format!("content of {stamp:?} is wrong"));
    }
    Ok(stamp)
}

/// What came, in order.
#[derive(Debug)]
pub enum Got {
    Packet { key: Key, stamp: Stamp },
    Gone { key: Key, reason: u8 },
    Present { key: Key },
    Health { text: String },
    Pong([u8; 8]),
    Restarting,
    KeepAlive,
}

pub struct Client {
    pub id: u32,
    pub peer: u32,
    pub key: Key,
    pub end: SimClient,
    pub transport: Transport,
    pub mesh: bool,
    /// Has closed or reset its end, or found the relay's end closed.
    pub over: bool,
    /// Has done something for which the relay must close it.
    pub doomed: bool,
    pub greeted: bool,
    pub reading: bool,
    next_number: u32,
    wire: Vec<u8>,
    plain: Vec<u8>,
    last: HashMap<(u32, bool), u32>,
    pub pings: Vec<[u8; 8]>,
    /// Restarting frames.
    pub told: u32,
    /// Puts its bytes into messages.
    pub websocket: Option<WebSocket>,
}

/// The client's side of a WebSocket, in bytes of its own.
pub struct WebSocket {
    random: Random,
    opened: Vec<u8>,
    pings: VecDeque<Vec<u8>>,
    pub pongs: u64,
    /// The code of the relay's close frame, if it has come.
    pub closed: Option<Option<u16>>,
}

impl WebSocket {
    pub fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), opened: Vec::new(), pings: VecDeque::new(), pongs: 0, closed: None }
    }

    /// One masked frame.
    pub fn frame(&mut self, first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            // Not always the shortest form.
            n @ 0..=125 if first & 0x08 != 0 || self.random.chance(250) => frame.push(0x80 | n as u8),
            n @ 0..=65_535 if self.random.chance(250) => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&(n as u16).to_be_bytes());
            }
            n => {
                frame.push(0x80 | 127);
                frame.extend_from_slice(&(n as u64).to_be_bytes());
            }
        }
        let mask = (self.random.next() as u32).to_be_bytes();
        frame.extend_from_slice(&mask);
        frame.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
        frame
    }

    /// The bytes in messages, cut anywhere, in fragments, with pings in between.
    fn wrap(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let (mut rest, mut inside) = (bytes, false);
        while !rest.is_empty() || inside {
            if self.random.chance(12) {
                let payload = vec![self.pings.len() as u8; self.random.below(126)];
                out.extend(self.frame(0x89, &payload));
                self.pings.push_back(payload);
            }
            let cut = if self.random.chance(200) { rest.len() } else { self.random.below(rest.len() + 1) };
            let (piece, behind) = rest.split_at(cut);
            let last = self.random.chance(128);
            let first = if inside { 0x00 } else { 0x02 } | if last { 0x80 } else { 0 };
            out.extend(self.frame(first, piece));
            (rest, inside) = (behind, !last);
        }
        out
    }

    /// Takes the relay's frames apart: unmasked, whole binary messages, answers to pings, and the end.
    fn unwrap(&mut self, plain: &mut Vec<u8>) -> Result<(), String> {
        let mut at = 0;
        while let Some(&[first, short]) = self.opened.get(at..at + 2) {
            let (head, len) = match short {
                126 => match self.opened.get(at + 2..at + 4) {
                    Some(len) => (4, usize::from(u16::from_be_bytes([len[0], len[1]]))),
                    None => break,
                },
                short => (2, usize::from(short)),
            };
            let Some(body) = self.opened.get(at + head..at + head + len) else { break };
            if self.closed.is_some() {
                return Err("a frame behind the close frame".into());
            }
            match first {
                0x82 if head == 2 || len > 125 => plain.extend_from_slice(body),
                0x8a => {
                    let found =
                        self.pings.iter().position(|ping| ping == body).ok_or("a pong that nobody asked for")?;
                    self.pings.drain(..=found);
                    self.pongs += 1;
                }
                0x88 => self.closed = Some(body.first_chunk().map(|code| u16::from_be_bytes(*code))),
                _ => return Err(format!("a WebSocket frame {first:#x} of {len} bytes")),
            }
            at += head + len;
        }
        self.opened.drain(..at);
        Ok(())
    }
}

impl Client {
    pub fn new(id: u32, peer: u32, key: Key, mesh: bool, end: SimClient, transport: Transport) -> Self {
        Self {
            id,
            peer,
            key,
            end,
            transport,
            mesh,
            over: false,
            doomed: false,
            greeted: false,
            reading: true,
            next_number: 1,
            wire: Vec::new(),
            plain: Vec::new(),
            last: HashMap::new(),
            pings: Vec::new(),
            websocket: None,
            told: 0,
        }
    }

    pub fn send_frame(&mut self, kind: u8, payload: &[u8]) {
        let bytes = self.frame(kind, payload);
        self.end.write(&bytes);
    }

    /// A frame as it goes over the wire.
    pub fn frame(&mut self, kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![kind];
        frame.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        frame.extend_from_slice(payload);
        self.wrap(&frame)
    }

    /// Bytes of DERP as they go over the wire.
    pub fn wrap(&mut self, bytes: &[u8]) -> Vec<u8> {
        match &mut self.websocket {
            Some(websocket) => {
                let messages = websocket.wrap(bytes);
                self.seal(&messages)
            }
            None => self.seal(bytes),
        }
    }

    pub fn seal(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut sealed = Vec::new();
        self.transport.seal_into(bytes, &mut sealed).expect("the client's records");
        sealed
    }

    pub fn packet(&mut self, to: &Key, to_peer: u32, disco: bool, len: usize) -> Vec<u8> {
        let stamp = Stamp { from_conn: self.id, to_peer, number: self.next_number, disco };
        self.next_number += 1;
        let mut body = to.to_vec();
        body.extend_from_slice(&payload(stamp, len));
        self.frame(0x04, &body)
    }

    /// Reads at most `max` bytes and says what they were.
    pub fn read(&mut self, max: usize) -> Result<Vec<Got>, String> {
        self.end.read(max, &mut self.wire);
        let opened = self.websocket.as_mut().map_or(&mut self.plain, |websocket| &mut websocket.opened);
        let flow = self.transport.open_into(&mut self.wire, opened).map_err(|e| format!("our record: {e}"))?;
        if let Some(websocket) = &mut self.websocket {
            websocket.unwrap(&mut self.plain).map_err(|e| format!("client {}: {e}", self.id))?;
        }
        let mut got = Vec::new();
        let mut at = 0;
        while let Some(head) = self.plain.get(at..at + 5) {
            let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            let kind = head[0];
            let Some(body) = self.plain.get(at + 5..at + 5 + len) else { break };
            if !self.greeted && kind != 0x03 {
                return Err(format!("client {}: frame {kind:#x} before ServerInfo", self.id));
            }
            let key = |body: &[u8]| body.get(..32).and_then(|k| k.try_into().ok()).ok_or("a frame without its key");
            match kind {
                0x03 if !self.greeted => self.greeted = true,
                0x05 => {
                    let stamp = check_payload(&body[32..]).map_err(|e| format!("client {}: {e}", self.id))?;
                    if stamp.to_peer != self.peer {
                        return Err(format!("client {} of peer {} got {stamp:?}", self.id, self.peer));
                    }
                    let last = self.last.insert((stamp.from_conn, stamp.disco), stamp.number);
                    if last.is_some_and(|last| last >= stamp.number) {
                        return Err(format!("client {}: {stamp:?} after number {last:?}", self.id));
                    }
                    got.push(Got::Packet { key: key(body)?, stamp });
                }
                0x06 if body.is_empty() => got.push(Got::KeepAlive),
                0x08 if len == 33 => got.push(Got::Gone { key: key(body)?, reason: body[32] }),
                0x09 if len == 51 && self.mesh => got.push(Got::Present { key: key(body)? }),
                0x13 if len == 8 => got.push(Got::Pong(body.try_into().expect("eight bytes"))),
                0x14 => got.push(Got::Health { text: String::from_utf8_lossy(body).into_owned() }),
                0x15 if len == 8 => got.push(Got::Restarting),
                _ => return Err(format!("client {}: frame {kind:#x} of {len} bytes", self.id)),
            }
            at += 5 + len;
        }
        self.plain.drain(..at);
        if flow == Flow::Closed && !self.plain.is_empty() {
            return Err(format!("client {}: close_notify inside a frame", self.id));
        }
        Ok(got)
    }
}
