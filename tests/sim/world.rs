//! Workers, clients and a scheduler on one thread, driven by one seed, and the invariants.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use derpring::driver::sim::{Faults, Net, Random, Sim, SimSocket};
use derpring::proto::key::NodeKey;
use derpring::proto::ws::{Step, Unframer};
use derpring::stats::DropReason;
use derpring::tls::{RecordLayer, Transport};
use derpring::worker::bridge::{Command, Handover, Identity};
use derpring::worker::egress::Bounds;
use derpring::worker::{Common, Settings, Worker};
use rustls::crypto::cipher::{AeadKey, Iv};
use rustls::{ConnectionTrafficSecrets, ExtractedSecrets};

use crate::bugs::Bug;
use crate::client::{Client, Got, Key, WebSocket};

/// What a run is made of.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    workers: usize,
    peers: usize,
    sessions: usize,
    steps: usize,
    faults: bool,
    misbehave: bool,
    /// Of 256 steps, so many begin with a session that shall move.
    moves: u8,
    /// Of 256 runs, so many drain before their end.
    drains: u8,
    bug: Option<Bug>,
}

impl Plan {
    pub fn everything() -> Self {
        Self {
            workers: 3,
            peers: 9,
            sessions: 24,
            steps: 260,
            faults: true,
            misbehave: true,
            moves: 128,
            drains: 80,
            bug: None,
        }
    }

    pub fn churn() -> Self {
        Self {
            workers: 3,
            peers: 6,
            sessions: 40,
            steps: 300,
            faults: false,
            misbehave: false,
            moves: 0,
            drains: 0,
            bug: None,
        }
    }

    /// Everybody moves all the time.
    pub fn nomads() -> Self {
        Self { moves: 255, drains: 128, ..Self::churn() }
    }

    pub fn with(bug: Bug) -> Self {
        Self { bug: Some(bug), ..Self::everything() }
    }
}

/// How often things happened, so that a bed in which they do not is noticed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    sessions: u64,
    packets: u64,
    dropped_full: u64,
    gone: u64,
    not_here: u64,
    present: u64,
    health: u64,
    healthy_again: u64,
    pongs: u64,
    resets: u64,
    closes: u64,
    doomed: u64,
    inbox_full: u64,
    across: u64,
    moves: u64,
    tls: u64,
    websockets: u64,
    websocket_pongs: u64,
    websocket_ends: u64,
    write_timeouts: u64,
    drains: u64,
    told: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        let Self {
            sessions,
            packets,
            dropped_full,
            gone,
            not_here,
            present,
            health,
            healthy_again,
            pongs,
            resets,
            closes,
            doomed,
            inbox_full,
            across,
            moves,
            tls,
            websockets,
            websocket_pongs,
            websocket_ends,
            write_timeouts,
            drains,
            told,
        } = other;
        self.sessions += sessions;
        self.packets += packets;
        self.dropped_full += dropped_full;
        self.gone += gone;
        self.not_here += not_here;
        self.present += present;
        self.health += health;
        self.healthy_again += healthy_again;
        self.pongs += pongs;
        self.resets += resets;
        self.closes += closes;
        self.doomed += doomed;
        self.inbox_full += inbox_full;
        self.across += across;
        self.moves += moves;
        self.tls += tls;
        self.websockets += websockets;
        self.websocket_pongs += websocket_pongs;
        self.websocket_ends += websocket_ends;
        self.write_timeouts += write_timeouts;
        self.drains += drains;
        self.told += told;
    }

    pub fn moves(&self) -> u64 {
        self.moves
    }

    pub fn assert_everything_happened(&self) {
        let seen = [
            ("packets", self.packets),
            ("packets dropped by a full queue", self.dropped_full),
            ("departures", self.gone),
            ("unknown destinations", self.not_here),
            ("presence", self.present),
            ("health", self.health),
            ("health withdrawn", self.healthy_again),
            ("pongs", self.pongs),
            ("resets", self.resets),
            ("closes", self.closes),
            ("clients that had to be closed", self.doomed),
            ("full inboxes", self.inbox_full),
            ("packets across workers", self.across),
            ("moves to another worker", self.moves),
            ("TLS sessions", self.tls),
            ("WebSocket sessions", self.websockets),
            ("answers to WebSocket pings", self.websocket_pongs),
            ("WebSockets that were ended in words", self.websocket_ends),
            ("write timeouts", self.write_timeouts),
            ("drains", self.drains),
            ("Restarting", self.told),
        ];
        for (what, count) in seen {
            assert!(count > 0 || self.sessions < 1000, "nothing tested: {what}");
        }
    }
}

