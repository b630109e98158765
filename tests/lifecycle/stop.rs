//! SIGTERM, SIGINT: nobody new, a word to everybody, what is queued goes out, then the end.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::relay_support::frames::*;
use crate::relay_support::ground::on_workers;
use crate::relay_support::process::status;
use crate::relay_support::*;

/// Reconnects are spread over this time, in milliseconds.
const SPREAD: u32 = 10_000;
/// What the relay waits for those who do not read is 2 s; this is where a test on a busy machine calls it too long.
const FLUSH: Duration = Duration::from_secs(12);

const SIGNALS: [(Signal, &str, i32); 2] = [(Signal::TERM, "SIGTERM", 143), (Signal::INT, "SIGINT", 130)];

/// When the client shall come back.
#[track_caller]
fn restarting(frame: &Frame) -> u32 {
    assert_eq!((frame.kind, frame.payload.len()), (RESTARTING, 8), "expected Restarting, got {frame:?}");
    let number = |at: usize| u32::from_be_bytes(frame.payload[at..at + 4].try_into().unwrap());
    let (reconnect_in, try_for) = (number(0), number(4));
    assert!(reconnect_in <= SPREAD, "expected at most {SPREAD} ms, got {reconnect_in}");
    assert!(try_for >= SPREAD, "expected clients to be told to try for longer than the spread, got {try_for}");
    reconnect_in
}

fn orderly(mode: Mode) -> End {
    if mode == Mode::Plain { End::Fin } else { End::CloseNotify }
}

fn everybody_is_told_and_the_relay_ends(ground: Ground) {
    for (signal, name, _) in SIGNALS {
        for tls in [false, true] {
            let mut relay = if tls { Relay::start_tls(ground, &[]) } else { Relay::start(ground, &[]) };
            let mode = if tls { Mode::Tls13 } else { Mode::Plain };
            let mut clients: Vec<Client> = (0..12).map(|_| visit(&relay).log_in()).collect();
            // Half-way in, they are not waited for.
            let silent = visit(&relay).connect();
            let mut upgraded = visit(&relay).connect();
            upgraded.send(&visit(&relay).request());
            upgraded.expect_greeting();

            relay.signal(signal);
            relay.expect_line(name);
            let times: Vec<u32> = clients.iter_mut().map(|client| restarting(&client.frame())).collect();
            let (first, last) = (times.iter().min().unwrap(), times.iter().max().unwrap());
            assert!(last - first > SPREAD / 10, "expected times over the whole spread, got {times:?}");
            for client in &mut clients {
                assert_eq!(client.expect_end(), orderly(mode), "{mode:?}");
            }
            for mut stranger in [silent, upgraded] {
                let (frames, _) = stranger.until_end();
                assert_eq!(frames, [], "a stranger");
            }
            assert_eq!(status(relay.wait()), 0, "{name}");
            assert!(TcpStream::connect(relay.addr).is_err(), "{name}: the port is still open");
        }
    }
}

/// One that does not read keeps the relay a moment; in that time nobody new comes in.
fn nobody_comes_in_while_it_stops(ground: Ground) {
    for (signal, name, _) in SIGNALS {
        let mut relay = Relay::start(ground, &[&ROOM[..], &["--flush-time=5s", "--tcp-write-timeout=1m"]].concat());
        let stuck = stuck_receiver(&relay);
        let begin = Instant::now();
        relay.signal(signal);
        relay.expect_line(name);
        loop {
            match TcpStream::connect(relay.addr) {
                Err(e) if e.kind() == ErrorKind::ConnectionRefused => break,
                // Between the signal and its effect, or in the queue when the port was closed.
                Ok(_) | Err(_) => assert!(begin.elapsed() < PATIENCE, "{name}: the port is still open"),
            }
        }
        assert!(relay.is_running(), "{name}: expected it to wait for a receiver that has data to come");
        assert_eq!(status(relay.wait()), 0, "{name}");
        assert!(begin.elapsed() < FLUSH, "{name}: a receiver that does not read held it for {:?}", begin.elapsed());
        drop(stuck);
    }
}

