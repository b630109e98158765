//! A client's side of a WebSocket that keeps to the rules: what it sends is in messages of 4 KiB, as one that writes
//! through a small buffer has them.

use derpring::proto::ws::header;

const MESSAGE: usize = 4096;
const MASK: [u8; 4] = [0x35, 0xc2, 0x0f, 0x91];

#[derive(Default)]
pub struct Messages {
    /// From the relay, not taken apart.
    pub opened: Vec<u8>,
    wrapped: Vec<u8>,
}

impl Messages {
    pub fn wrap(&mut self, plain: &[u8]) -> &[u8] {
        self.wrapped.clear();
        for part in plain.chunks(MESSAGE) {
            let (mut head, len) = header(part.len());
            head[1] |= 0x80;
            self.wrapped.extend_from_slice(&head[..len]);
            self.wrapped.extend_from_slice(&MASK);
            self.wrapped.extend(part.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        }
        &self.wrapped
    }

    /// Moves the payload of whole messages to `plain`.
    pub fn unwrap(&mut self, plain: &mut Vec<u8>) {
        let mut at = 0;
        while let Some(head) = self.opened.get(at..at + 2) {
            assert_eq!(head[0], 0x82, "a whole binary message");
            let (start, len) = match (head[1], self.opened.get(at + 2..at + 4)) {
                (126, Some(len)) => (at + 4, usize::from(u16::from_be_bytes([len[0], len[1]]))),
                (126, None) => break,
                (short, _) => (at + 2, usize::from(short)),
            };
            let Some(payload) = self.opened.get(start..start + len) else { break };
            plain.extend_from_slice(payload);
            at = start + len;
        }
        self.opened.drain(..at);
    }
}
