//! STUN without I/O: one datagram in, the answer out.
//!
//! Answered are binding requests and nothing else, by what they say and by where they came from. Whatever comes, the
//! answer is at most [`GROWTH_MAX`] bytes longer than the question: who forges a sender's address gains nothing.

use std::net::{IpAddr, SocketAddr};

use crate::limits::STUN_ANSWER_MAX;

/// An answer may be longer than its question by this: an empty request (20 bytes), asked over IPv6 (44 bytes).
pub const GROWTH_MAX: usize = 24;

/// Whose requests are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clients {
    /// Requests of the form that Tailscale's clients send, as derper does.
    Tailscale,
    /// Those, and every binding request of RFC 5389 and RFC 8489.
    Any,
}

/// What the answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Where the request came from.
    Mapped,
    /// Error 420: the request asks for what this server does not know, and which that is.
    Refused,
}

/// Writes the answer into `out`; `None`: there is none, because this is no request, or not of those clients.
///
/// With [`Clients::Any`] whatever [`Clients::Tailscale`] answers has the same answer, byte for byte.
pub fn answer(
    datagram: &[u8],
    from: SocketAddr,
    clients: Clients,
    out: &mut [u8; STUN_ANSWER_MAX],
) -> Option<(usize, Outcome)> {
    let question = Question::read(datagram)?;
    let sealed = question.last_is_fingerprint && is_sealed(datagram);
    if sealed && question.tailnode {
        let mut answer = Answer::begin(out, SUCCESS, question.id);
        answer.mapped_address(from);
        return Some((answer.end(false), Outcome::Mapped));
    }
    if clients == Clients::Tailscale || !question.is_of_the_rfc(datagram.len()) {
        return None;
    }
    if question.fingerprint && !sealed {
        return None;
    }
    let unknown = question.unknown();
    if unknown.is_empty() {
        let mut answer = Answer::begin(out, SUCCESS, question.id);
        answer.mapped_address(from);
        Some((answer.end(sealed), Outcome::Mapped))
    } else {
        let mut answer = Answer::begin(out, ERROR, question.id);
        answer.unknown_attributes(unknown);
        Some((answer.end(sealed), Outcome::Refused))
    }
}

const HEADER: usize = 20;
const REQUEST: [u8; 2] = [0x00, 0x01];
const SUCCESS: [u8; 2] = [0x01, 0x01];
const ERROR: [u8; 2] = [0x01, 0x11];
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

const MAPPED_ADDRESS: u16 = 0x0001;
const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const ERROR_CODE: u16 = 0x0009;
const UNKNOWN_ATTRIBUTES: u16 = 0x000a;
const REALM: u16 = 0x0014;
const NONCE: u16 = 0x0015;
const MESSAGE_INTEGRITY_SHA256: u16 = 0x001c;
const PASSWORD_ALGORITHM: u16 = 0x001d;
const USERHASH: u16 = 0x001e;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const SOFTWARE: u16 = 0x8022;
const FINGERPRINT: u16 = 0x8028;
/// From here on up a server may ignore what it does not know.
const OPTIONAL: u16 = 0x8000;

/// How Tailscale's clients say who they are.
const TAILNODE: &[u8] = b"tailnode";

/// Its attribute, head included.
const FINGERPRINT_LEN: usize = 8;
const FINGERPRINT_XOR: u32 = 0x5354_554e;

/// Attributes that one refusal names: nobody asks for more than a few.
const UNKNOWN_MAX: usize = 16;

/// A request with the right head, whose attributes end where it does.
struct Question<'a> {
    id: &'a [u8; 12],
    /// What the header says about what follows it. Tailscale's form does not depend on it.
    stated: usize,
    tailnode: bool,
    fingerprint: bool,
    last_is_fingerprint: bool,
    /// There was a FINGERPRINT with something behind it.
    fingerprint_within: bool,
    /// Attributes that must be understood, and are not; the first of them.
    unknown: [u16; UNKNOWN_MAX],
    unknown_count: usize,
}

impl<'a> Question<'a> {
    fn read(datagram: &'a [u8]) -> Option<Self> {
        let header: &[u8; HEADER] = datagram.first_chunk()?;
        if header[..2] != REQUEST || header[4..8] != COOKIE {
            return None;
        }
        let mut question = Self {
            id: header.last_chunk()?,
            stated: usize::from(u16::from_be_bytes([header[2], header[3]])),
            tailnode: false,
            fingerprint: false,
            last_is_fingerprint: false,
            fingerprint_within: false,
            unknown: [0; UNKNOWN_MAX],
            unknown_count: 0,
        };
        let mut rest = &datagram[HEADER..];
        let mut signed = false;
        while !rest.is_empty() {
            let (kind, value, behind) = attribute(rest)?;
            question.note(kind, value, signed, behind.is_empty());
            signed |= matches!(kind, MESSAGE_INTEGRITY | MESSAGE_INTEGRITY_SHA256);
            rest = behind;
        }
        Some(question)
    }

    fn note(&mut self, kind: u16, value: &[u8], signed: bool, last: bool) {
        match kind {
            SOFTWARE => self.tailnode |= value == TAILNODE,
            FINGERPRINT => {
                self.fingerprint = true;
                self.last_is_fingerprint = last && value.len() == 4;
                self.fingerprint_within |= !last;
            }
            // What is behind a signature is not signed: it counts for nothing.
            _ if signed || kind >= OPTIONAL || is_known(kind) => {}
            _ if self.unknown_count < UNKNOWN_MAX => {
                self.unknown[self.unknown_count] = kind;
                self.unknown_count += 1;
            }
            _ => {}
        }
    }

