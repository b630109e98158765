//! What the STUN server counts. Its thread alone writes.

use std::net::SocketAddr;

use crate::stats::{Cell, StunResult};

#[derive(Debug, Default)]
pub struct Stats {
    /// Datagrams by [`StunResult`]; of each, those that came over IPv4 and over IPv6.
    pub requests: [[Cell; 2]; StunResult::COUNT],
    /// Receives that failed.
    pub read_errors: Cell,
}

impl Stats {
    /// Datagrams of both families.
    pub fn count(&self, result: StunResult) -> u64 {
        self.requests[result as usize].iter().map(Cell::get).sum()
    }

    pub(super) fn add(&self, result: StunResult, from: SocketAddr) {
        self.requests[result as usize][usize::from(from.ip().to_canonical().is_ipv6())].add(1);
    }
}