pub struct World {
    plan: Plan,
    random: Random,
    net: Net,
    common: Arc<Common<SimSocket>>,
    workers: Vec<Worker<Sim>>,
    clients: Vec<Client>,
    /// For each client: peers whose packets it got from a connection, with that connection, since it was last told
    /// that the peer is gone.
    heard: Vec<HashMap<Key, u32>>,
    /// For each watcher: who is here as far as it was told.
    watched: HashMap<usize, HashSet<Key>>,
    delivered: HashSet<(u32, u32)>,
    /// When each worker is told to drain.
    drain_at: Vec<Option<usize>>,
    tally: Tally,
}

impl World {
    pub fn new(seed: u64, plan: Plan) -> Self {
        let mut random = Random::new(seed);
        let faults = if plan.faults {
            Faults { short_reads: random.chance(160), short_writes: random.chance(160), stalls: random.below(80) as u8 }
        } else {
            Faults::default()
        };
        let net = Net::new(seed ^ 0xfeed, faults);
        let inbox = if plan.faults { 1 + random.below(4) } else { 64 };
        let common = Common::new(plan.workers, inbox).expect("eventfds");
        let settings = Settings {
            bounds: Bounds { packets: 40, bytes: 96 * 1024, packets_min: 8 },
            chunks_max: 64 + random.below(400),
            run_bytes: 600,
            write_timeout: Duration::from_secs(2),
            moves: true,
            busy_poll: Duration::ZERO,
            round_trips: true,
            server_key: NodeKey([0xee; 32]),
            seed,
        };
        let workers = (0..plan.workers)
            .map(|me| Worker::new(net.driver(), me as u16, settings.clone(), common.clone()))
            .collect();
        let drains = random.chance(plan.drains);
        let drain_at = (0..plan.workers)
            // Not all at once, and before everything is over.
            .map(|_| drains.then(|| plan.steps / 2 + random.below(plan.steps / 3)))
            .collect();
        Self {
            plan,
            random,
            net,
            common,
            workers,
            clients: Vec::new(),
            heard: Vec::new(),
            watched: HashMap::new(),
            delivered: HashSet::new(),
            drain_at,
            tally: Tally::default(),
        }
    }

    pub fn run(mut self) -> Result<Tally, String> {
        let every = (self.plan.steps / self.plan.sessions).max(1);
        for step in 0..self.plan.steps {
            if step % every == 0 && self.clients.len() < self.plan.sessions {
                self.login();
            }
            self.act();
            self.drain_some(step);
            self.move_some();
            self.turn_some()?;
            self.read_some()?;
            if step % 16 == 0 {
                self.check_accounts("under way")?;
            }
            if self.random.chance(60) {
                let ms = 1 + self.random.below(900) as u64;
                self.net.advance(Duration::from_millis(ms));
            }
        }
        self.heal()?;
        self.check_reach()?;
        self.check_who_heard()?;
        self.check_counters("before the end")?;
        self.check_told()?;
        self.leave()?;
        Ok(self.tally)
    }

    fn key(&self, peer: u32) -> Key {
        let mut key = [peer as u8; 32];
        key[0] = 0x40;
        key
    }

