//! Two workers on the simulated network, and clients that do and send anything.

use std::sync::Arc;
use std::time::Duration;

use derpring::driver::sim::{Faults, Net, Sim, SimClient, SimSocket};
use derpring::proto::key::NodeKey;
use derpring::tls::{RecordLayer, Transport};
use derpring::worker::bridge::{Command, Handover, Identity};
use derpring::worker::egress::Bounds;
use derpring::worker::{Common, Settings, Worker};
use rustls::crypto::cipher::{AeadKey, Iv};
use rustls::{ConnectionTrafficSecrets, ExtractedSecrets};

use super::Choices;

const WORKERS: usize = 2;
const CLIENTS_MAX: usize = 8;
/// Fewer keys than clients, so that some share one.
const KEYS: u8 = 4;

/// Packets that came went or are held, and when all have left nothing is.
///
/// The input: what happens, step by step.
pub fn worker(data: &[u8]) {
    let mut choices = Choices(data);
    let faults = match choices.byte() & 3 {
        0 => Faults::default(),
        n => Faults { short_reads: n & 1 == 1, short_writes: n & 2 == 2, stalls: 0 },
    };
    let mut world = World::new(faults);
    while !choices.is_empty() {
        world.step(&mut choices);
        world.check();
    }
    world.leave();
}

struct World {
    net: Net,
    common: Arc<Common<SimSocket>>,
    workers: Vec<Worker<Sim>>,
    clients: Vec<Client>,
}

struct Client {
    end: SimClient,
    transport: Transport,
}

impl World {
    fn new(faults: Faults) -> Self {
        let net = Net::new(1, faults);
        let common = Common::new(WORKERS, 2).expect("descriptors for the doorbells");
        let settings = Settings {
            bounds: Bounds { packets: 8, bytes: 20_000, packets_min: 4 },
            chunks_max: 24,
            run_bytes: 300,
            write_timeout: Duration::from_secs(2),
            moves: true,
            busy_poll: Duration::ZERO,
            round_trips: true,
            server_key: key(KEYS),
            seed: 1,
        };
        let worker = |me: usize| Worker::new(net.driver(), me as u16, settings.clone(), common.clone());
        Self { workers: (0..WORKERS).map(worker).collect(), net, common, clients: Vec::new() }
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        let what = choices.byte();
        let who = usize::from(choices.byte());
        let client = match self.clients.len() {
            0 => None,
            n => self.clients.get_mut(who % n),
        };
        match (what & 15, client) {
            (0, _) => self.login(who, choices),
            // Any bytes at all.
            (1, Some(client)) => {
                let len = choices.word() % 2000;
                client.end.write(choices.bytes(len));
            }
            // Any frame, in a record that opens. What the input does not say of it is zero.
            (2..=4, Some(client)) => {
                let (kind, len) = (choices.byte(), choices.word());
                let said = usize::from(choices.byte());
                let mut payload = choices.bytes(said.min(len)).to_vec();
                payload.resize(len, 0);
                client.send(kind, &payload);
            }
            // A packet for one of the keys.
            (5..=8, Some(client)) => {
                let (to, len) = (choices.byte() % (KEYS + 1), choices.word());
                let mut payload = key(to).0.to_vec();
                if what & 16 == 16 {
                    payload.extend_from_slice(b"TS\xf0\x9f\x92\xac");
                }
                payload.resize(32 + len, what);
                client.send(0x04, &payload);
            }
            (9, Some(client)) => client.end.close(),
            (10, Some(client)) => client.end.reset(),
            (11, Some(client)) => client.end.set_room(choices.word()),
            (12, Some(client)) => client.end.read(choices.word(), &mut Vec::new()),
            (13, _) => self.net.advance(Duration::from_millis(choices.word() as u64)),
            (14, _) if what & 32 == 32 => {
                let at = usize::from(what >> 6) % WORKERS;
                let slots = self.workers[at].core().slots().max(1);
                self.workers[at].begin_move(who as u32 % slots, (at as u16 + 1) % WORKERS as u16);
            }
            _ => self.turn(who % WORKERS),
        }
    }

