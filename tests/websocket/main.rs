//! DERP inside of WebSockets, on every backend and number of workers, with tungstenite as the client. What single
//! frames lead to is asked by the Go suite, of derper too; here it is packets, moves, ends, and peers that do not read.

#[path = "../relay_support/mod.rs"]
mod relay_support;

mod autobahn;
mod closing;
mod judge;
mod moving;
mod packets;
mod slow;