    fn login(&mut self) {
        let id = self.clients.len() as u32;
        let peer = self.random.below(self.plan.peers) as u32;
        let key = self.key(peer);
        let room = if self.random.chance(40) { 300 + self.random.below(3000) } else { 1 << 20 };
        let (socket, end) = self.net.connect(room);
        let (ours, theirs) = if self.random.chance(128) {
            self.tally.tls += 1;
            tls_pair(id)
        } else {
            (Transport::Plain, Transport::Plain)
        };
        let mesh = self.random.chance(40);
        let mut client = Client::new(id, peer, key, mesh, end, theirs);
        if self.random.chance(80) {
            client.websocket = Some(WebSocket::new(self.random.next()));
            self.tally.websockets += 1;
        }
        self.tally.sessions += 1;
        // Some of what the client sends first has reached the edge, cut anywhere.
        let mut early = Vec::new();
        for _ in 0..self.random.below(4) {
            let to = self.random.below(self.plan.peers) as u32;
            let to_key = self.key(to);
            early.extend(client.packet(&to_key, to, false, 20 + self.random.below(300)));
        }
        let cut = if early.is_empty() { 0 } else { self.random.below(early.len() + 1) };
        client.end.write(&early[cut..]);
        early.truncate(cut);
        let mut websocket = client.websocket.as_ref().map(|_| Box::<Unframer>::default());
        let (wire_in, plain_in) = match (&ours, &mut websocket) {
            (Transport::Plain, None) => (Vec::new(), early),
            (Transport::Plain, Some(unframer)) => (Vec::new(), unframed(unframer, early)),
            _ => (early, Vec::new()),
        };
        let mut greeting = vec![0x03, 0, 0, 0, 4];
        greeting.extend_from_slice(b"hello"[..4].as_ref());
        let handover = Handover {
            socket,
            transport: ours,
            wire_in,
            plain_in,
            greeting,
            identity: Identity {
                key: NodeKey(key),
                address: None,
                mesh,
                prober: false,
                not_ideal: false,
                websocket: websocket.is_some(),
            },
            websocket,
        };
        let worker = self.random.below(self.plan.workers);
        assert!(self.common.commands[worker].push(Command::Adopt(Box::new(handover))).is_ok());
        if mesh && self.random.chance(128) {
            client.send_frame(0x10, b"");
            self.watched.insert(self.clients.len(), HashSet::new());
        }
        self.clients.push(client);
        self.heard.push(HashMap::new());
    }

    /// A few random clients do something.
    fn act(&mut self) {
        for _ in 0..4 {
            if self.clients.is_empty() {
                return;
            }
            let at = self.random.below(self.clients.len());
            if self.clients[at].over || self.clients[at].doomed {
                continue;
            }
            match self.random.below(100) {
                0..70 => self.send_packets(at),
                70..76 => {
                    let data = self.random.next().to_be_bytes();
                    self.clients[at].pings.push(data);
                    self.clients[at].send_frame(0x12, &data);
                }
                76..80 => {
                    let home = self.random.below(2) as u8;
                    self.clients[at].send_frame(0x07, &[home]);
                }
                80..83 => {
                    let junk = vec![7; self.random.below(5000)];
                    self.clients[at].send_frame(0x42, &junk);
                }
                83..86 => self.clients[at].reading = !self.clients[at].reading,
                86..88 if self.clients[at].mesh => self.forward(at),
                88..89 if self.clients[at].mesh && self.plan.misbehave => {
                    let peer = self.random.below(self.plan.peers) as u32;
                    let key = self.key(peer);
                    for other in self.clients.iter_mut().filter(|c| c.key == key) {
                        other.doomed = true;
                    }
                    self.clients[at].send_frame(0x11, &key);
                }
                89..91 if self.plan.misbehave => {
                    // Half a frame, then the end.
                    let frame = self.clients[at].frame(0x04, &[9; 200]);
                    let cut = 1 + self.random.below(frame.len() - 1);
                    self.clients[at].end.write(&frame[..cut]);
                    self.end(at, false);
                }
                91..93 if self.plan.misbehave => self.end(at, true),
                93..95 if self.plan.misbehave => {
                    self.misbehave(at);
                    self.clients[at].doomed = true;
                    self.tally.doomed += 1;
                }
                95..99 => self.end(at, false),
                _ => {}
            }
        }
    }

    fn end(&mut self, at: usize, reset: bool) {
        self.clients[at].over = true;
        if reset {
            self.tally.resets += 1;
            self.clients[at].end.reset();
        } else {
            self.tally.closes += 1;
            self.clients[at].end.close();
        }
        self.watched.remove(&at);
    }