    fn is_of_the_rfc(&self, datagram: usize) -> bool {
        self.stated == datagram - HEADER && !self.fingerprint_within
    }

    fn unknown(&self) -> &[u16] {
        &self.unknown[..self.unknown_count]
    }
}

/// Attributes that RFC 8489 knows, none of which changes the answer: a basic STUN server must not use credentials, and
/// ignores what belongs into answers. What moves the answer elsewhere (CHANGE-REQUEST, RESPONSE-ADDRESS, RESPONSE-PORT)
/// or swells it (PADDING) is not among them.
fn is_known(kind: u16) -> bool {
    matches!(
        kind,
        MAPPED_ADDRESS
            | USERNAME
            | MESSAGE_INTEGRITY
            | MESSAGE_INTEGRITY_SHA256
            | ERROR_CODE
            | UNKNOWN_ATTRIBUTES
            | REALM
            | NONCE
            | PASSWORD_ALGORITHM
            | USERHASH
            | XOR_MAPPED_ADDRESS
    )
}

/// Type and value of the first attribute, and what is behind its padding.
fn attribute(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
    let (padded, behind) = rest.split_at_checked(len.next_multiple_of(4))?;
    Some((u16::from_be_bytes([head[0], head[1]]), &padded[..len], behind))
}

/// Whether the FINGERPRINT at the end is that of what is before it.
fn is_sealed(datagram: &[u8]) -> bool {
    let Some((body, value)) = datagram.split_last_chunk::<4>() else { return false };
    let Some(body) = body.len().checked_sub(FINGERPRINT_LEN - 4).map(|len| &body[..len]) else { return false };
    fingerprint(body) == u32::from_be_bytes(*value)
}

/// An answer that is being written. Its room is for the longest of all.
struct Answer<'a> {
    out: &'a mut [u8; STUN_ANSWER_MAX],
    len: usize,
}

impl<'a> Answer<'a> {
    fn begin(out: &'a mut [u8; STUN_ANSWER_MAX], kind: [u8; 2], id: &[u8; 12]) -> Self {
        let mut answer = Self { out, len: 0 };
        answer.put(&kind);
        // The length is known at the end.
        answer.put(&[0; 2]);
        answer.put(&COOKIE);
        answer.put(id);
        answer
    }

    fn put(&mut self, bytes: &[u8]) {
        self.out[self.len..][..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn put_u16(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }

    /// An IPv4 address that a socket of both families wrote in the form of IPv6 is IPv4.
    fn mapped_address(&mut self, from: SocketAddr) {
        const IPV4: u16 = 1;
        const IPV6: u16 = 2;
        let port = from.port() ^ u16::from_be_bytes([COOKIE[0], COOKIE[1]]);
        // Cookie and transaction id lie side by side in the header.
        let mut mask = [0; 16];
        mask.copy_from_slice(&self.out[4..HEADER]);
        let mut put = |family, address: &[u8]| {
            self.put_u16(XOR_MAPPED_ADDRESS);
            self.put_u16(4 + address.len() as u16);
            self.put_u16(family);
            self.put_u16(port);
            for (byte, mask) in address.iter().zip(mask) {
                self.put(&[byte ^ mask]);
            }
        };
        match from.ip().to_canonical() {
            IpAddr::V4(ip) => put(IPV4, &ip.octets()),
            IpAddr::V6(ip) => put(IPV6, &ip.octets()),
        }
    }

    /// ERROR-CODE 420 and UNKNOWN-ATTRIBUTES. The words are few, because nobody who is not understood may be sent much.
    fn unknown_attributes(&mut self, kinds: &[u16]) {
        const WORDS: &[u8] = b"Unknown";
        self.put_u16(ERROR_CODE);
        self.put_u16(4 + WORDS.len() as u16);
        self.put(&[0, 0, 4, 20]);
        self.put(WORDS);
        self.pad();
        self.put_u16(UNKNOWN_ATTRIBUTES);
        self.put_u16(2 * kinds.len() as u16);
        for kind in kinds {
            self.put_u16(*kind);
        }
        self.pad();
    }

    fn pad(&mut self) {
        self.put(&[0; 3][..self.len.next_multiple_of(4) - self.len]);
    }

    /// The whole length.
    fn end(mut self, sealed: bool) -> usize {
        let attributes = self.len - HEADER + if sealed { FINGERPRINT_LEN } else { 0 };
        self.out[2..4].copy_from_slice(&(attributes as u16).to_be_bytes());
        if sealed {
            let value = fingerprint(&self.out[..self.len]);
            self.put_u16(FINGERPRINT);
            self.put_u16(4);
            self.put(&value.to_be_bytes());
        }
        self.len
    }
}

// The longest answer names as many attributes as it may, and is sealed.
const _: () = assert!(HEADER + 16 + 4 + 2 * UNKNOWN_MAX + FINGERPRINT_LEN <= STUN_ANSWER_MAX);

fn fingerprint(bytes: &[u8]) -> u32 {
    crc32(bytes) ^ FINGERPRINT_XOR
}

/// CRC-32 of IEEE 802.3, by the byte: requests are 32 bytes long here.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = crc32_table();
    !bytes.iter().fold(!0, |crc, byte| TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8))
}

const fn crc32_table() -> [u32; 256] {
    const POLYNOMIAL: u32 = 0xedb8_8320;
    let mut table = [0; 256];
    let mut at = 0;
    while at < table.len() {
        let mut crc = at as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        table[at] = crc;
        at += 1;
    }
    table
}

#[cfg(test)]
mod tests;
