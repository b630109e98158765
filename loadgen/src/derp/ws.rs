//! WebSocket under DERP (RFC 6455): binary messages carry the byte stream, their borders mean nothing.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Relays take messages of 32 KiB and no more.
const MAX_MESSAGE: usize = 32 * 1024;
/// Appended to the key by the protocol.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Payload of a ping or a close.
const MAX_CONTROL: usize = 125;

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum WsError {
    #[error("the relay closed the WebSocket with status {0}")]
    Closed(u16),
    #[error("the relay masked a WebSocket frame, which only clients do")]
    Masked,
    #[error("the relay sent a WebSocket frame of type {0} where none belongs")]
    Unexpected(u8),
    #[error("the relay sent a WebSocket control frame of {0} bytes, more than 125")]
    LongControl(u64),
}

/// Both directions of one connection, behind the handshake.
pub struct WebSocket {
    /// Of the masks: they keep proxies from mistaking payloads, and hide nothing from a relay.
    random: u64,
    header: Vec<u8>,
    kind: u8,
    /// Bytes of the current frame that have not come.
    left: u64,
    control: Vec<u8>,
    pongs: Vec<Vec<u8>>,
}

impl WebSocket {
    pub fn new() -> Result<Self, getrandom::Error> {
        Ok(Self {
            random: getrandom::u64()? | 1,
            header: Vec::new(),
            kind: BINARY,
            left: 0,
            control: Vec::new(),
            pongs: Vec::new(),
        })
    }

    /// Hands on the stream that a piece of the connection carries.
    pub fn open<E: From<WsError>>(
        &mut self,
        mut bytes: &[u8],
        mut on_stream: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        loop {
            if self.left == 0 && !self.begin(&mut bytes)? {
                return Ok(());
            }
            let now = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
            let (payload, rest) = bytes.split_at(now);
            self.left -= now as u64;
            bytes = rest;
            if self.kind >= CLOSE {
                self.control.extend_from_slice(payload);
                if self.left == 0 {
                    self.on_control()?;
                }
            } else if !payload.is_empty() {
                on_stream(payload)?;
            }
            if bytes.is_empty() {
                return Ok(());
            }
        }
    }

    /// Hands on `stream` as messages, each in pieces; masks it in place.
    pub fn seal(&mut self, mut stream: &mut [u8], mut put: impl FnMut(&[u8])) {
        for pong in std::mem::take(&mut self.pongs) {
            let mut pong = pong;
            self.frame(PONG, &mut pong, &mut put);
        }
        while !stream.is_empty() {
            let (message, rest) = stream.split_at_mut(stream.len().min(MAX_MESSAGE));
            self.frame(BINARY, message, &mut put);
            stream = rest;
        }
    }

    /// The relay waits for the answer to a ping, which even an empty write brings.
    pub fn owes_write(&self) -> bool {
        !self.pongs.is_empty()
    }

    fn frame(&mut self, kind: u8, payload: &mut [u8], put: &mut impl FnMut(&[u8])) {
        let mask = self.mask();
        let len = payload.len();
        match len {
            0..=125 => put(&[FIN | kind, MASKED | len as u8]),
            _ => {
                let [hi, lo] = (len as u16).to_be_bytes();
                put(&[FIN | kind, MASKED | 126, hi, lo]);
            }
        }
        put(&mask);
        for piece in payload.chunks_mut(4) {
            piece.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
        }
        put(payload);
    }

    /// xorshift
    fn mask(&mut self) -> [u8; 4] {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let [a, b, c, d, ..] = self.random.to_be_bytes();
        [a, b, c, d]
    }

    /// Takes the header of the next frame; false if it is not all there.
    fn begin(&mut self, bytes: &mut &[u8]) -> Result<bool, WsError> {
        loop {
            if let Some((kind, len)) = parse(&self.header)? {
                self.header.clear();
                (self.kind, self.left) = (kind, len);
                if kind < CLOSE {
                    // A frame may be empty.
                    if len == 0 {
                        continue;
                    }
                } else if len > MAX_CONTROL as u64 {
                    return Err(WsError::LongControl(len));
                } else {
                    self.control.clear();
                    if len == 0 {
                        self.on_control()?;
                        continue;
                    }
                }
                return Ok(true);
            }
            let Some((first, rest)) = bytes.split_first() else {
                return Ok(false);
            };
            self.header.push(*first);
            *bytes = rest;
        }
    }

    fn on_control(&mut self) -> Result<(), WsError> {
        match self.kind {
            PING => self.pongs.push(std::mem::take(&mut self.control)),
            PONG => {}
            CLOSE => {
                let status = self.control.first_chunk().map_or(1005, |status| u16::from_be_bytes(*status));
                return Err(WsError::Closed(status));
            }
            other => return Err(WsError::Unexpected(other)),
        }
        Ok(())
    }
}