    fn misbehave(&mut self, at: usize) {
        let client = &mut self.clients[at];
        if let Some(websocket) = &mut client.websocket
            && self.random.chance(128)
        {
            let bytes = match self.random.below(6) {
                0 => websocket.frame(0x81, b"text"),
                1 => vec![0x82, 3, 1, 2, 3],
                2 => websocket.frame(0xc2, b"reserved"),
                3 => websocket.frame(0x80, b"of nothing"),
                4 => [&[0x82, 0xff][..], &[0, 0, 0, 1, 0, 0, 0, 0], &[0; 4]].concat(),
                _ => websocket.frame(0x88, &1000_u16.to_be_bytes()),
            };
            let sealed = client.seal(&bytes);
            client.end.write(&sealed);
            return;
        }
        match self.random.below(5) {
            0 => client.send_frame(0x04, &[1; 31]),
            1 => {
                let mut frame = vec![0x04];
                frame.extend_from_slice(&u32::MAX.to_be_bytes());
                let sealed = client.wrap(&frame);
                client.end.write(&sealed);
            }
            2 => client.send_frame(0x12, &[1; 7]),
            3 => client.send_frame(0x07, &[1, 2]),
            _ if client.mesh => client.send_frame(0x11, &[1; 31]),
            _ => client.send_frame(0x10, b""),
        }
    }

    fn send_packets(&mut self, at: usize) {
        let to = self.random.below(self.plan.peers + 1) as u32;
        let to_key = self.key(to);
        let burst = if self.random.chance(30) { 60 } else { 1 + self.random.below(6) };
        let disco = self.random.chance(60);
        let mut bytes = Vec::new();
        for _ in 0..burst {
            let len = match self.random.below(20) {
                0 if self.plan.faults => 20_000 + self.random.below(45_000),
                1..4 => 20,
                _ => 20 + self.random.below(1400),
            };
            bytes.extend(self.clients[at].packet(&to_key, to, disco, len));
        }
        self.clients[at].end.write(&bytes);
    }

    /// A mesh peer brings a packet of somebody who is not here.
    fn forward(&mut self, at: usize) {
        let to = self.random.below(self.plan.peers) as u32;
        let to_key = self.key(to);
        let packet = self.clients[at].packet(&to_key, to, false, 20);
        // Only plain sessions can take the frame apart again.
        if !matches!(self.clients[at].transport, Transport::Plain) || self.clients[at].websocket.is_some() {
            self.clients[at].end.write(&packet);
            return;
        }
        let own = self.clients[at].key;
        let mut frame = vec![0x0a];
        frame.extend_from_slice(&((packet.len() - 5 + 32) as u32).to_be_bytes());
        frame.extend_from_slice(&own);
        frame.extend_from_slice(&packet[5..]);
        self.clients[at].end.write(&frame);
    }

    /// Some session shall go to another worker, whatever it is doing.
    fn move_some(&mut self) {
        if !self.random.chance(self.plan.moves) {
            return;
        }
        let (from, to) = (self.random.below(self.plan.workers), self.random.below(self.plan.workers));
        let slots = self.workers[from].core().slots();
        if slots > 0 {
            let slot = self.random.below(slots as usize) as u32;
            self.workers[from].begin_move(slot, to as u16);
        }
    }

    fn drain_some(&mut self, step: usize) {
        for worker in 0..self.plan.workers {
            if self.drain_at[worker] == Some(step) {
                let reconnect_spread = Duration::from_secs(10);
                assert!(self.common.commands[worker].push(Command::Drain { reconnect_spread }).is_ok());
                self.tally.drains += 1;
            }
        }
    }

    /// Of a relay that will stop everybody has heard once, wherever they were and are; of another one nobody.
    fn check_told(&self) -> Result<(), String> {
        let expected = u32::from(self.drain_at[0].is_some());
        for at in 0..self.clients.len() {
            let (told, alive) = (self.clients[at].told, !self.clients[at].over && self.clients[at].greeted);
            if told > expected || (alive && told != expected) {
                return Err(format!("client {at} heard {told} times of a restart, and not {expected} times"));
            }
        }
        Ok(())
    }