/// Unless told otherwise, it ends soon whoever does not read.
fn who_does_not_read_holds_it_only_a_moment(ground: Ground) {
    let mut relay = Relay::start(ground, &ROOM);
    let stuck = stuck_receiver(&relay);
    let begin = Instant::now();
    relay.signal(Signal::TERM);
    assert_eq!(status(relay.wait()), 0);
    assert!(begin.elapsed() < FLUSH, "a receiver that does not read held it for {:?}", begin.elapsed());
    drop(stuck);
}

/// Queues that need drop nothing.
const ROOM: [&str; 2] = ["--queue-packets=65536", "--queue-bytes=256MiB"];
/// The same, and time for all of it to go out, however busy the machine is.
const ROOM_AND_TIME: [&str; 5] =
    [ROOM[0], ROOM[1], "--flush-time=1m", "--tcp-write-timeout=1m", "--tcp-user-timeout=1m"];
/// What one worker keeps for another whatever happens: fewer than 2048 packets, less than 4 MiB.
const PACKETS: u64 = 2000;

fn packet(number: u64) -> Vec<u8> {
    noise(number, 1000 + (number * 7919 % 1000) as usize)
}

/// A receiver for which megabytes wait in the relay, and who has sent them.
fn stuck_receiver(relay: &Relay) -> (Client, Client) {
    let receiver = visit(relay).receive_buffer(16 * 1024).log_in();
    let mut sender = visit(relay).log_in();
    let to = receiver.public();
    for batch in 0..PACKETS / 100 {
        let numbers = batch * 100..(batch + 1) * 100;
        sender.send(&numbers.flat_map(|n| send_packet(&to, &packet(n))).collect::<Vec<u8>>());
    }
    sender.expect_quiet();
    (receiver, sender)
}

fn what_is_queued_goes_out(ground: Ground) {
    let modes = [(false, Mode::Plain), (true, Mode::Tls12), (true, Mode::Tls13)];
    for (tls, mode) in modes {
        let mut relay =
            if tls { Relay::start_tls(ground, &ROOM_AND_TIME) } else { Relay::start(ground, &ROOM_AND_TIME) };
        let mut receiver = visit(&relay).mode(mode).receive_buffer(16 * 1024).log_in();
        let mut sender = visit(&relay).mode(mode).log_in();
        let to = receiver.public();
        for batch in 0..PACKETS / 100 {
            let numbers = batch * 100..(batch + 1) * 100;
            sender.send(&numbers.flat_map(|n| send_packet(&to, &packet(n))).collect::<Vec<u8>>());
        }
        sender.expect_quiet();
        relay.signal(Signal::TERM);
        relay.expect_line("SIGTERM");
        let mut told = 0;
        let mut next = 0;
        loop {
            match receiver.next() {
                Event::Frame(frame) if frame.kind == RESTARTING => {
                    restarting(&frame);
                    told += 1;
                }
                Event::Frame(frame) => {
                    assert_eq!(frame.bytes(), recv_packet(&sender.public(), &packet(next)), "{mode:?}, packet {next}");
                    next += 1;
                }
                Event::End(end, part) => {
                    assert_eq!((end, part), (orderly(mode), 0), "{mode:?}, behind packet {next}");
                    break;
                }
            }
        }
        assert_eq!((next, told), (PACKETS, 1), "{mode:?}: packets and Restarting frames before the end");
        restarting(&sender.frame());
        assert_eq!(sender.expect_end(), orderly(mode), "{mode:?}");
        assert_eq!(status(relay.wait()), 0, "{mode:?}");
    }
}

