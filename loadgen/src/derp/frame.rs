//! Frames: five bytes of header (type, payload length), then the payload.

pub const MAGIC: [u8; 8] = *b"DERP\xf0\x9f\x94\x91";
pub const HEADER_LEN: usize = 5;
pub const KEY_LEN: usize = 32;
/// Largest data of one packet.
pub const MAX_DATA: usize = 65536;
/// Largest payload a client takes; a longer one means that the stream is out of step.
pub const MAX_PAYLOAD: usize = 1 << 20;

pub mod kind {
    pub const SERVER_KEY: u8 = 0x01;
    pub const CLIENT_INFO: u8 = 0x02;
    pub const SERVER_INFO: u8 = 0x03;
    pub const SEND_PACKET: u8 = 0x04;
    pub const RECV_PACKET: u8 = 0x05;
    pub const KEEP_ALIVE: u8 = 0x06;
    pub const PEER_GONE: u8 = 0x08;
    pub const PING: u8 = 0x12;
    pub const PONG: u8 = 0x13;
    pub const HEALTH: u8 = 0x14;
    pub const RESTARTING: u8 = 0x15;
}

pub fn header(kind: u8, payload_len: usize) -> [u8; HEADER_LEN] {
    // Payloads are built here and far below 4 GiB.
    let [a, b, c, d] = (payload_len as u32).to_be_bytes();
    [kind, a, b, c, d]
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the relay announced a frame of type {kind:#04x} with {len} bytes, more than a client takes (1 MiB)")]
pub struct FrameTooLong {
    pub kind: u8,
    pub len: usize,
}

/// Cuts a byte stream at frame borders.
///
/// A frame that lies whole in one chunk is lent from it; only a frame cut by the end of a chunk is
/// copied. A deframer that holds no part of a frame holds no memory until the first cut.
#[derive(Debug, Default)]
pub struct Deframer {
    partial: Vec<u8>,
}

impl Deframer {
    /// Calls `on_frame(type, payload)` for every frame that `chunk` completes. After an error the
    /// deframer is of no further use.
    pub fn feed<E: From<FrameTooLong>>(
        &mut self,
        mut chunk: &[u8],
        mut on_frame: impl FnMut(u8, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        if !self.partial.is_empty() {
            self.take(&mut chunk, HEADER_LEN);
            let Some(total) = frame_len(&self.partial)? else {
                return Ok(());
            };
            self.take(&mut chunk, total);
            if self.partial.len() < total {
                return Ok(());
            }
            on_frame(self.partial[0], &self.partial[HEADER_LEN..])?;
            self.partial.clear();
        }
        while let Some(total) = frame_len(chunk)? {
            let Some((frame, rest)) = chunk.split_at_checked(total) else {
                break;
            };
            on_frame(frame[0], &frame[HEADER_LEN..])?;
            chunk = rest;
        }
        self.partial.extend_from_slice(chunk);
        Ok(())
    }

    fn take(&mut self, chunk: &mut &[u8], until: usize) {
        let missing = until.saturating_sub(self.partial.len()).min(chunk.len());
        let (head, rest) = chunk.split_at(missing);
        self.partial.extend_from_slice(head);
        *chunk = rest;
    }
}

/// Header and payload length of the frame at the start of `bytes`, if its header is there.
fn frame_len(bytes: &[u8]) -> Result<Option<usize>, FrameTooLong> {
    let Some(&[kind, a, b, c, d]) = bytes.first_chunk() else {
        return Ok(None);
    };
    let len = u32::from_be_bytes([a, b, c, d]) as usize;
    if len > MAX_PAYLOAD {
        return Err(FrameTooLong { kind, len });
    }
    Ok(Some(HEADER_LEN + len))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> (Vec<u8>, Vec<(u8, Vec<u8>)>) {
        let frames = vec![
            (kind::KEEP_ALIVE, vec![]),
            (kind::RECV_PACKET, (0..40).collect()),
            (kind::PING, vec![7; 8]),
            (kind::KEEP_ALIVE, vec![]),
        ];
        let mut bytes = Vec::new();
        for (kind, payload) in &frames {
            bytes.extend_from_slice(&header(*kind, payload.len()));
            bytes.extend_from_slice(payload);
        }
        (bytes, frames)
    }

    fn collect(chunks: &[&[u8]]) -> Vec<(u8, Vec<u8>)> {
        let mut deframer = Deframer::default();
        let mut seen = Vec::new();
        for chunk in chunks {
            deframer
                .feed::<FrameTooLong>(chunk, |kind, payload| {
                    seen.push((kind, payload.to_vec()));
                    Ok(())
                })
                .unwrap();
        }
        assert!(deframer.partial.is_empty());
        seen
    }

    #[test]
    fn frames_cut_at_every_pair_of_bytes() {
        let (bytes, frames) = stream();
        for a in 0..=bytes.len() {
            for b in a..=bytes.len() {
                assert_eq!(collect(&[&bytes[..a], &bytes[a..b], &bytes[b..]]), frames, "{a} {b}");
            }
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(collect(&single), frames);
    }

    #[test]
    fn a_frame_over_the_limit_is_an_error_in_any_cut() {
        let head = header(kind::RECV_PACKET, MAX_PAYLOAD + 1);
        for cut in 0..HEADER_LEN {
            let mut deframer = Deframer::default();
            let mut feed = |bytes: &[u8]| deframer.feed::<FrameTooLong>(bytes, |_, _| Ok(()));
            assert!(feed(&head[..cut]).is_ok());
            let err = feed(&head[cut..]).unwrap_err();
            assert_eq!(err.len, MAX_PAYLOAD + 1);
        }
    }

    #[test]
    fn an_error_of_the_callback_stops_the_feed() {
        #[derive(Debug)]
        struct Stop;
        impl From<FrameTooLong> for Stop {
            fn from(_: FrameTooLong) -> Self {
                unreachable!("no frame here is long")
            }
        }
        let mut calls = 0;
        let result = Deframer::default().feed(&stream().0, |_, _| {
            calls += 1;
            Err(Stop)
        });
        assert!(result.is_err());
        assert_eq!(calls, 1);
    }
}
