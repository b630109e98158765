//! A relay of some workers on the simulated network without faults, and clients that say what came.
//!
//! Shared by the benchmark of the whole line and by the test that counts allocations: both look at the relay's turns
//! and at nothing that clients do.

pub mod tls;
mod websocket;

use std::sync::Arc;
use std::time::Duration;

use derpring::driver::sim::{Faults, Net, Sim, SimClient, SimSocket};
use derpring::proto::frame::{HEADER_LEN, PACKET_HEAD, header, kind};
use derpring::proto::key::NodeKey;
use derpring::tls::{Flow, Transport};
use derpring::worker::bridge::{Command, Handover, Identity};
use derpring::worker::egress::Bounds;
use derpring::worker::{Common, Settings, Worker, mailbox};
use websocket::Messages;

/// What every client is told first; only that it comes matters.
const GREETING: [u8; HEADER_LEN] = header(kind::SERVER_INFO, 0);

pub struct Bed {
    net: Net,
    common: Arc<Common<SimSocket>>,
    pub workers: Vec<Worker<Sim>>,
    /// Clients come through a WebSocket from now on.
    pub websockets: bool,
    peers: u16,
}

impl Bed {
    pub fn new(workers: u16, bounds: Bounds, chunks_max: usize) -> Self {
        let net = Net::new(1, Faults::default());
        let common = Common::new(usize::from(workers), mailbox::INBOX_CHAINS).expect("descriptors for the doorbells");
        let settings = Settings {
            bounds,
            chunks_max,
            run_bytes: derpring::limits::RUN_BYTES,
            write_timeout: Duration::ZERO,
            moves: false,
            busy_poll: Duration::ZERO,
            round_trips: true,
            server_key: NodeKey([0xee; 32]),
            seed: 1,
        };
        let worker = |me| Worker::new(net.driver(), me, settings.clone(), common.clone());
        Self { workers: (0..workers).map(worker).collect(), net, common, websockets: false, peers: 0 }
    }

    /// A client of `worker` that has logged in. The network holds `room` bytes on the way to it.
    pub fn login(&mut self, worker: usize, room: usize, (ours, theirs): (Transport, Transport)) -> Peer {
        self.peers += 1;
        let mut key = [0x40; 32];
        key[..2].copy_from_slice(&self.peers.to_be_bytes());
        let key = NodeKey(key);
        let (socket, end) = self.net.connect(room);
        let handover = Handover {
            socket,
            transport: ours,
            wire_in: Vec::new(),
            plain_in: Vec::new(),
            greeting: GREETING.to_vec(),
            identity: Identity {
                key,
                address: None,
                mesh: false,
                prober: false,
                not_ideal: false,
                websocket: self.websockets,
            },
            websocket: self.websockets.then(Box::default),
        };
        assert!(self.common.commands[worker].push(Command::Adopt(Box::new(handover))).is_ok());
        let messages = self.websockets.then(Messages::default);
        let mut peer = Peer { key, end, transport: theirs, wire: Vec::new(), plain: Vec::new(), messages };
        // The login goes round all workers and comes back before the session opens.
        for _ in 0..3 {
            self.turn_all();
        }
        assert_eq!(peer.read(), GREETING, "a login is answered");
        peer.consume(GREETING.len());
        peer
    }

    /// One turn of every worker.
    pub fn turn_all(&mut self) {
        for worker in &mut self.workers {
            worker.turn().expect("the simulated network never breaks");
        }
    }

    pub fn advance(&self, by: Duration) {
        self.net.advance(by);
    }

    /// Packets that came, packets that were sent, and packets that were dropped, over all workers.
    pub fn counts(&self) -> (u64, u64, u64) {
        let stats = || self.workers.iter().map(|w| w.core().stats());
        (
            stats().map(|s| s.received()).sum(),
            stats().map(|s| s.packets_sent.get()).sum(),
            stats().map(|s| s.dropped()).sum(),
        )
    }
}

pub struct Peer {
    pub key: NodeKey,
    pub end: SimClient,
    transport: Transport,
    wire: Vec<u8>,
    plain: Vec<u8>,
    messages: Option<Messages>,
}

impl Peer {
    /// Appends `plain` to `wire` as it goes over the network, in records as large as they may be.
    pub fn seal(&mut self, plain: &[u8], wire: &mut Vec<u8>) {
        let sealed = match &mut self.messages {
            Some(messages) => self.transport.seal_into(messages.wrap(plain), wire),
            None => self.transport.seal_into(plain, wire),
        };
        sealed.expect("the client's records");
    }

    /// Takes what has come, and returns all that has not been consumed.
    pub fn read(&mut self) -> &[u8] {
        self.end.read(usize::MAX, &mut self.wire);
        let opened = self.messages.as_mut().map_or(&mut self.plain, |messages| &mut messages.opened);
        let flow = self.transport.open_into(&mut self.wire, opened);
        assert_eq!(flow, Ok(Flow::Open), "the relay's records");
        if let Some(messages) = &mut self.messages {
            messages.unwrap(&mut self.plain);
        }
        &self.plain
    }

    pub fn consume(&mut self, bytes: usize) {
        self.plain.drain(..bytes);
    }
}

/// A SendPacket frame with `len` bytes of payload.
pub fn packet(to: &NodeKey, len: usize) -> Vec<u8> {
    let mut frame = header(kind::SEND_PACKET, (NodeKey::LEN + len) as u32).to_vec();
    frame.extend_from_slice(&to.0);
    frame.extend((0..len).map(|at| at as u8));
    assert_eq!(frame.len(), PACKET_HEAD + len);
    frame
}
