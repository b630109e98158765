//! WebSocket frames (RFC 6455, section 5) without I/O, on the server's side: a byte stream inside binary messages.
//!
//! Where messages end means nothing to DERP, so none is ever put together: payload is unmasked where it lies and handed
//! out as it comes. What is kept between two inputs is the header of one frame and the payload of one control frame.

use crate::limits::WEBSOCKET_MESSAGE_MAX;

/// Longest header of a frame that we send: messages never reach 64 KiB.
pub const HEADER_MAX: usize = 4;
/// Longest payload of a control frame (protocol).
pub const CONTROL_MAX: usize = 125;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;
const MASK_LEN: usize = 4;
/// Two bytes, eight of length, four of mask.
const CLIENT_HEADER_MAX: usize = 14;

mod opcode {
    pub const CONTINUATION: u8 = 0;
    pub const TEXT: u8 = 1;
    pub const BINARY: u8 = 2;
    pub const CLOSE: u8 = 8;
    pub const PING: u8 = 9;
    pub const PONG: u8 = 10;
}

/// Why a WebSocket ends: what the close frame says (RFC 6455, section 7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum CloseCode {
    Normal = 1000,
    GoingAway = 1001,
    ProtocolError = 1002,
    /// A text message.
    Unsupported = 1003,
    /// A reason that is not UTF-8.
    InvalidPayload = 1007,
    /// The client chose no subprotocol that we speak.
    PolicyViolation = 1008,
    TooBig = 1009,
    Internal = 1011,
}

/// One step through the bytes of a client.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Unmasked payload, at this range of the input.
    Data { start: usize, end: usize },
    /// A ping: [`Unframer::pong`] is its answer, until the next one.
    Ping { used: usize },
    /// The client has closed; what follows means nothing. Answered with its own code.
    Closed { code: Option<u16> },
    /// The whole input is used up.
    Need,
    /// The client broke the rules, and is told how.
    Forbidden(CloseCode),
}

/// Cuts what a client sends into payload and control frames.
#[derive(Debug)]
pub struct Unframer {
    /// Header of the frame that comes, as far as it is there.
    head: [u8; CLIENT_HEADER_MAX],
    head_len: u8,
    /// Payload of the current frame that has not come.
    left: u32,
    mask: [u8; MASK_LEN],
    /// Opcode of the current frame.
    opcode: u8,
    /// A message has begun and not ended.
    in_message: bool,
    /// Payload bytes of the current message that were announced.
    message: u32,
    control: [u8; CONTROL_MAX],
    control_len: u8,
    pong: [u8; 2 + CONTROL_MAX],
    pong_len: u8,
}

impl Default for Unframer {
    fn default() -> Self {
        Self {
            head: [0; CLIENT_HEADER_MAX],
            head_len: 0,
            left: 0,
            mask: [0; MASK_LEN],
            opcode: opcode::CONTINUATION,
            in_message: false,
            message: 0,
            control: [0; CONTROL_MAX],
            control_len: 0,
            pong: [0; 2 + CONTROL_MAX],
            pong_len: 0,
        }
    }
}

impl Unframer {
    /// Looks at `input`, of which the first `at` bytes are used up, and unmasks what it hands out.
    #[inline]
    pub fn next(&mut self, input: &mut [u8], mut at: usize) -> Step {
        loop {
            if self.left == 0 {
                if self.head_len == 0 && at == input.len() {
                    return Step::Need;
                }
                at += match self.take_header(&input[at..]) {
                    Ok(Some(used)) => used,
                    Ok(None) => return Step::Need,
                    Err(code) => return Step::Forbidden(code),
                };
                if self.left == 0
                    && self.is_control()
                    && let Some(step) = self.end_control(at)
                {
                    return step;
                }
                continue;
            }
            if at == input.len() {
                return Step::Need;
            }
            let len = (self.left as usize).min(input.len() - at);
            let (start, end) = (at, at + len);
            unmask(&mut input[start..end], self.mask);
            self.mask.rotate_left(len % MASK_LEN);
            self.left -= len as u32;
            at = end;
            if !self.is_control() {
                return Step::Data { start, end };
            }
            let kept = usize::from(self.control_len);
            self.control[kept..kept + len].copy_from_slice(&input[start..end]);
            self.control_len += len as u8;
            if self.left == 0
                && let Some(step) = self.end_control(at)
            {
                return step;
            }
        }
    }

    /// The answer to the last ping, a whole frame. Older pings need none (RFC 6455, section 5.5.3).
    pub fn pong(&self) -> &[u8] {
        &self.pong[..usize::from(self.pong_len)]
    }

    /// Whether [`Self::pong`] has not been sent.
    #[inline]
    pub fn owes_pong(&self) -> bool {
        self.pong_len > 0
    }

    pub fn forget_pong(&mut self) {
        self.pong_len = 0;
    }

    fn is_control(&self) -> bool {
        self.opcode >= opcode::CLOSE
    }

    /// Takes the header of the next frame. `None`: the input ends inside of it.
    fn take_header(&mut self, input: &[u8]) -> Result<Option<usize>, CloseCode> {
        let mut used = 0;
        loop {
            let have = usize::from(self.head_len);
            let want = match have {
                0 | 1 => 2,
                _ => 2 + length_bytes(self.head[1]) + MASK_LEN,
            };
            // As soon as it is known to be wrong: the rest may never come.
            if have == 2 {
                self.judge(self.head[0], self.head[1])?;
            }
            if have == want {
                break;
            }
            let n = (want - have).min(input.len() - used);
            if n == 0 {
                return Ok(None);
            }
            self.head[have..have + n].copy_from_slice(&input[used..used + n]);
            self.head_len += n as u8;
            used += n;
        }
        self.head_len = 0;
        self.begin().map(|()| Some(used))
    }

