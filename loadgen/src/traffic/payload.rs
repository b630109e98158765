//! The data of a packet: link and number, time, a check of both, and a stretch of a fixed pattern.
//!
//! ```text
//! 0             8        16       24
//! | link | seq  | time   | check  | pattern, from an offset given by link and seq ...
//! ```
//! Sender and receiver hold the same pattern, so sealing a packet is one copy and checking it one
//! comparison of memory. The offset moves with link and number: a packet with the bytes of another
//! is found out, and so is one that was shifted. A packet that a relay must take for disco has
//! disco's six first bytes ahead of all this.

use super::sizes::Sizes;
use super::{Violation, hex};
use crate::derp::frame::{HEADER_LEN, KEY_LEN, MAX_DATA, header, kind};

/// Link, number, time and check.
pub const HEAD_LEN: usize = 24;
/// Shortest data of a packet.
pub const MIN_LEN: usize = HEAD_LEN;
/// What a relay knows disco by.
pub const DISCO_MAGIC: [u8; 6] = [0x54, 0x53, 0xf0, 0x9f, 0x92, 0xac];
/// Data of a disco ping as clients send it: magic, key, nonce, box.
pub const DISCO_LEN: usize = 124;
/// Distinct stretches of the pattern.
const OFFSETS: u64 = 4096;
/// Bits of a packet's number within its link.
const SEQ_BITS: u32 = 40;
/// Links beyond this could be numbered like the first bytes of disco.
pub const MAX_LINKS: usize = 1 << 22;

/// What goes ahead of the pattern in one SendPacket.
const FRAME_HEAD: usize = HEADER_LEN + KEY_LEN + DISCO_MAGIC.len() + HEAD_LEN;

/// The pattern, made once per run.
pub struct Pattern {
    bytes: Box<[u8]>,
    sizes: Sizes,
    /// Tells the packets of this run from those of any other.
    nonce: u64,
}

/// What a packet says about itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stamp {
    pub link: u32,
    pub seq: u64,
    pub time: u64,
}

/// Header, destination and head of a frame on the stack, so that a packet is put in two pieces.
pub struct FrameHead {
    bytes: [u8; FRAME_HEAD],
    len: usize,
}

impl FrameHead {
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

impl Pattern {
    pub fn new(sizes: Sizes, nonce: u64) -> Self {
        let longest = sizes.longest().max(DISCO_LEN);
        assert!(sizes.shortest() >= MIN_LEN && longest <= MAX_DATA, "the plan has checked the sizes");
        let mut state = nonce;
        let bytes = std::iter::repeat_with(|| {
            state = mix(state);
            state as u8
        });
        Self { bytes: bytes.take(longest + OFFSETS as usize).collect(), sizes, nonce }
    }

    /// The frame that carries a packet, in two pieces.
    pub fn frame(&self, destination: &[u8; KEY_LEN], disco: bool, stamp: Stamp) -> (FrameHead, &[u8]) {
        let body = self.body(disco, stamp);
        let mut head = FrameHead { bytes: [0; FRAME_HEAD], len: 0 };
        let data_len = self.data_len(disco, stamp);
        head.push(&header(kind::SEND_PACKET, KEY_LEN + data_len));
        head.push(destination);
        if disco {
            head.push(&DISCO_MAGIC);
        }
        head.push(&stamp.word().to_be_bytes());
        head.push(&stamp.time.to_be_bytes());
        head.push(&self.check(stamp).to_be_bytes());
        (head, body)
    }

    /// Whose packet this is, if it is one of ours and every byte is right.
    pub fn verify(&self, data: &[u8]) -> Result<(Stamp, bool), Violation> {
        let (disco, rest) = match data.strip_prefix(&DISCO_MAGIC) {
            Some(rest) => (true, rest),
            None => (false, data),
        };
        let (head, body) =
            rest.split_first_chunk::<HEAD_LEN>().ok_or(Violation::TooShort { found: data.len(), least: MIN_LEN })?;
        let word = |at: usize| {
            let bytes: &[u8; 8] = head[at..].first_chunk().expect("three words");
            u64::from_be_bytes(*bytes)
        };
        let stamp = Stamp::new(word(0), word(8));
        if word(16) != self.check(stamp) {
            return Err(Violation::WrongHeader { found: hex(head) });
        }
        let expected = self.data_len(disco, stamp);
        if data.len() != expected {
            return Err(Violation::WrongLength { found: data.len(), expected });
        }
        let expected = self.body(disco, stamp);
        if body != expected {
            return Err(wrong_byte(stamp.seq, data.len() - body.len(), body, expected));
        }
        Ok((stamp, disco))
    }

