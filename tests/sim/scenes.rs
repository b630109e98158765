//! Single scenes on the simulated network, each about one promise.

use std::sync::Arc;
use std::time::Duration;

use derpring::driver::sim::{Faults, Net, Random, Sim, SimSocket};
use derpring::proto::key::NodeKey;
use derpring::stats::{CloseReason, DropReason};
use derpring::tls::Transport;
use derpring::worker::bridge::{Command, Event, Handover, Identity};
use derpring::worker::egress::Bounds;
use derpring::worker::listing::Request;
use derpring::worker::{Common, Next, Settings, Worker};

use crate::client::{Client, Got};
use crate::world::tls_pair;

const QUEUE: u32 = 40;

struct Stage {
    net: Net,
    common: Arc<Common<SimSocket>>,
    workers: Vec<Worker<Sim>>,
    clients: Vec<Client>,
    /// Who joins from now on speaks TLS.
    tls: bool,
}

impl Stage {
    fn new(workers: usize) -> Self {
        Self::with(workers, QUEUE, Net::new(1, Faults::default()))
    }

    fn with(workers: usize, queue: u32, net: Net) -> Self {
        Self::configured(workers, net, |settings| settings.bounds.packets = queue)
    }

    fn configured(workers: usize, net: Net, change: impl FnOnce(&mut Settings)) -> Self {
        let common = Common::new(workers, 4).unwrap();
        let mut settings = Settings {
            bounds: Bounds { packets: QUEUE, bytes: 1 << 24, packets_min: 8 },
            chunks_max: 10_000,
            run_bytes: 600,
            write_timeout: Duration::from_secs(2),
            moves: true,
            busy_poll: Duration::ZERO,
            round_trips: true,
            server_key: NodeKey([0xee; 32]),
            seed: 1,
        };
        change(&mut settings);
        let workers =
            (0..workers).map(|me| Worker::new(net.driver(), me as u16, settings.clone(), common.clone())).collect();
        Self { net, common, workers, clients: Vec::new(), tls: false }
    }

    /// Logs in on a worker; the number of the client and of its peer are the same.
    fn join(&mut self, worker: usize) -> usize {
        let id = self.clients.len() as u32;
        self.join_as(worker, id)
    }

    fn join_as(&mut self, worker: usize, peer: u32) -> usize {
        let at = self.adopt_as(worker, peer);
        assert!(self.read(at).is_empty() && self.clients[at].greeted, "the login is answered");
        at
    }

    /// Logs in, and has not read what came.
    fn adopt(&mut self, worker: usize) -> usize {
        let id = self.clients.len() as u32;
        self.adopt_as(worker, id)
    }

    fn adopt_as(&mut self, worker: usize, peer: u32) -> usize {
        let id = self.clients.len() as u32;
        let key = [peer as u8 + 1; 32];
        let (socket, end) = self.net.connect(1 << 24);
        let (transport, theirs) = if self.tls { tls_pair(id) } else { (Transport::Plain, Transport::Plain) };
        let handover = Handover {
            socket,
            transport,
            wire_in: Vec::new(),
            plain_in: Vec::new(),
            greeting: vec![3, 0, 0, 0, 0],
            identity: Identity {
                key: NodeKey(key),
                address: None,
                mesh: false,
                prober: false,
                not_ideal: false,
                websocket: false,
            },
            websocket: None,
        };
        assert!(self.common.commands[worker].push(Command::Adopt(Box::new(handover))).is_ok());
        self.clients.push(Client::new(id, peer, key, false, end, theirs));
        self.run(6);
        self.clients.len() - 1
    }

    fn run(&mut self, turns: usize) {
        for _ in 0..turns {
            for at in 0..self.workers.len() {
                self.turn(at);
            }
        }
    }

    fn turn(&mut self, worker: usize) -> Next {
        self.workers[worker].turn().unwrap()
    }

    fn read(&mut self, at: usize) -> Vec<Got> {
        self.clients[at].read(usize::MAX).unwrap()
    }

