//! Cuts a byte stream at frame borders. Frames are borrowed where they lie; only one that straddles two inputs is
//! put together, once.

use super::frame::{HEADER_LEN, kind};
use super::key::NodeKey;
use crate::limits::MAX_PACKET;

/// What a header announces, judged before a byte of the payload is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Wait for the whole frame, then act on it.
    Keep,
    /// A frame that means nothing here: its payload is discarded as it comes, whatever its length.
    Skip,
    /// A frame that ends the connection.
    Forbidden,
}

/// Judges a frame by its header. `mesh`: the sender has mesh rights. The bounds are the protocol's: a stranger makes
/// us hold at most one packet.
#[inline]
pub fn judge(kind: u8, len: u32, mesh: bool) -> Verdict {
    const KEY: u32 = NodeKey::LEN as u32;
    const PACKET: u32 = MAX_PACKET as u32;
    const PING_MAX: u32 = 1000;
    let keep = match kind {
        kind::SEND_PACKET => (KEY..=KEY + PACKET).contains(&len),
        kind::PING => (8..=PING_MAX).contains(&len),
        kind::NOTE_PREFERRED => len == 1,
        kind::FORWARD_PACKET => mesh && (2 * KEY..=2 * KEY + PACKET).contains(&len),
        kind::WATCH_CONNS => mesh && len == 0,
        kind::CLOSE_PEER => mesh && len == KEY,
        _ => return Verdict::Skip,
    };
    if keep { Verdict::Keep } else { Verdict::Forbidden }
}

/// The part of a stream that [`Deframer::next`] has not handed out.
#[derive(Default, Debug)]
pub struct Deframer {
    /// Beginning of a frame whose end has not come.
    partial: Vec<u8>,
    /// Payload bytes still to discard.
    skip: u32,
}

/// One step of cutting.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// A whole frame, header included, at this range of the input.
    Frame { start: usize, end: usize },
    /// A whole frame, in the buffer that [`Deframer::take_stitched`] gives.
    Stitched { used: usize },
    /// A frame that is discarded began here; counted once each.
    Skipped { used: usize },
    /// All input is used up.
    Need,
    /// The connection must end.
    Forbidden { kind: u8 },
}

impl Deframer {
    /// Looks at `input`, of which the first `at` bytes are used up.
    #[inline]
    pub fn next(&mut self, input: &[u8], at: usize, mesh: bool) -> Step {
        if self.skip == 0 && self.partial.is_empty() {
            let rest = &input[at..];
            if let Some(&[kind, a, b, c, d]) = rest.first_chunk::<HEADER_LEN>() {
                let len = u32::from_be_bytes([a, b, c, d]);
                match judge(kind, len, mesh) {
                    Verdict::Keep => {
                        let end = HEADER_LEN + len as usize;
                        if rest.len() >= end {
                            return Step::Frame { start: at, end: at + end };
                        }
                    }
                    Verdict::Skip => {
                        self.skip = len;
                        return Step::Skipped { used: at + HEADER_LEN };
                    }
                    Verdict::Forbidden => return Step::Forbidden { kind },
                }
            }
        }
        self.next_slow(input, at, mesh)
    }

    fn next_slow(&mut self, input: &[u8], mut at: usize, mesh: bool) -> Step {
        if self.skip > 0 {
            let n = (self.skip as usize).min(input.len() - at);
            self.skip -= n as u32;
            at += n;
            if at == input.len() {
                return Step::Need;
            }
            return self.next(input, at, mesh);
        }
        if self.partial.len() < HEADER_LEN {
            let n = (HEADER_LEN - self.partial.len()).min(input.len() - at);
            self.partial.extend_from_slice(&input[at..at + n]);
            at += n;
            if self.partial.len() < HEADER_LEN {
                return Step::Need;
            }
        }
        let Some(&[kind, a, b, c, d]) = self.partial.first_chunk::<HEADER_LEN>() else {
            return Step::Need;
        };
        let len = u32::from_be_bytes([a, b, c, d]);
        match judge(kind, len, mesh) {
            Verdict::Keep => {}
            Verdict::Skip => {
                self.partial.clear();
                self.skip = len;
                return Step::Skipped { used: at };
            }
            Verdict::Forbidden => return Step::Forbidden { kind },
        }
        let missing = HEADER_LEN + len as usize - self.partial.len();
        let n = missing.min(input.len() - at);
        self.partial.extend_from_slice(&input[at..at + n]);
        if n < missing { Step::Need } else { Step::Stitched { used: at + n } }
    }