    fn judge(&self, first: u8, second: u8) -> Result<(), CloseCode> {
        let (opcode, fin) = (first & 0x0f, first & FIN != 0);
        // No extension is ever negotiated, and a client always masks.
        if first & RESERVED != 0 || second & MASKED == 0 {
            return Err(CloseCode::ProtocolError);
        }
        match opcode {
            opcode::TEXT if !self.in_message => Err(CloseCode::Unsupported),
            opcode::BINARY if !self.in_message => Ok(()),
            opcode::CONTINUATION if self.in_message => Ok(()),
            opcode::CLOSE | opcode::PING | opcode::PONG if fin && second & !MASKED <= CONTROL_MAX as u8 => Ok(()),
            _ => Err(CloseCode::ProtocolError),
        }
    }

    /// The header in `head` is whole.
    fn begin(&mut self) -> Result<(), CloseCode> {
        let short = self.head[1] & !MASKED;
        let (len, mask_at) = match short {
            126 => (u64::from(u16::from_be_bytes([self.head[2], self.head[3]])), 4),
            127 => {
                let mut len = [0; 8];
                len.copy_from_slice(&self.head[2..10]);
                (u64::from_be_bytes(len), 10)
            }
            short => (u64::from(short), 2),
        };
        self.mask.copy_from_slice(&self.head[mask_at..mask_at + MASK_LEN]);
        let opcode = self.head[0] & 0x0f;
        if opcode >= opcode::CLOSE {
            self.opcode = opcode;
            self.left = u32::from(short);
            self.control_len = 0;
            return Ok(());
        }
        let begun = if opcode == opcode::CONTINUATION { self.message } else { 0 };
        let message = u64::from(begun).saturating_add(len);
        if message > WEBSOCKET_MESSAGE_MAX as u64 {
            return Err(CloseCode::TooBig);
        }
        self.opcode = opcode;
        self.message = message as u32;
        self.left = len as u32;
        self.in_message = self.head[0] & FIN == 0;
        Ok(())
    }

    /// A control frame is whole, and ends at `used`.
    fn end_control(&mut self, used: usize) -> Option<Step> {
        let payload = &self.control[..usize::from(self.control_len)];
        let opcode = std::mem::replace(&mut self.opcode, opcode::CONTINUATION);
        match opcode {
            opcode::PING => {
                self.pong[0] = FIN | opcode::PONG;
                self.pong[1] = self.control_len;
                self.pong[2..2 + payload.len()].copy_from_slice(payload);
                self.pong_len = 2 + self.control_len;
                Some(Step::Ping { used })
            }
            opcode::CLOSE => Some(match payload {
                [] => Step::Closed { code: None },
                [a, b, reason @ ..] if is_close_code(u16::from_be_bytes([*a, *b])) => match str::from_utf8(reason) {
                    Ok(_) => Step::Closed { code: Some(u16::from_be_bytes([*a, *b])) },
                    Err(_) => Step::Forbidden(CloseCode::InvalidPayload),
                },
                _ => Step::Forbidden(CloseCode::ProtocolError),
            }),
            _ => None,
        }
    }
}

/// Bytes of a length that does not fit into the second byte of a header.
fn length_bytes(second: u8) -> usize {
    match second & !MASKED {
        126 => 2,
        127 => 8,
        _ => 0,
    }
}

/// Codes that may be sent (RFC 6455, section 7.4, and the registry).
fn is_close_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Exclusive or with the mask, which begins at the first byte.
#[inline]
fn unmask(bytes: &mut [u8], mask: [u8; MASK_LEN]) {
    const WIDE: usize = 32;
    let mut wide = [0; WIDE];
    for (at, byte) in wide.iter_mut().enumerate() {
        *byte = mask[at % MASK_LEN];
    }
    let mut chunks = bytes.chunks_exact_mut(WIDE);
    for chunk in &mut chunks {
        for (byte, mask) in chunk.iter_mut().zip(wide) {
            *byte ^= mask;
        }
    }
    for (byte, mask) in chunks.into_remainder().iter_mut().zip(wide) {
        *byte ^= mask;
    }
}

/// Header of a binary message of `len` bytes, below 64 KiB; the second value is its length.
#[inline]
pub fn header(len: usize) -> ([u8; HEADER_MAX], usize) {
    debug_assert!(len <= usize::from(u16::MAX));
    let [a, b] = (len as u16).to_be_bytes();
    if len <= CONTROL_MAX { ([FIN | opcode::BINARY, b, 0, 0], 2) } else { ([FIN | opcode::BINARY, 126, a, b], 4) }
}

/// A whole close frame. `None`: the client gave no code either.
pub fn close(code: Option<u16>) -> Vec<u8> {
    let mut frame = vec![FIN | opcode::CLOSE, 0];
    if let Some(code) = code {
        frame[1] = 2;
        frame.extend_from_slice(&code.to_be_bytes());
    }
    frame
}

#[cfg(test)]
mod tests;