    fn send(&mut self, from: usize, to: usize, packets: usize, disco: bool, len: usize) {
        let (key, peer) = (self.clients[to].key, self.clients[to].peer);
        for _ in 0..packets {
            let packet = self.clients[from].packet(&key, peer, disco, len);
            self.clients[from].end.write(&packet);
        }
    }

    fn close_reason(&self) -> Option<CloseReason> {
        self.common.events.pop().map(|Event::Closed(end)| end.reason)
    }

    fn dropped(&self, worker: usize, reason: DropReason) -> [u64; 2] {
        let cells = &self.workers[worker].core().stats().dropped_packets[reason as usize];
        [cells[0].get(), cells[1].get()]
    }
}

fn numbers(got: &[Got]) -> Vec<u32> {
    got.iter().filter_map(|g| if let Got::Packet { stamp, .. } = g { Some(stamp.number) } else { None }).collect()
}

#[test]
fn a_keepalive_comes_each_minute_and_a_bit() {
    let mut stage = Stage::new(1);
    let client = stage.join(0);
    let mut seconds = Vec::new();
    for second in 1..=140 {
        stage.net.advance(Duration::from_secs(1));
        stage.run(1);
        for got in stage.read(client) {
            assert!(matches!(got, Got::KeepAlive), "{got:?}");
            seconds.push(second);
        }
    }
    assert_eq!(seconds.len(), 2, "at {seconds:?}");
    assert!((60..=66).contains(&seconds[0]), "the first at {}", seconds[0]);
    assert!((60..=66).contains(&(seconds[1] - seconds[0])), "the second at {}", seconds[1]);
}

#[test]
fn who_takes_nothing_is_closed_and_who_takes_little_is_not() {
    let mut stage = Stage::new(1);
    let (sender, stuck, slow) = (stage.join(0), stage.join(0), stage.join(0));
    stage.clients[stuck].end.set_room(500);
    stage.clients[slow].end.set_room(500);
    let mut got = Vec::new();
    for _ in 0..100 {
        stage.send(sender, stuck, 1, false, 400);
        stage.send(sender, slow, 1, false, 400);
        stage.net.advance(Duration::from_millis(100));
        stage.run(2);
        got.extend(numbers(&stage.clients[slow].read(60).unwrap()));
    }
    assert_eq!(stage.close_reason(), Some(CloseReason::WriteTimeout));
    assert_eq!(stage.close_reason(), None, "only one was closed");
    assert!(stage.clients[stuck].end.is_closed_by_relay());
    assert!(!stage.clients[slow].end.is_closed_by_relay());
    assert!(got.len() > 10 && got.is_sorted(), "{got:?}");
}

#[test]
fn a_full_queue_keeps_the_newest_and_disco_is_not_pushed_out() {
    let mut stage = Stage::new(1);
    let (sender, receiver) = (stage.join(0), stage.join(0));
    stage.clients[receiver].end.set_room(0);
    stage.send(sender, receiver, 5, true, 100);
    stage.run(1);
    stage.send(sender, receiver, 500, false, 100);
    stage.run(1);
    stage.clients[receiver].end.set_room(1 << 20);
    stage.run(4);
    let got = numbers(&stage.read(receiver));
    // Five disco packets, numbered first, and the newest data.
    assert_eq!(got[..5], [1, 2, 3, 4, 5]);
    assert_eq!(got[got.len() - QUEUE as usize..], (506 - QUEUE..506).collect::<Vec<_>>());
    let [data, disco] = stage.dropped(0, DropReason::QueueHead);
    assert_eq!((data as usize + got.len(), disco), (505, 0));
}

