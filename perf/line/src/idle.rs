//! Sessions that have logged in and do nothing.

use std::mem;

use derpring::tls::{RecordLayer, Transport};
use derpring::worker::egress::Bounds;
use derpring::worker::session::Session;
use serde::Serialize;

use crate::bed::Bed;
use crate::bed::tls::Handshaker;
use crate::{Idle, Kind};

#[derive(Serialize)]
pub struct Counted {
    sessions: u16,
    /// Parts of what a session holds, to see where a change went.
    session_struct_bytes: usize,
    record_layer_bytes: usize,
}

/// Leaves the worker in memory when the program ends, and with it everything that it holds for its sessions. Whoever
/// looks at the heap from outside, and at two numbers of sessions, sees what one costs, AWS-LC's memory included.
pub fn count(what: Idle) -> Counted {
    let bounds = Bounds { packets: 512, bytes: 4 << 20, packets_min: 32 };
    let mut bed = Bed::new(1, bounds, usize::MAX);
    let handshaker = (what.transport == Kind::Tls13).then(Handshaker::aes128);
    let transports = || handshaker.as_ref().map_or((Transport::Plain, Transport::Plain), Handshaker::connect);
    let clients: Vec<_> = (0..what.sessions).map(|_| bed.login(0, usize::MAX, transports())).collect();
    // No turn follows: the worker does not notice that they are gone.
    drop(clients);
    mem::forget(mem::take(&mut bed.workers));
    Counted {
        sessions: what.sessions,
        session_struct_bytes: size_of::<Session>(),
        record_layer_bytes: size_of::<RecordLayer>(),
    }
}
