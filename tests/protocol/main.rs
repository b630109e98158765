//! The protocol in raw bytes, against the real binary: what a client may send, and what it is sent for it.

#[path = "../relay_support/mod.rs"]
mod relay_support;

mod bounds;
mod control;
mod cuts;
mod duplicates;
mod early;
mod login;
mod mesh;
mod packets;
mod peers;
mod records;