/// A worker that does not run for a while: whoever sends to it goes on, loses its oldest data, and holds little.
#[test]
fn a_stuck_worker_costs_data_and_nothing_else() {
    let mut stage = Stage::new(2);
    let (sender, receiver, bystander) = (stage.join(0), stage.join(1), stage.join(0));
    let leaver = stage.join(0);
    stage.send(leaver, receiver, 1, false, 100);
    stage.run(4);
    assert_eq!(numbers(&stage.read(receiver)), [1]);
    stage.send(sender, receiver, 3, true, 100);
    let mut sent = 3;
    for _ in 0..400 {
        stage.send(sender, receiver, 50, false, 1000);
        sent += 50;
        stage.send(sender, bystander, 1, false, 100);
        stage.turn(0);
        stage.turn(0);
        assert_eq!(numbers(&stage.read(bystander)).len(), 1, "others are served");
    }
    stage.clients[leaver].end.close();
    stage.turn(0);
    let held = stage.workers[0].core().packets_held();
    assert!(held <= 2048, "{held} packets wait in front of one worker");
    let [data, disco] = stage.dropped(0, DropReason::QueueHead);
    assert!(data > 0 && disco == 0, "{data} data and {disco} disco packets dropped");
    // It runs again: what was kept arrives in order, the departure behind everything.
    let mut got = Vec::new();
    for _ in 0..2000 {
        stage.run(1);
        got.extend(stage.read(receiver));
    }
    let numbers = numbers(&got);
    assert_eq!(numbers.iter().filter(|n| **n <= 3).count(), 3, "disco packets arrive");
    assert!(numbers.len() < sent);
    assert!(matches!(got.last(), Some(Got::Gone { reason: 0, .. }) | Some(Got::Packet { .. })));
    assert_eq!(got.iter().filter(|g| matches!(g, Got::Gone { .. })).count(), 1, "the departure arrives");
}

/// A turn in which many are sent something does not keep all of it until its end.
#[test]
fn many_receivers_in_one_turn_are_sent_to_before_its_end() {
    const PAIRS: usize = 80;
    let mut stage = Stage::configured(1, Net::new(1, Faults::default()), |settings| settings.chunks_max = PAIRS / 2);
    let pairs: Vec<_> = (0..PAIRS).map(|_| (stage.join(0), stage.join(0))).collect();
    for &(from, to) in &pairs {
        stage.send(from, to, 1, false, 100);
    }
    let before = stage.workers[0].core().stats().packets_received[0].get();
    stage.turn(0);
    assert_eq!(stage.workers[0].core().stats().packets_received[0].get() - before, PAIRS as u64, "all in one turn");
    for &(_, to) in &pairs {
        assert_eq!(numbers(&stage.read(to)).len(), 1, "memory for half of them is enough");
    }
}

#[test]
fn a_worker_tells_page_by_page_who_is_there() {
    let mut stage = Stage::new(1);
    let clients: Vec<_> = (0..5).map(|_| stage.join(0)).collect();
    stage.send(clients[0], clients[3], 3, false, 100);
    stage.run(2);
    stage.read(clients[3]);
    stage.net.advance(Duration::from_secs(3));
    // A frame for nobody, and one for a peer that takes nothing.
    stage.clients[clients[1]].send_frame(0x04, &[&[0x99; 32][..], b"nowhere"].concat());
    stage.clients[clients[3]].end.set_room(0);
    stage.send(clients[1], clients[3], 1, true, 200);
    stage.clients[clients[2]].end.close();
    stage.run(2);
    stage.net.advance(Duration::from_millis(500));
    stage.run(1);
    let (mut from, mut pages, mut rows) = (Some(0), Vec::new(), Vec::new());
    while let Some(slot) = from {
        let (reply, mut page) = tokio::sync::oneshot::channel();
        let request = Request { from: slot, rows: Vec::with_capacity(2), reply };
        assert!(stage.common.commands[0].push(Command::List(request)).is_ok());
        stage.run(1);
        let page = page.try_recv().expect("answered within the turn");
        pages.push(page.rows.len());
        rows.extend(page.rows);
        from = page.next;
    }
    assert_eq!(pages, [2, 2], "the slot of who has left is passed over");
    let row = |at: usize| rows.iter().find(|row| row.key == NodeKey([at as u8 + 1; 32])).unwrap();
    assert_eq!((row(0).totals.packets_in, row(1).totals.packets_in), (3, 2));
    assert_eq!((row(3).totals.packets_out, row(4).totals.packets_out), (3, 0));
    assert_eq!(row(1).totals.drops[DropReason::UnknownDest as usize], 1);
    assert_eq!((row(0).queued_packets, row(3).queued_packets), (0, 1));
    assert!(row(3).queue_age.is_some_and(|age| age >= Duration::from_millis(500)) && row(0).queue_age.is_none());
    assert!(row(0).idle >= Duration::from_secs(3) && row(1).idle < Duration::from_secs(1));
    assert!(row(0).age >= Duration::from_secs(3) && row(0).tls.is_none() && row(0).worker == 0);
}

