//! DERP frames as bytes, and the box of the login.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crypto_box::aead::Aead;
use crypto_box::{PublicKey, SalsaBox, SecretKey};

pub const SERVER_KEY: u8 = 0x01;
pub const CLIENT_INFO: u8 = 0x02;
pub const SERVER_INFO: u8 = 0x03;
pub const SEND_PACKET: u8 = 0x04;
pub const RECV_PACKET: u8 = 0x05;
pub const KEEP_ALIVE: u8 = 0x06;
pub const NOTE_PREFERRED: u8 = 0x07;
pub const PEER_GONE: u8 = 0x08;
pub const PEER_PRESENT: u8 = 0x09;
pub const FORWARD_PACKET: u8 = 0x0a;
pub const WATCH_CONNS: u8 = 0x10;
pub const CLOSE_PEER: u8 = 0x11;
pub const PING: u8 = 0x12;
pub const PONG: u8 = 0x13;
pub const HEALTH: u8 = 0x14;
pub const RESTARTING: u8 = 0x15;

pub const MAGIC: &[u8; 8] = b"DERP\xf0\x9f\x94\x91";

/// Reasons of PeerGone.
pub const DISCONNECTED: u8 = 0;
pub const NOT_HERE: u8 = 1;

/// Largest packet that is relayed.
pub const MAX_PACKET: usize = 65536;

pub type Public = [u8; 32];

#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn bytes(&self) -> Vec<u8> {
        frame(self.kind, &[&self.payload])
    }

    /// Source and data of a RecvPacket.
    pub fn packet(&self) -> (Public, &[u8]) {
        assert!(self.kind == RECV_PACKET && self.payload.len() >= 32, "expected a RecvPacket, got {self:?}");
        (self.payload[..32].try_into().unwrap(), &self.payload[32..])
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.kind {
            SERVER_KEY => "ServerKey",
            CLIENT_INFO => "ClientInfo",
            SERVER_INFO => "ServerInfo",
            SEND_PACKET => "SendPacket",
            RECV_PACKET => "RecvPacket",
            KEEP_ALIVE => "KeepAlive",
            NOTE_PREFERRED => "NotePreferred",
            PEER_GONE => "PeerGone",
            PEER_PRESENT => "PeerPresent",
            FORWARD_PACKET => "ForwardPacket",
            WATCH_CONNS => "WatchConns",
            CLOSE_PEER => "ClosePeer",
            PING => "Ping",
            PONG => "Pong",
            HEALTH => "Health",
            RESTARTING => "Restarting",
            _ => "frame",
        };
        let shown = &self.payload[..self.payload.len().min(80)];
        let more = if shown.len() < self.payload.len() { ".." } else { "" };
        write!(f, "{name}({:#04x}, {} bytes: {}{more})", self.kind, self.payload.len(), hex(shown))
    }
}

pub fn header(kind: u8, len: u32) -> Vec<u8> {
    [&[kind][..], &len.to_be_bytes()].concat()
}

pub fn frame(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = header(kind, u32::try_from(len).unwrap());
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

pub fn send_packet(to: &Public, data: &[u8]) -> Vec<u8> {
    frame(SEND_PACKET, &[to, data])
}

pub fn recv_packet(from: &Public, data: &[u8]) -> Vec<u8> {
    frame(RECV_PACKET, &[from, data])
}

pub fn forward_packet(from: &Public, to: &Public, data: &[u8]) -> Vec<u8> {
    frame(FORWARD_PACKET, &[from, to, data])
}

pub fn note_preferred(home: bool) -> Vec<u8> {
    frame(NOTE_PREFERRED, &[&[u8::from(home)]])
}

pub fn peer_gone(peer: &Public, reason: u8) -> Vec<u8> {
    frame(PEER_GONE, &[peer, &[reason]])
}

/// For a peer at 127.0.0.1.
pub fn peer_present(peer: &Public, port: u16, flags: u8) -> Vec<u8> {
    let ip = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1];
    frame(PEER_PRESENT, &[peer, &ip, &port.to_be_bytes(), &[flags]])
}

pub fn watch_conns() -> Vec<u8> {
    frame(WATCH_CONNS, &[])
}

pub fn close_peer(peer: &Public) -> Vec<u8> {
    frame(CLOSE_PEER, &[peer])
}

pub fn ping(data: &[u8]) -> Vec<u8> {
    frame(PING, &[data])
}

pub fn pong(data: &[u8; 8]) -> Vec<u8> {
    frame(PONG, &[data])
}

/// A disco message of `len` bytes, at least 62.
pub fn disco(len: usize) -> Vec<u8> {
    let mut data = b"TS\xf0\x9f\x92\xac".to_vec();
    data.resize(len, 0xd1);
    data
}

/// `len` bytes that differ from place to place and from `seed` to `seed`.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}

/// A node's key pair.
#[derive(Clone)]
pub struct Key {
    pub public: Public,
    secret: SecretKey,
}

impl Key {
    /// One that no other test of this program has.
    pub fn fresh() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self::of(noise(number, 32).try_into().unwrap())
    }

    pub fn of(secret: [u8; 32]) -> Self {
        let secret = SecretKey::from(secret);
        Self { public: *secret.public_key().as_bytes(), secret }
    }

    /// A whole ClientInfo frame.
    pub fn client_info(&self, relay: &Public, nonce: [u8; 24], json: &str) -> Vec<u8> {
        let sealed = self.shared(relay).encrypt((&nonce).into(), json.as_bytes()).unwrap();
        frame(CLIENT_INFO, &[&self.public, &nonce, &sealed])
    }

    /// What a ServerInfo says; `None`: it was not sealed by `relay` for this key.
    pub fn open_server_info(&self, relay: &Public, payload: &[u8]) -> Option<String> {
        let (nonce, sealed) = payload.split_at_checked(24)?;
        let plain = self.shared(relay).decrypt(nonce.into(), sealed).ok()?;
        String::from_utf8(plain).ok()
    }

    fn shared(&self, relay: &Public) -> SalsaBox {
        SalsaBox::new(&PublicKey::from(*relay), &self.secret)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.public))
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

pub fn unhex32(text: &str) -> [u8; 32] {
    unhex(text).try_into().unwrap()
}
