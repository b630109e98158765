//! The deframer against a model that has the whole stream at once.

use derpring::limits::MAX_PACKET;
use derpring::proto::deframe::{Deframer, Step};
use derpring::proto::frame::HEADER_LEN;

use super::Choices;

/// Longest frame that is kept: a forwarded packet.
const KEPT_MAX: usize = HEADER_LEN + 2 * 32 + MAX_PACKET;

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Frame(Vec<u8>),
    Skipped,
    Forbidden(u8),
}

/// The same frames come out whatever the places at which the stream is cut, and no more is held than one of them.
///
/// The input: mesh rights, how many cuts, the cuts, the stream.
pub fn deframe(data: &[u8]) {
    let mut choices = Choices(data);
    let mesh = choices.byte() & 1 == 1;
    let cuts = choices.byte() % 8;
    let cuts: Vec<usize> = (0..cuts).map(|_| choices.word()).collect();
    let stream = choices.0;
    let expected = model(stream, mesh);
    assert_eq!(cut(&[stream], mesh), expected, "in one piece");
    let ones: Vec<&[u8]> = stream.chunks(1).collect();
    assert_eq!(cut(&ones, mesh), expected, "byte by byte");
    let mut pieces = Vec::new();
    let mut rest = stream;
    for at in cuts {
        let (piece, behind) = rest.split_at(at.min(rest.len()));
        pieces.push(piece);
        rest = behind;
    }
    pieces.push(rest);
    assert_eq!(cut(&pieces, mesh), expected, "in pieces");
}

fn cut(pieces: &[&[u8]], mesh: bool) -> Vec<Seen> {
    let mut deframer = Deframer::default();
    let mut seen = Vec::new();
    for input in pieces {
        let mut at = 0;
        loop {
            match deframer.next(input, at, mesh) {
                Step::Frame { start, end } => {
                    seen.push(Seen::Frame(input[start..end].to_vec()));
                    at = end;
                }
                Step::Stitched { used } => {
                    let frame = deframer.take_stitched();
                    seen.push(Seen::Frame(frame.clone()));
                    deframer.reuse(frame);
                    at = used;
                }
                Step::Skipped { used } => {
                    seen.push(Seen::Skipped);
                    at = used;
                }
                Step::Need => break,
                Step::Forbidden { kind } => {
                    seen.push(Seen::Forbidden(kind));
                    return seen;
                }
            }
        }
        assert!(deframer.held() < KEPT_MAX, "more than a frame is held");
    }
    seen
}

fn model(mut stream: &[u8], mesh: bool) -> Vec<Seen> {
    let mut seen = Vec::new();
    while let Some((&[kind, a, b, c, d], rest)) = stream.split_first_chunk::<HEADER_LEN>() {
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        let bounds = match kind {
            0x04 => 32..=32 + 65536,
            0x07 => 1..=1,
            0x0a => 64..=64 + 65536,
            0x10 => 0..=0,
            0x11 => 32..=32,
            0x12 => 8..=1000,
            _ => {
                seen.push(Seen::Skipped);
                stream = rest.get(len..).unwrap_or_default();
                continue;
            }
        };
        if !bounds.contains(&len) || (matches!(kind, 0x0a | 0x10 | 0x11) && !mesh) {
            seen.push(Seen::Forbidden(kind));
            return seen;
        }
        let Some(behind) = rest.get(len..) else { break };
        seen.push(Seen::Frame(stream[..HEADER_LEN + len].to_vec()));
        stream = behind;
    }
    seen
}