/// Much for one peer goes out from where it came in; what its socket does not take waits, whole and in order.
#[test]
fn a_run_is_sent_where_it_lies_and_its_rest_is_kept() {
    for room in [0, 1, 4, 5, 36, 37, 150, 700, 2000, 1 << 20] {
        let mut stage = Stage::new(1);
        let (sender, receiver) = (stage.join(0), stage.join(0));
        let before = stage.workers[0].core().stats().record_bytes.sum();
        // A frame that straddles two receives goes ahead of the run behind it.
        let (key, peer) = (stage.clients[receiver].key, stage.clients[receiver].peer);
        let first = stage.clients[sender].packet(&key, peer, false, 700);
        stage.clients[sender].end.write(&first[..300]);
        stage.run(1);
        stage.clients[sender].end.write(&first[300..]);
        stage.clients[receiver].end.set_room(room);
        stage.send(sender, receiver, 10, false, 100);
        stage.send(sender, receiver, 2, true, 100);
        stage.run(1);
        let stats = stage.workers[0].core().stats();
        assert_eq!(stats.received(), 13);
        assert_eq!(stats.packets_sent.get() + stats.queued_packets.get(), 13, "room {room}");
        assert_eq!(stats.queued_packets.get(), stage.workers[0].core().packets_queued());
        if room == 1 << 20 {
            let copied = stats.record_bytes.sum() - before;
            assert_eq!(copied, first.len() as u64, "the run was not copied into a chunk");
        }
        let mut got = Vec::new();
        for _ in 0..120 {
            got.extend(stage.read(receiver));
            stage.clients[receiver].end.set_room(room.max(50));
            stage.run(2);
        }
        assert_eq!(numbers(&got).len(), 13, "room {room}: {got:?}");
        assert_eq!(stage.workers[0].core().memory_held().0, 0);
    }
}

/// The same between TLS connections, of one worker and of two: each border of a record and of a frame may be where the
/// socket is full, a frame may be longer than a record, and a client may send to itself.
#[test]
fn a_run_is_sealed_where_it_was_opened_and_its_rest_is_kept() {
    for room in [0, 1, 5, 22, 700, 2000, 16_400, 16_422, 40_000, 70_000, 1 << 20] {
        for (to, worker, straddles) in [(1, 0, false), (1, 0, true), (0, 0, true), (1, 1, true)] {
            let mut stage = Stage::new(worker + 1);
            stage.tls = true;
            let (sender, receiver) = (stage.join(0), stage.join(worker));
            let to = [sender, receiver][to];
            let (key, peer) = (stage.clients[to].key, stage.clients[to].peer);
            let first = stage.clients[sender].packet(&key, peer, false, 700);
            let cut = if straddles { 300 } else { 0 };
            stage.clients[sender].end.write(&first[..cut]);
            stage.run(1);
            stage.clients[sender].end.write(&first[cut..]);
            stage.clients[to].end.set_room(room);
            stage.send(sender, to, 10, false, 100);
            stage.send(sender, to, 2, true, 100);
            stage.send(sender, to, 1, false, 40_000);
            stage.send(sender, to, 7, false, 5000);
            stage.run(2);
            assert_eq!(stage.workers[0].core().stats().received(), 21);
            let stats = stage.workers[worker].core().stats();
            let (sent, queued) = (stats.packets_sent.get(), stats.queued_packets.get());
            assert_eq!(sent + queued, 21, "room {room}");
            assert_eq!(queued, stage.workers[worker].core().packets_queued());
            assert!(room < 1 << 20 || queued == 0, "{queued} wait for no reason");
            let mut got = Vec::new();
            for _ in 0..120 {
                got.extend(stage.read(to));
                stage.clients[to].end.set_room(room.max(1000));
                stage.run(2);
            }
            assert_eq!(numbers(&got).len(), 21, "room {room}: {got:?}");
            assert!(stage.workers.iter().all(|worker| worker.core().memory_held() == (0, true)));
        }
    }
}

