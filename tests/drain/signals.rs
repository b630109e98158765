//! `--drain-time`: SIGTERM tells everybody and lets in nobody, sessions go on for a while, then they are closed.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::relay_support::frames::*;
use crate::relay_support::ground::on_workers;
use crate::relay_support::process::status;
use crate::relay_support::*;

/// Milliseconds; the short drain times here are no longer.
const SPREAD: u32 = 10_000;

/// A drain that only signals end, queues that need drop nothing, and time for all of it to go out, however busy the
/// machine is.
const ROOM_AND_TIME: [&str; 6] = [
    "--drain-time=3600",
    "--queue-packets=65536",
    "--queue-bytes=256MiB",
    "--flush-time=1m",
    "--tcp-write-timeout=1m",
    "--tcp-user-timeout=1m",
];

#[track_caller]
fn restarting(frame: &Frame, spread: u32) -> u32 {
    assert_eq!((frame.kind, frame.payload.len()), (RESTARTING, 8), "expected Restarting, got {frame:?}");
    let number = |at: usize| u32::from_be_bytes(frame.payload[at..at + 4].try_into().unwrap());
    let (reconnect_in, try_for) = (number(0), number(4));
    assert!(reconnect_in <= spread && try_for > spread, "{reconnect_in} ms, for {try_for} ms");
    reconnect_in
}

fn readyz(admin: &Path) -> String {
    let mut stream = UnixStream::connect(admin).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().to_owned()
}

fn until_refused(relay: &Relay) {
    let begin = Instant::now();
    loop {
        match TcpStream::connect(relay.addr) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return,
            // In the queue when the port was closed.
            Ok(_) | Err(_) => assert!(begin.elapsed() < PATIENCE, "the port is still open"),
        }
    }
}

fn sessions_go_on_and_nobody_comes_in(ground: Ground) {
    for (signal, name) in [(Signal::TERM, "SIGTERM"), (Signal::INT, "SIGINT")] {
        let dir = TempDir::new().unwrap();
        let admin = dir.path().join("admin");
        let listen = format!("--admin-listen=unix:{}", admin.display());
        let mut relay = Relay::start_tls(ground, &["--drain-time=10", "--edges=2", &listen]);
        let mut clients: Vec<Client> = (0..12).map(|_| visit(&relay).log_in()).collect();
        let silent = visit(&relay).connect();
        let mut upgraded = visit(&relay).connect();
        upgraded.send(&visit(&relay).request());
        upgraded.expect_greeting();
        assert_eq!(readyz(&admin), "200");

        relay.signal(signal);
        relay.expect_line(name);
        let times: Vec<u32> = clients.iter_mut().map(|client| restarting(&client.frame(), SPREAD)).collect();
        let (first, last) = (times.iter().min().unwrap(), times.iter().max().unwrap());
        assert!(last - first > SPREAD / 10, "expected times over the whole spread, got {times:?}");
        assert_eq!(readyz(&admin), "503");
        // Half-way in is not in.
        for mut stranger in [silent, upgraded] {
            assert_eq!(stranger.until_end().0, [], "a stranger");
        }
        until_refused(&relay);
        for number in 0..100 {
            let (from, to) = (number % 12, (number * 5 + 1) % 12);
            let (source, target) = (clients[from].public(), clients[to].public());
            clients[from].send_to(&target, &noise(number as u64, 1200));
            if from != to {
                clients[to].expect(&recv_packet(&source, &noise(number as u64, 1200)));
            } else {
                clients[to].frame();
            }
        }
        assert!(relay.is_running());
        relay.expect_line("draining");
        for client in &mut clients {
            assert_eq!(client.expect_end(), End::CloseNotify);
        }
        relay.expect_line("the drain is over");
        assert_eq!(status(relay.wait()), 0, "{name}");
        assert!(!admin.exists());
    }
}

/// The times are those of the drain when it is long.
fn reconnects_are_spread_over_the_drain(ground: Ground) {
    const SECONDS: u32 = 7200;
    let mut relay = Relay::start(ground, &["--drain-time=7200"]);
    let mut clients: Vec<Client> = (0..12).map(|_| visit(&relay).log_in()).collect();
    relay.signal(Signal::TERM);
    let times = clients.iter_mut().map(|client| restarting(&client.frame(), SECONDS * 1000));
    assert!(times.max().unwrap() > SPREAD * 10);
    // Nobody is left to wait for.
    drop(clients);
    assert_eq!(status(relay.wait()), 0);
}

/// The second signal stops waiting for sessions, and is as orderly as a plain stop; the third waits for nothing.
fn each_signal_hurries_it(ground: Ground) {
    let mut relay = Relay::start(ground, &["--drain-time=3600"]);
    let mut client = visit(&relay).log_in();
    relay.signal(Signal::TERM);
    restarting(&client.frame(), 3_600_000);
    client.expect_quiet();
    relay.signal(Signal::INT);
    assert_eq!(client.expect_end(), End::Fin);
    assert_eq!(status(relay.wait()), 0);

    let mut relay = Relay::start(ground, &ROOM_AND_TIME);
    let stuck = visit(&relay).receive_buffer(16 * 1024).log_in();
    let mut sender = visit(&relay).log_in();
    let to = stuck.public();
    for number in 0..4000 {
        sender.send_to(&to, &noise(number, 1500));
    }
    sender.expect_quiet();
    relay.signal(Signal::TERM);
    relay.expect_line("draining");
    relay.signal(Signal::TERM);
    relay.expect_line("the drain is over");
    relay.expect_line("another signal ends at once");
    relay.signal(Signal::TERM);
    assert_eq!(status(relay.wait()), 143);
}

/// What waits when the drain ends goes out to who reads.
fn what_is_queued_goes_out_behind_the_drain(ground: Ground) {
    // What one worker keeps for another whatever happens: fewer than 2048 packets, less than 4 MiB.
    const PACKETS: u64 = 2000;
    let mut relay = Relay::start_tls(ground, &ROOM_AND_TIME);
    let mut receiver = visit(&relay).receive_buffer(16 * 1024).log_in();
    let mut sender = visit(&relay).log_in();
    relay.signal(Signal::TERM);
    restarting(&sender.frame(), 3_600_000);
    restarting(&receiver.frame(), 3_600_000);
    let to = receiver.public();
    for number in 0..PACKETS {
        sender.send_to(&to, &noise(number, 1500));
    }
    sender.expect_quiet();
    relay.signal(Signal::TERM);
    let (frames, end) = receiver.until_end();
    assert_eq!((frames.len() as u64, end), (PACKETS, End::CloseNotify));
    for (number, frame) in frames.iter().enumerate() {
        assert_eq!(frame.bytes(), recv_packet(&sender.public(), &noise(number as u64, 1500)));
    }
    relay.expect_line("the drain is over");
    assert_eq!(status(relay.wait()), 0);
}

/// A relay without sessions does not wait for any.
fn nobody_here_is_nobody_to_wait_for(ground: Ground) {
    let mut relay = Relay::start(ground, &["--drain-time=86400"]);
    let begin = Instant::now();
    relay.signal(Signal::TERM);
    assert_eq!(status(relay.wait()), 0);
    assert!(begin.elapsed() < Duration::from_secs(3600));
}

on_workers!(
    sessions_go_on_and_nobody_comes_in,
    reconnects_are_spread_over_the_drain,
    each_signal_hurries_it,
    what_is_queued_goes_out_behind_the_drain,
    nobody_here_is_nobody_to_wait_for,
);
