//! Where the edge and the workers meet: two bounded enums and nothing else.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use crate::proto::key::NodeKey;
use crate::proto::ws::Unframer;
use crate::stats::{CloseReason, DropReason};
use crate::tls::Transport;
use crate::worker::listing;
pub use crate::worker::moving::Arrival;

/// A connection that has proved who it is, on its way to the worker that will own it.
///
/// Nothing is lost in between: what was received and not yet used goes along, raw in `wire_in`, opened in `plain_in`.
#[derive(Debug)]
pub struct Handover<S = OwnedFd> {
    /// Non-blocking, with no read or write in flight.
    pub socket: S,
    pub transport: Transport,
    /// Bytes from the socket that `transport` has not opened. Empty for plain connections.
    pub wire_in: Vec<u8>,
    /// Opened bytes behind ClientInfo.
    pub plain_in: Vec<u8>,
    /// The ServerInfo frame in plaintext, with ServerKey in front of it where the edge has not sent that: sent once
    /// every worker knows the peer, before anything else.
    pub greeting: Vec<u8>,
    pub identity: Identity,
    /// `wire_in` and what follows it are WebSocket messages; `plain_in` has been taken out of them.
    pub websocket: Option<Box<Unframer>>,
}

/// What the login established.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    pub key: NodeKey,
    /// The address that the operator may see: the TCP peer's.
    pub address: Option<SocketAddr>,
    /// Presented the mesh key.
    pub mesh: bool,
    pub prober: bool,
    /// Said that it is not connected to its ideal node.
    pub not_ideal: bool,
    /// Speaks through a WebSocket.
    pub websocket: bool,
}

/// Edge to worker, and worker to worker what does not fit into a batch.
#[derive(Debug)]
pub enum Command<S = OwnedFd> {
    Adopt(Box<Handover<S>>),
    /// From another worker.
    Arrive(Box<Arrival<S>>),
    /// Who is connected?
    List(listing::Request),
    /// Send Restarting to everybody who is here or comes from now on, and go on.
    Drain {
        reconnect_spread: std::time::Duration,
    },
    /// Send Restarting to who has not heard it, flush what peers take within the time, close everything, end the
    /// worker.
    Stop {
        flush: std::time::Duration,
        reconnect_spread: std::time::Duration,
    },
}

/// Worker to edge.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// A session that was adopted has ended; exactly one for each [`Command::Adopt`].
    Closed(SessionEnd),
}

/// A session's life in one line. Workers never log: a slow log would stall them.
#[derive(Clone, Copy, Debug)]
pub struct SessionEnd {
    pub worker: u16,
    pub identity: Identity,
    pub reason: CloseReason,
    pub lived: std::time::Duration,
    pub totals: Totals,
}

impl SessionEnd {
    pub fn ip(&self) -> Option<IpAddr> {
        self.identity.address.map(|a| a.ip())
    }
}

/// What a session did.
#[derive(Clone, Copy, Default, Debug)]
pub struct Totals {
    pub packets_in: u64,
    pub bytes_in: u64,
    pub packets_out: u64,
    pub bytes_out: u64,
    /// Packets that were not delivered: those from it that had nowhere to go, else those on their way to it.
    pub drops: [u64; DropReason::COUNT],
}

impl Totals {
    /// Packets on their way to it that it did not get.
    pub fn dropped(&self) -> u64 {
        let from_it = [DropReason::UnknownDest, DropReason::UnknownDestOnFwd];
        self.drops.iter().sum::<u64>() - from_it.iter().map(|reason| self.drops[*reason as usize]).sum::<u64>()
    }
}
