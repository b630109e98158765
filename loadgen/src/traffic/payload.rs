//! The data of a packet: number, time, a check of both, and a stretch of a fixed pattern.
//!
//! ```text
//! 0        8        16       24
//! | seq    | time   | check  | pattern, from an offset given by pair and seq ...
//! ```
//! Sender and receiver hold the same pattern, so sealing a packet is one copy and checking it one
//! comparison of memory. The offset moves with pair and number: a packet with the bytes of another
//! is found out, and so is one that was shifted.

use super::{Violation, hex};
use crate::derp::frame::MAX_DATA;

/// Number, time and check.
pub const HEAD_LEN: usize = 24;
/// Shortest data of a packet.
pub const MIN_LEN: usize = HEAD_LEN;
/// Distinct stretches of the pattern.
const OFFSETS: u64 = 4096;

/// The pattern, made once per run.
pub struct Pattern {
    bytes: Box<[u8]>,
    len: usize,
}

/// What a sound packet carried.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stamp {
    pub seq: u64,
    pub time: u64,
}

impl Pattern {
    /// For packets of `len` bytes of data.
    pub fn new(len: usize) -> Self {
        assert!((MIN_LEN..=MAX_DATA).contains(&len), "the plan has checked the size");
        let mut state = 0;
        let bytes = std::iter::repeat_with(|| {
            state = mix(state);
            state as u8
        });
        Self { bytes: bytes.take(len + OFFSETS as usize).collect(), len }
    }

    pub fn data_len(&self) -> usize {
        self.len
    }

    pub fn head(&self, pair: usize, stamp: Stamp) -> [u8; HEAD_LEN] {
        let mut head = [0; HEAD_LEN];
        head[..8].copy_from_slice(&stamp.seq.to_be_bytes());
        head[8..16].copy_from_slice(&stamp.time.to_be_bytes());
        head[16..].copy_from_slice(&check(pair, stamp).to_be_bytes());
        head
    }

    /// What follows the head.
    pub fn body(&self, pair: usize, seq: u64) -> &[u8] {
        let at = ((pair as u64).wrapping_mul(769).wrapping_add(seq.wrapping_mul(31)) % OFFSETS) as usize;
        &self.bytes[at..at + self.len - HEAD_LEN]
    }

    pub fn verify(&self, pair: usize, data: &[u8]) -> Result<Stamp, Violation> {
        let (head, body) = data
            .split_first_chunk::<HEAD_LEN>()
            .filter(|_| data.len() == self.len)
            .ok_or(Violation::WrongLength { found: data.len(), expected: self.len })?;
        let word = |at: usize| {
            let bytes: &[u8; 8] = head[at..].first_chunk().expect("three words");
            u64::from_be_bytes(*bytes)
        };
        let stamp = Stamp { seq: word(0), time: word(8) };
        if word(16) != check(pair, stamp) {
            return Err(Violation::WrongHeader { found: hex(head) });
        }
        let expected = self.body(pair, stamp.seq);
        if body != expected {
            return Err(wrong_byte(stamp.seq, body, expected));
        }
        Ok(stamp)
    }
}

#[cold]
fn wrong_byte(seq: u64, body: &[u8], expected: &[u8]) -> Violation {
    let mut bytes = body.iter().zip(expected).enumerate();
    let (at, (&found, &expected)) =
        bytes.find(|(_, (found, expected))| found != expected).expect("called because they differ");
    Violation::WrongByte { seq, at: HEAD_LEN + at, found, expected }
}

fn check(pair: usize, stamp: Stamp) -> u64 {
    mix(mix(stamp.seq ^ ((pair as u64) << 40)) ^ stamp.time)
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

    fn packet(pattern: &Pattern, pair: usize, stamp: Stamp) -> Vec<u8> {
        [&pattern.head(pair, stamp)[..], pattern.body(pair, stamp.seq)].concat()
    }

    #[test]
    fn every_single_changed_byte_is_found() {
        let pattern = Pattern::new(200);
        let stamp = Stamp { seq: 7, time: 123_456 };
        let good = packet(&pattern, 3, stamp);
        assert_eq!(pattern.verify(3, &good), Ok(stamp));
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            match pattern.verify(3, &bad).unwrap_err() {
                Violation::WrongHeader { .. } => assert!(at < HEAD_LEN),
                Violation::WrongByte { seq, at: found, .. } => assert_eq!((seq, found), (7, at)),
                other => panic!("byte {at}: {other}"),
            }
        }
    }

    #[test]
    fn packets_of_another_pair_or_length_are_found() {
        let pattern = Pattern::new(64);
        let good = packet(&pattern, 0, Stamp { seq: 0, time: 0 });
        assert!(pattern.verify(1, &good).is_err());
        let wrong_length = Violation::WrongLength { found: 63, expected: 64 };
        assert_eq!(pattern.verify(0, &good[..63]), Err(wrong_length));
        assert!(pattern.verify(0, &[]).is_err());
    }

    #[test]
    fn smallest_and_largest_packet() {
        for len in [MIN_LEN, MAX_DATA] {
            let pattern = Pattern::new(len);
            let stamp = Stamp { seq: u64::MAX, time: u64::MAX };
            assert_eq!(pattern.verify(9, &packet(&pattern, 9, stamp)), Ok(stamp));
        }
    }
}