/// Clients do not fall silent because the relay stops. Bytes that it closes on unread would reset the connection, and
/// take along what is still on its way to them.
fn who_goes_on_talking_loses_nothing(ground: Ground) {
    let mut relay = Relay::start(ground, &ROOM_AND_TIME);
    let (mut receiver, _sender) = stuck_receiver(&relay);
    let mut writer = receiver.wire.socket.try_clone().unwrap();
    relay.signal(Signal::TERM);
    relay.expect_line("SIGTERM");
    let (frames, end) = thread::scope(|scope| {
        scope.spawn(move || {
            let chatter = send_packet(&Key::fresh().public, &noise(1, 100));
            while writer.write_all(&chatter).is_ok() {}
        });
        receiver.until_end()
    });
    let told = frames.iter().filter(|frame| frame.kind == RESTARTING).count();
    let packets = frames.iter().filter(|frame| frame.kind == RECV_PACKET).count() as u64;
    assert_eq!((packets, told), (PACKETS, 1), "packets and Restarting frames before the end, which was {end:?}");
    assert_eq!(status(relay.wait()), 0);
}

/// The second signal does not wait for anybody.
fn a_second_signal_ends_at_once(ground: Ground) {
    for (first, name, _) in SIGNALS {
        for (second, _, code) in SIGNALS {
            let mut relay = Relay::start(ground, &ROOM_AND_TIME);
            let stuck = stuck_receiver(&relay);
            relay.signal(first);
            relay.expect_line(name);
            relay.signal(second);
            assert_eq!(status(relay.wait()), code, "{second:?} after {first:?}");
            drop(stuck);
        }
    }
}

/// Packets from all sides while it stops: what arrives is whole and in order, and the end comes in time.
fn it_stops_under_a_flood(ground: Ground) {
    let mut relay = Relay::start_tls(ground, &[]);
    let mut receivers: Vec<Client> = (0..3).map(|_| visit(&relay).log_in()).collect();
    let senders: Vec<Client> = (0..3).map(|_| visit(&relay).log_in()).collect();
    let stop = AtomicBool::new(false);
    let begin = thread::scope(|scope| {
        let targets: Vec<Public> = receivers.iter().map(Client::public).collect();
        for (mut sender, to) in senders.into_iter().zip(targets) {
            let stop = &stop;
            scope.spawn(move || {
                for number in 0.. {
                    // The relay ends it.
                    if stop.load(Ordering::Acquire) || sender.wire.write(&send_packet(&to, &packet(number))).is_err() {
                        return;
                    }
                }
            });
        }
        for receiver in &mut receivers {
            receiver.frame();
        }
        relay.signal(Signal::TERM);
        let begin = Instant::now();
        for receiver in &mut receivers {
            scope.spawn(|| {
                let (mut last, mut told) = (None, 0);
                let (frames, end) = receiver.until_end();
                for frame in frames {
                    match frame.kind {
                        RESTARTING => told += 1,
                        PEER_GONE => panic!("expected no PeerGone from a relay that stops, got {frame:?}"),
                        _ => {
                            let data = frame.packet().1;
                            let number = (last.map_or(0, |n: u64| n + 1)..).take(100_000).find(|n| packet(*n) == data);
                            assert!(number.is_some(), "behind packet {last:?}: got {frame:?}");
                            last = number;
                        }
                    }
                }
                assert_eq!(told, 1, "Restarting frames");
                assert_eq!(end, End::CloseNotify);
            });
        }
        assert_eq!(status(relay.wait()), 0);
        stop.store(true, Ordering::Release);
        begin
    });
    assert!(begin.elapsed() < FLUSH + PATIENCE, "it took {:?}", begin.elapsed());
}

on_workers!(
    everybody_is_told_and_the_relay_ends,
    nobody_comes_in_while_it_stops,
    who_does_not_read_holds_it_only_a_moment,
    what_is_queued_goes_out,
    who_goes_on_talking_loses_nothing,
    a_second_signal_ends_at_once,
    it_stops_under_a_flood,
);
