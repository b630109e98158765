//! Frame types and the frames that the relay itself writes.

use super::key::NodeKey;

/// Type byte and big-endian payload length.
pub const HEADER_LEN: usize = 5;

/// Magic that opens ServerKey: `DERP` and U+1F511.
pub const MAGIC: [u8; 8] = *b"DERP\xf0\x9f\x94\x91";

/// Frame type bytes.
pub mod kind {
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
}

/// Header of a frame with `len` payload bytes.
#[inline]
pub const fn header(kind: u8, len: u32) -> [u8; HEADER_LEN] {
    let l = len.to_be_bytes();
    [kind, l[0], l[1], l[2], l[3]]
}

/// Bytes of a packet frame before its payload: header and one key.
pub const PACKET_HEAD: usize = HEADER_LEN + NodeKey::LEN;

/// Why a peer is reported as gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum GoneReason {
    /// It was here and has left.
    Disconnected = 0,
    /// Nothing is known of it.
    NotHere = 1,
}

/// Turns a whole SendPacket frame into the RecvPacket frame of the same length: the source's key over the
/// destination's, and the type byte.
#[inline]
pub fn relabel(frame: &mut [u8], source: &NodeKey) {
    frame[0] = kind::RECV_PACKET;
    frame[HEADER_LEN..PACKET_HEAD].copy_from_slice(&source.0);
}

/// Whether `payload` is a disco message: magic, sender key and nonce are there.
#[inline]
pub fn is_disco(payload: &[u8]) -> bool {
    const MAGIC: &[u8; 6] = b"TS\xf0\x9f\x92\xac";
    const LEN_MIN: usize = 6 + 32 + 24;
    payload.len() >= LEN_MIN && payload.starts_with(MAGIC)
}

pub fn peer_gone(peer: &NodeKey, reason: GoneReason) -> [u8; PACKET_HEAD + 1] {
    let mut frame = [0; PACKET_HEAD + 1];
    frame[..HEADER_LEN].copy_from_slice(&header(kind::PEER_GONE, 33));
    frame[HEADER_LEN..PACKET_HEAD].copy_from_slice(&peer.0);
    frame[PACKET_HEAD] = reason as u8;
    frame
}

/// Flags of PeerPresent.
pub mod present {
    pub const REGULAR: u8 = 1;
    pub const MESH: u8 = 2;
    pub const PROBER: u8 = 4;
    pub const NOT_IDEAL: u8 = 8;
}

pub const PEER_PRESENT_LEN: usize = 56;

/// `ip`: IPv4 as v4-mapped IPv6, zeros when unknown.
pub fn peer_present(peer: &NodeKey, ip: [u8; 16], port: u16, flags: u8) -> [u8; PEER_PRESENT_LEN] {
    let mut frame = [0; PEER_PRESENT_LEN];
    frame[..5].copy_from_slice(&header(kind::PEER_PRESENT, 51));
    frame[5..37].copy_from_slice(&peer.0);
    frame[37..53].copy_from_slice(&ip);
    frame[53..55].copy_from_slice(&port.to_be_bytes());
    frame[55] = flags;
    frame
}

pub fn pong(data: [u8; 8]) -> [u8; 13] {
    let mut frame = [0; 13];
    frame[..5].copy_from_slice(&header(kind::PONG, 8));
    frame[5..].copy_from_slice(&data);
    frame
}

pub const KEEP_ALIVE: [u8; HEADER_LEN] = header(kind::KEEP_ALIVE, 0);

/// Reconnect after `reconnect_in_ms`, and go on trying for `try_for_ms`.
pub fn restarting(reconnect_in_ms: u32, try_for_ms: u32) -> [u8; 13] {
    let mut frame = [0; 13];
    frame[..5].copy_from_slice(&header(kind::RESTARTING, 8));
    frame[5..9].copy_from_slice(&reconnect_in_ms.to_be_bytes());
    frame[9..].copy_from_slice(&try_for_ms.to_be_bytes());
    frame
}

/// `text` is UTF-8; empty means healthy again.
pub fn health(text: &str) -> Vec<u8> {
    let mut frame = header(kind::HEALTH, text.len() as u32).to_vec();
    frame.extend_from_slice(text.as_bytes());
    frame
}