/// News of a sender stays between its packets when another worker sends them on from the batch.
#[test]
fn a_run_from_another_worker_ends_where_news_stands() {
    for tls in [false, true] {
        let mut stage = Stage::new(2);
        stage.tls = tls;
        let (sender, other, receiver) = (stage.join(0), stage.join(0), stage.join(1));
        stage.send(other, receiver, 1, false, 100);
        stage.run(2);
        stage.send(sender, receiver, 8, false, 1000);
        stage.send(other, receiver, 8, false, 1000);
        stage.clients[other].end.close();
        stage.turn(0);
        stage.send(sender, receiver, 8, false, 1000);
        stage.run(4);
        let got = stage.read(receiver);
        let gone = got.iter().position(|got| matches!(got, Got::Gone { .. })).expect("it is told");
        let from_other = |got: &Got| matches!(got, Got::Packet { key, .. } if *key == stage.clients[other].key);
        assert_eq!(got[..gone].iter().filter(|got| from_other(got)).count(), 9, "all before: {got:?}");
        assert_eq!((numbers(&got).len(), got.len()), (25, 26));
    }
}

/// What is sealed and cannot leave any more was lost to the connection's end, and so is what waits behind it.
#[test]
fn a_run_for_a_peer_that_is_gone_is_counted() {
    let mut stage = Stage::new(1);
    stage.tls = true;
    let (sender, receiver) = (stage.join(0), stage.join(0));
    stage.clients[receiver].end.set_room(3000);
    stage.send(sender, receiver, 30, false, 1000);
    stage.send(sender, receiver, 2, true, 1000);
    stage.run(1);
    stage.clients[receiver].end.reset();
    stage.net.advance(Duration::from_secs(10));
    stage.run(2);
    let stats = stage.workers[0].core().stats();
    assert_eq!((stats.packets_sent.get(), stats.queued_packets.get()), (0, 0), "the first record is not through");
    let lost = |reason| stage.dropped(0, reason).iter().sum::<u64>();
    assert_eq!(lost(DropReason::WriteError) + lost(DropReason::GoneDisconnected), 32);
    assert_eq!(stage.workers[0].core().memory_held().0, 0);
}

/// A packet has been sent when its end has: one whose end never left the relay was lost to the connection's.
#[test]
fn a_packet_longer_than_a_chunk_counts_where_it_ends() {
    for room in [100, 20_000, 39_000] {
        let mut stage = Stage::new(1);
        let (sender, receiver) = (stage.join(0), stage.join(0));
        stage.clients[receiver].end.set_room(0);
        stage.send(sender, receiver, 1, false, 40_000);
        stage.run(2);
        stage.clients[receiver].end.set_room(room);
        stage.run(2);
        let sent = |stage: &Stage| stage.workers[0].core().stats().packets_sent.get();
        assert_eq!(sent(&stage), 0, "room {room}");
        stage.clients[receiver].end.close();
        stage.net.advance(Duration::from_secs(10));
        stage.run(2);
        assert_eq!((sent(&stage), stage.dropped(0, DropReason::WriteError)), (0, [1, 0]), "room {room}");
        assert_eq!(stage.workers[0].core().memory_held().0, 0);
    }
}

#[test]
fn a_departure_comes_behind_the_packets_of_its_source_even_when_it_sends_and_closes_at_once() {
    for workers in [1, 2] {
        let mut stage = Stage::new(workers);
        let receiver = stage.join(0);
        for round in 0..50 {
            let sender = stage.join_as(workers - 1, 1 + round % 3);
            stage.send(sender, receiver, 3, false, 100);
            stage.clients[sender].end.close();
            stage.run(8);
            let got = stage.read(receiver);
            assert_eq!(got.len(), 4, "round {round}: {got:?}");
            let key = stage.clients[sender].key;
            assert!(matches!(got[3], Got::Gone { key: k, reason: 0 } if k == key), "round {round}: {got:?}");
        }
    }
}

