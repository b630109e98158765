//! How one relay gives its listening sockets to the next, so that an upgrade refuses no connection.
//!
//! ```text
//!     new                                   the one that runs
//!      |-- hello: protocol, version --------->|  checks who asks
//!      |<- offer: protocol, version, key -----|
//!      |<- socket: role, and the descriptor --|  one message each
//!      |   starts, whole, accepts nothing     |  goes on
//!      |-- ready ---------------------------->|
//!      |<- yours -----------------------------|  still goes on
//!      |   accepts                            |
//!      |-- open ----------------------------->|  accepts no more, drains
//! ```
//!
//! Whatever fails before `open`, the relay that runs goes on as if nobody had asked. Descriptors are duplicates of the
//! sockets themselves: what waits in their queues is nobody's until one of the two takes it.
//!
//! The socket is of kind SEQPACKET: a message is whole or not there.

mod giving;
mod taking;
mod words;

pub use giving::{Desk, Giver, Successor};
pub use taking::{TakeError, Taking, ask};

use super::sockets::UnixKind;

/// For this user alone, and root.
pub const KIND: UnixKind = UnixKind { kind: socket2::Type::SEQPACKET, mode: 0o600 };

/// Said first by both. A relay that speaks another one is refused: the old one goes on.
const PROTOCOL: u32 = 1;

#[cfg(test)]
mod tests;