    fn turn_some(&mut self) -> Result<(), String> {
        for _ in 0..self.plan.workers {
            let at = self.random.below(self.plan.workers);
            if self.plan.faults && self.random.chance(60) {
                continue;
            }
            self.turn(at)?;
        }
        Ok(())
    }

    fn turn(&mut self, at: usize) -> Result<(), String> {
        if let Some(bug) = self.plan.bug {
            let directory = self.workers[at].core().directory();
            let newest = |key: &NodeKey| directory.find(key).map(|id| directory.peer(id).active());
            bug.strike(&self.common.inboxes[at], at as u16, &mut self.random, newest);
        }
        self.workers[at].turn().map_err(|e| e.to_string())?;
        while self.common.events.pop().is_some() {}
        Ok(())
    }

    fn read_some(&mut self) -> Result<(), String> {
        for _ in 0..3 {
            if self.clients.is_empty() {
                return Ok(());
            }
            let at = self.random.below(self.clients.len());
            if self.clients[at].reading {
                let max = if self.random.chance(100) { 1 + self.random.below(2000) } else { usize::MAX };
                self.read(at, max)?;
            }
        }
        Ok(())
    }

    fn read(&mut self, at: usize, max: usize) -> Result<(), String> {
        let closed = self.clients[at].end.is_closed_by_relay();
        let got = self.clients[at].read(max)?;
        for got in got {
            self.judge(at, got)?;
        }
        if closed && max == usize::MAX {
            self.clients[at].over = true;
            self.watched.remove(&at);
        }
        Ok(())
    }

    fn judge(&mut self, at: usize, got: Got) -> Result<(), String> {
        let who = format!("client {at}");
        match got {
            Got::Packet { key, stamp } => {
                let sender = &self.clients[stamp.from_conn as usize];
                if sender.key != key {
                    return Err(format!("{who}: {stamp:?} came under another key"));
                }
                if !self.delivered.insert((stamp.from_conn, stamp.number)) {
                    return Err(format!("{who}: {stamp:?} came twice"));
                }
                self.heard[at].insert(key, stamp.from_conn);
                self.tally.packets += 1;
            }
            Got::Gone { key, reason: 0 } => {
                if let Some(conn) = self.heard[at].remove(&key) {
                    let sender = &self.clients[conn as usize];
                    if !sender.over && !sender.doomed && !sender.end.is_closed_by_relay() {
                        return Err(format!(
                            "{who} was told that the peer of connection {conn} is gone, and it is here"
                        ));
                    }
                }
                if let Some(watched) = self.watched.get_mut(&at) {
                    watched.remove(&key);
                }
                self.tally.gone += 1;
            }
            Got::Gone { .. } => self.tally.not_here += 1,
            Got::Present { key } => {
                if let Some(watched) = self.watched.get_mut(&at) {
                    watched.insert(key);
                }
                self.tally.present += 1;
            }
            Got::Health { text } if text.is_empty() => self.tally.healthy_again += 1,
            Got::Health { .. } => self.tally.health += 1,
            Got::Pong(data) => {
                let Some(found) = self.clients[at].pings.iter().position(|p| *p == data) else {
                    return Err(format!("{who} got a pong that it did not ask for"));
                };
                self.clients[at].pings.drain(..=found);
                self.tally.pongs += 1;
            }
            Got::Restarting => {
                self.clients[at].told += 1;
                self.tally.told += 1;
            }
            Got::KeepAlive => {}
        }
        Ok(())
    }

    /// All faults end; everything that is on its way arrives.
    fn heal(&mut self) -> Result<(), String> {
        self.net.set_faults(Faults::default());
        for at in 0..self.clients.len() {
            self.clients[at].reading = true;
            self.clients[at].end.set_room(1 << 24);
        }
        self.settle()
    }