    pub fn data_len(&self, disco: bool, stamp: Stamp) -> usize {
        if disco { DISCO_LEN } else { self.sizes.of(mix(stamp.word())) }
    }

    /// What follows the head.
    fn body(&self, disco: bool, stamp: Stamp) -> &[u8] {
        let at = u64::from(stamp.link).wrapping_mul(769).wrapping_add(stamp.seq.wrapping_mul(31)) % OFFSETS;
        let ahead = HEAD_LEN + if disco { DISCO_MAGIC.len() } else { 0 };
        &self.bytes[at as usize..][..self.data_len(disco, stamp) - ahead]
    }

    fn check(&self, stamp: Stamp) -> u64 {
        mix(mix(stamp.word() ^ self.nonce) ^ stamp.time)
    }
}

impl Stamp {
    fn new(word: u64, time: u64) -> Self {
        Self { link: (word >> SEQ_BITS) as u32, seq: word & ((1 << SEQ_BITS) - 1), time }
    }

    fn word(&self) -> u64 {
        u64::from(self.link) << SEQ_BITS | self.seq
    }
}

#[cold]
fn wrong_byte(seq: u64, ahead: usize, body: &[u8], expected: &[u8]) -> Violation {
    let mut bytes = body.iter().zip(expected).enumerate();
    let (at, (&found, &expected)) =
        bytes.find(|(_, (found, expected))| found != expected).expect("called because they differ");
    Violation::WrongByte { seq, at: ahead + at, found, expected }
}

/// splitmix64
fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(pattern: &Pattern, disco: bool, stamp: Stamp) -> Vec<u8> {
        let (head, body) = pattern.frame(&[9; KEY_LEN], disco, stamp);
        let frame = [head.as_bytes(), body].concat();
        let data = frame[HEADER_LEN + KEY_LEN..].to_vec();
        assert_eq!(frame[..HEADER_LEN], header(kind::SEND_PACKET, KEY_LEN + data.len()));
        data
    }

    #[test]
    fn every_single_changed_byte_is_found() {
        let pattern = Pattern::new(Sizes::fixed(200), 7);
        for disco in [false, true] {
            let stamp = Stamp { link: 3, seq: 7, time: 123_456 };
            let good = packet(&pattern, disco, stamp);
            let ahead = good.len() - pattern.body(disco, stamp).len();
            assert_eq!(pattern.verify(&good), Ok((stamp, disco)));
            for at in 0..good.len() {
                let mut bad = good.clone();
                bad[at] ^= 0x40;
                match pattern.verify(&bad).unwrap_err() {
                    Violation::WrongHeader { .. } => assert!(at < ahead),
                    Violation::WrongByte { seq, at: found, .. } => assert_eq!((seq, found), (7, at)),
                    other => panic!("byte {at}: {other}"),
                }
            }
        }
    }

    #[test]
    fn packets_of_another_run_or_length_are_found() {
        let pattern = Pattern::new(Sizes::fixed(64), 1);
        let good = packet(&pattern, false, Stamp { link: 0, seq: 0, time: 0 });
        let other = Pattern::new(Sizes::fixed(64), 2);
        assert!(matches!(other.verify(&good), Err(Violation::WrongHeader { .. })));
        assert_eq!(pattern.verify(&good[..63]), Err(Violation::WrongLength { found: 63, expected: 64 }));
        assert_eq!(pattern.verify(&[]), Err(Violation::TooShort { found: 0, least: 24 }));
    }

    #[test]
    fn smallest_and_largest_packet_and_number() {
        for len in [MIN_LEN, MAX_DATA] {
            let pattern = Pattern::new(Sizes::fixed(len), 5);
            let stamp = Stamp { link: MAX_LINKS as u32 - 1, seq: (1 << SEQ_BITS) - 1, time: u64::MAX };
            let good = packet(&pattern, false, stamp);
            assert_eq!(good.len(), len);
            assert_eq!(pattern.verify(&good), Ok((stamp, false)));
        }
    }

    #[test]
    fn a_mix_is_known_at_both_ends() {
        let sizes: Sizes = "imix".parse().unwrap();
        let pattern = Pattern::new(sizes.clone(), 5);
        let mut seen = std::collections::BTreeMap::new();
        for seq in 0..16_000 {
            let stamp = Stamp { link: 1, seq, time: 0 };
            let data = packet(&pattern, false, stamp);
            assert_eq!(pattern.verify(&data), Ok((stamp, false)));
            *seen.entry(data.len()).or_insert(0) += 1;
        }
        for (len, weight) in [(96, 8), (148, 1), (580, 3), (1400, 4)] {
            let found: i32 = seen[&len];
            assert!((found - 1000 * weight).abs() < 300, "{found} packets of {len} bytes");
        }
    }
}
