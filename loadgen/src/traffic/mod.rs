//! What is sent, when, and what must come back. No I/O, no clock: time is an argument.

pub mod flow;
pub mod payload;
pub mod schedule;
pub mod shape;
pub mod sizes;

/// Something no relay may do with a packet.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Violation {
    #[error("packet {seq} came twice")]
    Duplicate { seq: u64 },
    #[error("packet {seq} came after packet {}", expected - 1)]
    OutOfOrder { seq: u64, expected: u64 },
    #[error("packet {seq} was never sent")]
    NeverSent { seq: u64 },
    #[error("a packet names {found} as its source, the sender is {expected}")]
    WrongSource { found: String, expected: String },
    #[error("a packet has {found} bytes of data, none shorter than {least} was sent")]
    TooShort { found: usize, least: usize },
    #[error("a packet has {found} bytes of data, {expected} were sent")]
    WrongLength { found: usize, expected: usize },
    #[error("number, time and check of a packet do not belong together: its first 24 bytes are {found}")]
    WrongHeader { found: String },
    #[error("byte {at} of packet {seq} is {found:#04x}, {expected:#04x} was sent")]
    WrongByte { seq: u64, at: usize, found: u8, expected: u8 },
    #[error("packet {seq} of link {link} came to a connection that it was not sent to")]
    Misdelivered { link: u32, seq: u64 },
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