    fn settle(&mut self) -> Result<(), String> {
        for round in 0..400 {
            for at in 0..self.plan.workers {
                self.turn(at)?;
            }
            for at in 0..self.clients.len() {
                self.read(at, usize::MAX)?;
            }
            let quiet = self.workers.iter_mut().all(|w| !w.has_work() && !w.driver_mut().has_input());
            if quiet && round > 4 {
                return Ok(());
            }
        }
        Err("the workers do not come to rest".into())
    }

    /// Connections whose clients think that they live.
    fn alive(&self) -> Vec<usize> {
        (0..self.clients.len()).filter(|at| !self.clients[*at].over && self.clients[*at].greeted).collect()
    }

    /// Every peer that is here can be reached by whoever is here; among many, some pairs stand for all.
    fn check_reach(&mut self) -> Result<(), String> {
        const PAIRS: usize = 48;
        let alive = self.alive();
        let mut pairs: Vec<_> = alive.iter().flat_map(|from| alive.iter().map(|to| (*from, *to))).collect();
        while pairs.len() > PAIRS {
            let at = self.random.below(pairs.len());
            pairs.swap_remove(at);
        }
        for (from, to) in pairs {
            let (peer, key) = (self.clients[to].peer, self.clients[to].key);
            let before = self.tally.packets;
            let bytes = self.clients[from].packet(&key, peer, false, 100);
            self.clients[from].end.write(&bytes);
            self.settle_briefly()?;
            if self.tally.packets != before + 1 {
                return Err(format!("client {from} cannot reach client {to}, and both are here"));
            }
        }
        Ok(())
    }

    fn settle_briefly(&mut self) -> Result<(), String> {
        for _ in 0..3 {
            for at in 0..self.plan.workers {
                self.turn(at)?;
            }
        }
        for at in 0..self.clients.len() {
            self.read(at, usize::MAX)?;
        }
        Ok(())
    }

    /// Whoever has heard of a peer that is not here any more has been told so, and watchers know exactly who is here.
    fn check_who_heard(&mut self) -> Result<(), String> {
        self.settle()?;
        let here: HashSet<Key> = self.alive().iter().map(|at| self.clients[*at].key).collect();
        for at in self.alive() {
            for key in self.heard[at].keys() {
                if !here.contains(key) {
                    return Err(format!("client {at} was never told that peer {key:?} has gone"));
                }
            }
            if let Some(watched) = self.watched.get(&at)
                && *watched != here
            {
                return Err(format!("watcher {at} knows {} peers, {} are here", watched.len(), here.len()));
            }
        }
        Ok(())
    }

    /// What the counters say adds up at any moment, whatever is on its way.
    fn check_accounts(&self, when: &str) -> Result<(), String> {
        let (mut came, mut went, mut moving, mut between) = (0, 0, 0_u64, 0_u64);
        for (at, worker) in self.workers.iter().enumerate() {
            let stats = worker.core().stats();
            let dropped = |reason: DropReason| -> u64 {
                stats.dropped_packets[reason as usize].iter().map(|cell| cell.get()).sum()
            };
            let here = stats.received() + stats.packets_forwarded_in.get();
            let nowhere = dropped(DropReason::UnknownDest) + dropped(DropReason::UnknownDestOnFwd);
            let routed = stats.packets_local.get() + stats.packets_to_workers.get() + nowhere;
            if here != routed {
                return Err(format!("{when}: worker {at} received {here} packets and routed {routed}"));
            }
            let (queued, held) = (stats.queued_packets.get(), worker.core().packets_queued());
            if queued != held {
                return Err(format!("{when}: worker {at} counts {queued} packets in queues that hold {held}"));
            }
            let bytes = stats.queued_bytes.get();
            if bytes > 1 << 40 || (queued == 0 && bytes != 0) {
                return Err(format!("{when}: worker {at} counts {bytes} bytes in {queued} packets"));
            }
            came += here;
            went += stats.packets_sent.get() + stats.dropped() + queued;
            between = between.wrapping_add(stats.packets_to_workers.get() - stats.outbox_dropped.get());
            between = between.wrapping_sub(stats.packets_from_workers.get());
            moving = moving.wrapping_add(stats.packets_moved_out.get()).wrapping_sub(stats.packets_moved_in.get());
        }
        went += between.wrapping_add(moving);
        if came == went { Ok(()) } else { Err(format!("{when}: {came} packets came, {went} are accounted for")) }
    }