#[test]
fn unknown_destinations_are_told_of_disco_packets_only_and_three_at_once() {
    let mut stage = Stage::new(1);
    let client = stage.join(0);
    let nobody = [0x77; 32];
    let ask = |stage: &mut Stage, disco, packets| {
        for _ in 0..packets {
            let packet = stage.clients[client].packet(&nobody, 99, disco, 100);
            stage.clients[client].end.write(&packet);
        }
        stage.run(2);
        stage.read(client).iter().filter(|g| matches!(g, Got::Gone { reason: 1, .. })).count()
    };
    assert_eq!(ask(&mut stage, false, 10), 0);
    assert_eq!(ask(&mut stage, true, 10), 3);
    stage.net.advance(Duration::from_millis(900));
    assert_eq!(ask(&mut stage, true, 10), 0);
    stage.net.advance(Duration::from_millis(200));
    assert_eq!(ask(&mut stage, true, 10), 1);
    stage.net.advance(Duration::from_secs(60));
    assert_eq!(ask(&mut stage, true, 10), 3);
    assert_eq!(stage.dropped(0, DropReason::UnknownDest), [10, 40]);
}

#[test]
fn a_stop_tells_everybody_and_flushes_to_those_who_read() {
    let mut stage = Stage::new(2);
    let (sender, reader, stuck) = (stage.join(0), stage.join(1), stage.join(1));
    stage.clients[reader].end.set_room(0);
    stage.clients[stuck].end.set_room(0);
    stage.send(sender, reader, 20, false, 1000);
    stage.send(sender, stuck, 20, false, 1000);
    stage.run(4);
    let stop = || Command::Stop { flush: Duration::from_secs(2), reconnect_spread: Duration::from_secs(10) };
    for commands in stage.common.commands.iter() {
        assert!(commands.push(stop()).is_ok());
    }
    stage.run(2);
    stage.clients[reader].end.set_room(1 << 20);
    stage.run(4);
    let got = stage.read(reader);
    assert_eq!(numbers(&got).len(), 20, "what was queued arrives");
    assert_eq!(got.iter().filter(|g| matches!(g, Got::Restarting)).count(), 1);
    assert!(stage.read(sender).iter().any(|g| matches!(g, Got::Restarting)));
    assert_eq!(stage.turn(1), Next::Turn, "somebody may still read");
    stage.net.advance(Duration::from_millis(2001));
    assert_eq!(stage.turn(1), Next::Finished);
    assert!(stage.clients[stuck].end.is_closed_by_relay());
}

/// Sessions go on behind a drain, those who come later are told as well, and the stop behind it tells nobody twice.
#[test]
fn a_drain_tells_everybody_once_and_ends_nothing() {
    const SPREAD: Duration = Duration::from_secs(60);
    let told = |got: &[Got]| got.iter().filter(|got| matches!(got, Got::Restarting)).count();
    let mut stage = Stage::new(2);
    let (here, there) = (stage.join(0), stage.join(1));
    let order = |stage: &mut Stage, command: fn() -> Command<SimSocket>| {
        for commands in stage.common.commands.iter() {
            assert!(commands.push(command()).is_ok());
        }
        stage.run(2);
    };
    order(&mut stage, || Command::Drain { reconnect_spread: SPREAD });
    for client in [here, there] {
        assert_eq!(told(&stage.read(client)), 1);
    }
    // Twice is not more than once.
    order(&mut stage, || Command::Drain { reconnect_spread: SPREAD });
    stage.net.advance(Duration::from_secs(30));
    stage.send(here, there, 20, false, 1000);
    stage.run(4);
    let got = stage.read(there);
    assert_eq!((numbers(&got).len(), told(&got)), (20, 0), "sessions go on");
    let late = stage.adopt(1);
    assert_eq!(told(&stage.read(late)), 1, "who comes now is told");
    stage.send(late, here, 20, false, 1000);
    stage.run(4);
    order(&mut stage, || Command::Stop { flush: Duration::from_secs(2), reconnect_spread: SPREAD });
    let got = stage.read(here);
    assert_eq!((numbers(&got).len(), told(&got)), (20, 0), "what is queued arrives, and nothing is said twice");
    stage.run(4);
    for client in [here, there, late] {
        assert_eq!(told(&stage.read(client)), 0);
        assert!(stage.clients[client].end.is_closed_by_relay());
    }
}