    fn login(&mut self, who: usize, choices: &mut Choices<'_>) {
        if self.clients.len() == CLIENTS_MAX {
            return;
        }
        let flags = choices.byte();
        let room = choices.word();
        let len = usize::from(choices.byte());
        let early = choices.bytes(len).to_vec();
        let (socket, end) = self.net.connect(room);
        let (ours, theirs) = if flags & 1 == 1 { pair() } else { (Transport::Plain, Transport::Plain) };
        let (wire_in, plain_in) = if flags & 1 == 1 { (early, Vec::new()) } else { (Vec::new(), early) };
        let identity = Identity {
            key: key(flags >> 4 & 3),
            address: None,
            mesh: flags & 2 == 2,
            prober: flags & 4 == 4,
            not_ideal: flags & 8 == 8,
            websocket: false,
        };
        let greeting = vec![0x03, 0, 0, 0, 0];
        let handover = Handover { socket, transport: ours, wire_in, plain_in, greeting, identity, websocket: None };
        assert!(self.common.commands[who % WORKERS].push(Command::Adopt(Box::new(handover))).is_ok());
        self.clients.push(Client { end, transport: theirs });
    }

    fn turn(&mut self, at: usize) {
        self.workers[at].turn().expect("the simulated network never breaks");
        while self.common.events.pop().is_some() {}
    }

    fn check(&self) {
        let (mut came, mut went) = (0, 0);
        for worker in &self.workers {
            let stats = worker.core().stats();
            came += stats.received() + stats.packets_forwarded_in.get();
            went += stats.packets_sent.get() + stats.dropped() + worker.core().packets_held();
        }
        // Those in an inbox are neither here nor there.
        let on_the_way = self.common.inboxes.iter().any(|inbox| !inbox.is_empty())
            || self.common.commands.iter().any(|commands| !commands.is_empty());
        assert!(came == went || on_the_way && came > went, "{came} packets came, {went} went or are held");
    }

    fn leave(mut self) {
        self.net.set_faults(Faults::default());
        for client in &self.clients {
            client.end.set_room(1 << 30);
            client.end.close();
        }
        for _ in 0..40 {
            (0..WORKERS).for_each(|at| self.turn(at));
        }
        self.check();
        for worker in &self.workers {
            let core = worker.core();
            assert!(!worker.has_work(), "a worker does not come to rest");
            assert_eq!(core.memory_held(), (0, true), "memory of nobody is held");
            assert_eq!((core.directory().keys(), core.directory().acquaintances()), (0, 0), "nobody is remembered");
            assert_eq!((core.stats().connections.get(), core.stats().home_connections.get()), (0, 0));
        }
    }
}

impl Client {
    fn send(&mut self, kind: u8, payload: &[u8]) {
        let mut frame = vec![kind];
        frame.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        frame.extend_from_slice(payload);
        let mut wire = Vec::new();
        self.transport.seal_into(&frame, &mut wire).expect("the client's records");
        self.end.write(&wire);
    }
}

fn key(n: u8) -> NodeKey {
    NodeKey([n + 1; 32])
}

/// Two ends of one TLS connection, as if a handshake had been. All connections have the same keys, which matters to
/// nobody here, and makes runs repeatable.
fn pair() -> (Transport, Transport) {
    let end = |tx: u8, rx: u8| {
        let secrets = |label: u8| ConnectionTrafficSecrets::Chacha20Poly1305 {
            key: AeadKey::from([label; 32]),
            iv: Iv::copy(&[label; 12]),
        };
        let secrets = ExtractedSecrets { tx: (0, secrets(tx)), rx: (0, secrets(rx)) };
        Transport::Tls13(Box::new(RecordLayer::new(secrets, None).expect("a suite of TLS 1.3")))
    };
    (end(1, 2), end(2, 1))
}