/// Type and payload length, if the header is whole.
fn parse(header: &[u8]) -> Result<Option<(u8, u64)>, WsError> {
    let [first, second, rest @ ..] = header else {
        return Ok(None);
    };
    let kind = first & 0x0f;
    if second & MASKED != 0 {
        return Err(WsError::Masked);
    }
    if kind == TEXT || !matches!(kind, CONTINUATION | BINARY | CLOSE..=PONG) {
        return Err(WsError::Unexpected(kind));
    }
    let len = match second & 0x7f {
        126 => rest.first_chunk().map(|len| u64::from(u16::from_be_bytes(*len))),
        127 => rest.first_chunk().map(|len| u64::from_be_bytes(*len)),
        len => Some(u64::from(len)),
    };
    Ok(len.map(|len| (kind, len)))
}

/// A fresh key for the request.
pub fn key() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(STANDARD.encode(bytes))
}

/// What a server answers to the key.
pub fn accept(key: &str) -> String {
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{GUID}").as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(ws: &mut WebSocket, chunks: &[&[u8]]) -> Result<Vec<u8>, WsError> {
        let mut stream = Vec::new();
        for chunk in chunks {
            ws.open::<WsError>(chunk, |piece| {
                stream.extend_from_slice(piece);
                Ok(())
            })?;
        }
        Ok(stream)
    }

    #[test]
    fn the_answer_of_the_standard() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn the_stream_comes_out_however_it_is_cut() {
        let mut bytes = vec![FIN | BINARY, 3, 1, 2, 3, FIN | PING, 2, b'h', b'i', FIN | BINARY, 0, BINARY, 126, 0, 200];
        bytes.extend(std::iter::repeat_n(7, 200));
        bytes.extend([FIN | CONTINUATION, 127, 0, 0, 0, 0, 0, 0, 0, 1, 9]);
        let expected = [&[1, 2, 3][..], &[7; 200], &[9]].concat();
        for cut in 0..=bytes.len() {
            let mut ws = WebSocket::new().unwrap();
            assert_eq!(collect(&mut ws, &[&bytes[..cut], &bytes[cut..]]).unwrap(), expected, "{cut}");
            assert_eq!(ws.pongs, [b"hi"]);
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(collect(&mut WebSocket::new().unwrap(), &single).unwrap(), expected);
    }

    #[test]
    fn what_a_client_sends_is_masked_and_not_too_long() {
        let mut ws = WebSocket::new().unwrap();
        ws.pongs.push(b"hi".to_vec());
        let stream: Vec<u8> = (0..70_000_u32).map(|i| i as u8).collect();
        let mut pieces: Vec<Vec<u8>> = Vec::new();
        ws.seal(&mut stream.clone(), |piece| pieces.push(piece.to_vec()));
        let mut seen = Vec::new();
        let mut masks = std::collections::BTreeSet::new();
        for frame in pieces.chunks(3) {
            let [header, mask, payload] = frame else { panic!("header, mask, payload") };
            assert!(header[1] & MASKED != 0 && payload.len() <= MAX_MESSAGE);
            masks.insert(mask.clone());
            let plain: Vec<u8> = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
            match header[0] {
                pong if pong == FIN | PONG => assert_eq!((header[1] & 0x7f, &plain[..]), (2, &b"hi"[..])),
                _ => {
                    assert_eq!(header[..2], [FIN | BINARY, MASKED | 126]);
                    assert_eq!(usize::from(u16::from_be_bytes([header[2], header[3]])), payload.len());
                    seen.extend(plain);
                }
            }
        }
        assert_eq!(seen, stream);
        assert_eq!(masks.len(), 4, "every frame has a mask of its own");
        assert!(!ws.owes_write());
    }

    #[test]
    fn what_a_relay_may_not_send() {
        let open = |bytes: &[u8]| collect(&mut WebSocket::new().unwrap(), &[bytes]).unwrap_err();
        assert_eq!(open(&[FIN | BINARY, MASKED | 1, 0, 0, 0, 0, 1]), WsError::Masked);
        assert_eq!(open(&[FIN | TEXT, 1, b'x']), WsError::Unexpected(TEXT));
        assert_eq!(open(&[FIN | 3, 0]), WsError::Unexpected(3));
        assert_eq!(open(&[FIN | CLOSE, 2, 3, 241]), WsError::Closed(1009));
        assert_eq!(open(&[FIN | CLOSE, 0]), WsError::Closed(1005));
        assert_eq!(open(&[FIN | PING, 126, 0, 126]), WsError::LongControl(126));
    }
}