    fn check_counters(&mut self, when: &str) -> Result<(), String> {
        self.check_accounts(when)?;
        let (mut came, mut went, mut held) = (0, 0, 0);
        for worker in &self.workers {
            let stats = worker.core().stats();
            came += stats.received() + stats.packets_forwarded_in.get();
            went += stats.packets_sent.get() + stats.dropped();
            held += worker.core().packets_held();
        }
        if came != went + held {
            return Err(format!("{when}: {came} packets came, {went} went, {held} are held"));
        }
        for worker in &self.workers {
            let directory = worker.core().directory();
            let here: HashSet<Key> = self.alive().iter().map(|at| self.clients[*at].key).collect();
            if directory.keys() != here.len() {
                return Err(format!("{when}: a directory has {} keys, {} are here", directory.keys(), here.len()));
            }
        }
        Ok(())
    }

    /// Everybody leaves; nothing may stay behind.
    fn leave(&mut self) -> Result<(), String> {
        for at in 0..self.clients.len() {
            if !self.clients[at].over {
                self.clients[at].end.close();
                self.clients[at].over = true;
            }
        }
        self.settle()?;
        for websocket in self.clients.iter().filter_map(|client| client.websocket.as_ref()) {
            self.tally.websocket_pongs += websocket.pongs;
            self.tally.websocket_ends += u64::from(websocket.closed.is_some());
        }
        self.check_counters("at the end")?;
        for (at, worker) in self.workers.iter().enumerate() {
            let core = worker.core();
            let (chunks, settled) = core.memory_held();
            if chunks != 0 {
                return Err(format!("worker {at} holds {chunks} chunks of nobody"));
            }
            if !settled {
                return Err(format!("worker {at} misses batches"));
            }
            if core.directory().acquaintances() != 0 {
                return Err(format!("worker {at} remembers {} acquaintances", core.directory().acquaintances()));
            }
            if core.sessions_used() != 0 {
                return Err(format!("worker {at} keeps {} slots for nobody", core.sessions_used()));
            }
            if core.directory().connections() != 0 || core.stats().connections.get() != 0 {
                return Err(format!("worker {at} counts connections of nobody"));
            }
            self.tally.dropped_full +=
                core.stats().dropped_packets[DropReason::QueueHead as usize].iter().map(|c| c.get()).sum::<u64>();
            self.tally.inbox_full += core.stats().inbox_full.get();
            self.tally.moves += core.stats().moves.get();
            self.tally.across += core.stats().packets_to_workers.get();
            self.tally.write_timeouts += core.stats().write_timeouts.get();
        }
        Ok(())
    }
}

/// What the edge makes of the messages that have come to it.
fn unframed(unframer: &mut Unframer, mut messages: Vec<u8>) -> Vec<u8> {
    let (mut at, mut out) = (0, Vec::new());
    loop {
        match unframer.next(&mut messages, at) {
            Step::Data { start, end } => {
                out.extend_from_slice(&messages[start..end]);
                at = end;
            }
            Step::Ping { used } => at = used,
            Step::Need => return out,
            end => panic!("a client that keeps to the rules: {end:?}"),
        }
    }
}

/// Two ends of one TLS connection, as if a handshake had been.
pub fn tls_pair(id: u32) -> (Transport, Transport) {
    let secrets = |label: u8| {
        let mut key = [label; 32];
        key[..4].copy_from_slice(&id.to_be_bytes());
        ConnectionTrafficSecrets::Chacha20Poly1305 { key: AeadKey::from(key), iv: Iv::copy(&[label; 12]) }
    };
    let end = |tx: u8, rx: u8| {
        let secrets = ExtractedSecrets { tx: (0, secrets(tx)), rx: (0, secrets(rx)) };
        Transport::Tls13(Box::new(RecordLayer::new(secrets, None).expect("a suite of TLS 1.3")))
    };
    (end(1, 2), end(2, 1))
}
