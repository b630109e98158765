//! What each fuzz target does with its input: every parser that meets a stranger's bytes, against what must hold
//! whatever they are. Everything here runs on stable too.

mod deframe;
mod stun;
mod text;
mod tls;
mod websocket;
mod worker;

pub use deframe::deframe;
pub use stun::stun;
pub use text::{client_info, go_flags, http_head, key_file};
pub use tls::{handshake, record, tls12};
pub use websocket::websocket;
pub use worker::worker;

/// A target takes any bytes, and panics when something is wrong with the product.
pub type Target = fn(&[u8]);

/// Every target under the name of its corpus.
pub const TARGETS: [(&str, Target); 11] = [
    ("client_info", client_info),
    ("deframe", deframe),
    ("go_flags", go_flags),
    ("handshake", handshake),
    ("http_head", http_head),
    ("key_file", key_file),
    ("record", record),
    ("stun", stun),
    ("tls12", tls12),
    ("websocket", websocket),
    ("worker", worker),
];

/// Reads decisions from the front of the input. At its end every decision is 0.
struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn word(&mut self) -> usize {
        usize::from(u16::from_be_bytes([self.byte(), self.byte()]))
    }

    fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