    /// The frame that [`Step::Stitched`] announced. Give the buffer back with [`Self::reuse`] or keep it.
    pub fn take_stitched(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.partial)
    }

    /// Takes an empty buffer for the next straddling frame.
    pub fn reuse(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.partial = buffer;
    }

    /// The beginning of a frame whose end has not come. Nothing if it is longer than most packets: to move it with
    /// every receive would cost more than to put the frame together.
    #[inline]
    pub fn begun(&self) -> &[u8] {
        const SHORT: usize = 2048;
        if self.skip == 0 && self.partial.len() <= SHORT { &self.partial } else { &[] }
    }

    /// What [`Self::begun`] gave comes again, in front of the next input.
    #[inline]
    pub fn forget_begun(&mut self) {
        self.partial.clear();
    }

    /// Whether a buffer is held that no frame is in: an idle session gives it away.
    pub fn spare(&mut self) -> Option<Vec<u8>> {
        (self.partial.is_empty() && self.partial.capacity() > 0).then(|| std::mem::take(&mut self.partial))
    }

    /// Whether a buffer is missing for what comes next.
    pub fn wants_buffer(&self) -> bool {
        self.partial.capacity() == 0
    }

    /// Bytes of an unfinished frame.
    pub fn held(&self) -> usize {
        self.partial.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All frames that come out of `stream` when it is given in pieces of `step` bytes.
    fn cut(stream: &[u8], step: usize) -> (Vec<Vec<u8>>, usize) {
        let mut deframer = Deframer::default();
        let (mut frames, mut skipped) = (Vec::new(), 0);
        for input in stream.chunks(step) {
            let mut at = 0;
            loop {
                match deframer.next(input, at, false) {
                    Step::Frame { start, end } => {
                        frames.push(input[start..end].to_vec());
                        at = end;
                    }
                    Step::Stitched { used } => {
                        let frame = deframer.take_stitched();
                        frames.push(frame.clone());
                        deframer.reuse(frame);
                        at = used;
                    }
                    Step::Skipped { used } => {
                        skipped += 1;
                        at = used;
                    }
                    Step::Need => break,
                    Step::Forbidden { kind } => panic!("forbidden {kind}"),
                }
            }
        }
        (frames, skipped)
    }

    #[test]
    fn cuts_the_same_frames_whatever_the_pieces() {
        let mut stream = Vec::new();
        let mut expected = Vec::new();
        for len in [32_u32, 33, 100, 1432, 32 + 65536] {
            let mut frame = vec![0x04];
            frame.extend_from_slice(&len.to_be_bytes());
            frame.extend((0..len).map(|i| i as u8));
            stream.extend_from_slice(&frame);
            expected.push(frame);
            // An unknown frame and an empty unknown frame in between.
            stream.extend_from_slice(&[0x77, 0, 0, 0, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
            stream.extend_from_slice(&[0x13, 0, 0, 0, 0]);
        }
        for step in [1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1000, 16384, stream.len()] {
            assert_eq!(cut(&stream, step), (expected.clone(), 10), "in pieces of {step}");
        }
    }

    #[test]
    fn lengths_are_judged_before_the_payload_comes() {
        assert_eq!(judge(0x04, 31, false), Verdict::Forbidden);
        assert_eq!(judge(0x04, 32 + 65537, false), Verdict::Forbidden);
        assert_eq!(judge(0x04, u32::MAX, false), Verdict::Forbidden);
        assert_eq!(judge(0x12, 7, false), Verdict::Forbidden);
        assert_eq!(judge(0x12, 1001, false), Verdict::Forbidden);
        assert_eq!(judge(0x10, 0, false), Verdict::Forbidden);
        assert_eq!(judge(0x10, 0, true), Verdict::Keep);
        assert_eq!(judge(0x0a, 64, true), Verdict::Keep);
        assert_eq!(judge(0x0a, 63, true), Verdict::Forbidden);
        assert_eq!(judge(0x42, u32::MAX, false), Verdict::Skip);
    }
}
