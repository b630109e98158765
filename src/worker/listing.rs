//! Who is connected, told page by page to whoever asks: nobody reads a session but its worker.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::driver::Nanos;
use crate::proto::key::NodeKey;
use crate::tls::handshake::TlsVersion;
use crate::worker::bridge::Totals;
use crate::worker::core::Core;
use crate::worker::session::{Session, State};

/// Slots that one message makes a worker look at: a few microseconds of its time.
const SLOTS: u32 = 512;

/// What is asked of a worker.
#[derive(Debug)]
pub struct Request {
    /// The first slot.
    pub from: u32,
    /// Empty; as many sessions as it has room for make a page.
    pub rows: Vec<Client>,
    pub reply: oneshot::Sender<Page>,
}

/// Some of a worker's sessions.
#[derive(Debug)]
pub struct Page {
    pub rows: Vec<Client>,
    /// The slot to go on from.
    pub next: Option<u32>,
}

/// One session. One that moves between workers while pages are collected may stand in two of them, or in none.
#[derive(Clone, Debug)]
pub struct Client {
    pub key: NodeKey,
    /// The TCP peer's.
    pub address: Option<SocketAddr>,
    pub worker: u16,
    /// Since it logged in.
    pub age: Duration,
    /// Since it last sent anything.
    pub idle: Duration,
    pub home: bool,
    pub mesh: bool,
    pub prober: bool,
    pub not_ideal: bool,
    /// Other connections have the same key.
    pub shared: bool,
    pub websocket: bool,
    /// `None`: plain.
    pub tls: Option<TlsVersion>,
    pub totals: Totals,
    /// Packets that wait in its queues or are committed and not yet taken by the kernel.
    pub queued_packets: u32,
    /// Bytes of frames in its queues.
    pub queued_bytes: u32,
    /// Of the oldest packet of these.
    pub queue_age: Option<Duration>,
    /// As the kernel last had it.
    pub round_trip: Option<Duration>,
}

impl Core {
    /// Answers one request. Nobody may wait for it any more, which costs nothing.
    pub(super) fn list(&self, request: Request) {
        let Request { from, mut rows, reply } = request;
        let end = self.sessions.slots().min(from.saturating_add(SLOTS));
        let mut at = from;
        while at < end && rows.len() < rows.capacity() {
            let session = &self.sessions[at];
            if matches!(session.state, State::Open | State::Joining) {
                rows.push(self.client(session));
            }
            at += 1;
        }
        let next = (at < self.sessions.slots()).then_some(at);
        let _ = reply.send(Page { rows, next });
    }

    fn client(&self, session: &Session) -> Client {
        let identity = &session.identity;
        let age = |at: Nanos| Duration::from_nanos(self.now.saturating_sub(at));
        let waited = |queued_us: u32| Duration::from_micros(self.waited_us(queued_us).into());
        Client {
            key: session.key,
            address: identity.address,
            worker: self.me,
            age: age(session.since),
            idle: age(session.active_at.max(session.since)),
            home: session.home,
            mesh: session.mesh,
            prober: identity.prober,
            not_ideal: session.not_ideal,
            shared: session.shared,
            websocket: identity.websocket,
            tls: session.transport.version(),
            totals: session.totals,
            queued_packets: session.egress.packets_held(&self.chunks),
            queued_bytes: session.egress.queued_bytes(),
            queue_age: session.egress.oldest(&self.chunks).map(waited),
            round_trip: session.round_trip,
        }
    }
}