/// Every worker runs at its own pace, every read and write is cut anywhere, everybody talks to everybody and moves all
/// the time: each packet arrives, once and in its order, because nothing here has a reason to be dropped.
#[test]
fn nothing_is_lost_when_everybody_moves() {
    const WORKERS: usize = 3;
    const CLIENTS: usize = 6;
    let (mut moves, mut packets) = (0, 0);
    for seed in crate::seeds().take(1_000) {
        let mut random = Random::new(seed);
        let net = Net::new(seed, Faults::default());
        let mut stage = Stage::with(WORKERS, 100_000, net.clone());
        let clients: Vec<_> = (0..CLIENTS).map(|at| stage.join(at % WORKERS)).collect();
        net.set_faults(Faults { short_reads: true, short_writes: true, stalls: 60 });
        let mut expected = [0; CLIENTS];
        let mut got = [0; CLIENTS];
        for _ in 0..250 {
            let (from, to) = (clients[random.below(CLIENTS)], random.below(CLIENTS));
            let burst = 1 + random.below(12);
            let (disco, len) = (random.chance(60), 100 + random.below(3000));
            stage.send(from, clients[to], burst, disco, len);
            expected[to] += burst;
            let (at, worker) = (random.below(WORKERS), random.below(WORKERS));
            let slots = stage.workers[at].core().slots();
            let slot = random.below(slots as usize) as u32;
            stage.workers[at].begin_move(slot, worker as u16);
            for _ in 0..4 {
                stage.turn(random.below(WORKERS));
            }
            let reader = random.below(CLIENTS);
            got[reader] += numbers(&stage.read(clients[reader])).len();
        }
        net.set_faults(Faults::default());
        stage.run(60);
        for at in 0..CLIENTS {
            got[at] += numbers(&stage.read(clients[at])).len();
        }
        assert_eq!(got, expected, "seed {seed}");
        moves += stage.workers.iter().map(|w| w.core().stats().moves.get()).sum::<u64>();
        packets += expected.iter().sum::<usize>();
    }
    println!("{packets} packets, {moves} moves");
    assert!(moves > 0);
}

/// Pairs whose ends logged in on different workers find together, and the packets that cross workers cease; on a host
/// that has just started, and on one that has been up for hours or years.
#[test]
fn pairs_that_talk_across_workers_find_together() {
    const PAIRS: usize = 20;
    for (workers, up_hours) in [(2, 0), (3, 0), (2, 5), (2, 100_000)] {
        let mut stage = Stage::with(workers, 1000, Net::new(1, Faults::default()));
        stage.net.advance(Duration::from_secs(3600 * up_hours));
        let senders: Vec<_> = (0..PAIRS).map(|at| stage.join(at % workers)).collect();
        let receivers: Vec<_> = (0..PAIRS).map(|at| stage.join((at + 1) % workers)).collect();
        let mut crossed = Vec::new();
        for _ in 0..60 {
            let before: u64 = stage.workers.iter().map(|w| w.core().stats().packets_to_workers.get()).sum();
            for _ in 0..10 {
                stage.net.advance(Duration::from_millis(50));
                for pair in 0..PAIRS {
                    stage.send(senders[pair], receivers[pair], 20, false, 100);
                }
                stage.run(3);
                for receiver in &receivers {
                    assert_eq!(numbers(&stage.read(*receiver)).len(), 20);
                }
            }
            let after: u64 = stage.workers.iter().map(|w| w.core().stats().packets_to_workers.get()).sum();
            crossed.push(after - before);
        }
        println!("{workers} workers, up for {up_hours} h, packets that crossed in each epoch: {crossed:?}");
        assert_eq!(crossed[0], 10 * 20 * PAIRS as u64);
        assert_eq!(crossed.last(), Some(&0));
    }
}
