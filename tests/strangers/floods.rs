//! Much of what is worth nothing. The flooders do not read what they are sent for it.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::work::Pair;
use crate::relay_support::frames::*;
use crate::relay_support::ground::{on_backends, on_workers};
use crate::relay_support::wire::{connect, reset};
use crate::relay_support::*;

/// How long each flood lasts.
const FLOOD: Duration = Duration::from_millis(250);

/// Writes `bytes` again and again. The relay may end it, for what it does not read.
fn flood(mut client: Client, bytes: &[u8]) {
    let begin = Instant::now();
    while begin.elapsed() < FLOOD {
        if client.wire.write(bytes).is_err() {
            return;
        }
    }
}

fn logged_in_floods(ground: Ground) {
    let plain = Relay::start(ground, &[]);
    let tls = Relay::start_tls(ground, &[]);
    for relay in [&plain, &tls] {
        let mut pair = Pair::new(relay);
        let to_itself = Key::fresh();
        let packet = send_packet(&to_itself.public, &noise(1, 1000));
        for (what, bytes) in [
            ("packets to itself", packet.repeat(60)),
            ("packets to nobody", send_packet(&Key::fresh().public, b"").repeat(1000)),
            ("disco to nobody", send_packet(&Key::fresh().public, &disco(62)).repeat(500)),
            ("empty frames", header(0x77, 0).repeat(10_000)),
            ("pings", ping(&[3; 8]).repeat(5000)),
            ("homes", [note_preferred(true), note_preferred(false)].concat().repeat(5000)),
            ("second logins", frame(CLIENT_INFO, &[&noise(2, 60_000)])),
            ("one frame without end", header(0xfe, u32::MAX).repeat(5000)),
        ] {
            let client = visit(relay).key(&to_itself).log_in();
            eprintln!("flood of {what}");
            pair.during(|| flood(client, &bytes));
        }
        pair.expect_quiet();
    }
}

/// One byte at a time: a segment each, under TLS a record each.
fn floods_of_single_bytes(ground: Ground) {
    let plain = Relay::start(ground, &[]);
    let tls = Relay::start_tls(ground, &[]);
    for mode in Mode::ALL {
        let relay = if mode == Mode::Plain { &plain } else { &tls };
        let mut pair = Pair::new(relay);
        let mut client = visit(relay).mode(mode).log_in();
        let mut witness = visit(relay).log_in();
        pair.during(|| {
            let begin = Instant::now();
            let mut sent = 0_u32;
            while begin.elapsed() < FLOOD {
                // Read now and then: who does not read loses packets, and rightly.
                let burst = sent..sent + 32;
                for number in burst.clone() {
                    for byte in send_packet(&witness.public(), &number.to_be_bytes()) {
                        client.send(&[byte]);
                    }
                }
                for number in burst {
                    witness.expect(&recv_packet(&client.public(), &number.to_be_bytes()));
                    sent += 1;
                }
            }
        });
        pair.expect_quiet();
    }
}

/// A login, then a header that ends the connection; and again.
fn oversized_headers_again_and_again(ground: Ground) {
    let relay = Relay::start_tls(ground, &[]);
    let mut pair = Pair::new(&relay);
    pair.during(|| {
        let begin = Instant::now();
        while begin.elapsed() < FLOOD {
            for (kind, len) in [(SEND_PACKET, u32::MAX), (PING, u32::MAX), (SEND_PACKET, 65_569), (NOTE_PREFERRED, 0)] {
                let mut client = visit(&relay).log_in();
                client.send(&header(kind, len));
                client.expect_end();
            }
        }
    });
    pair.expect_quiet();
}

/// Before any login: noise, requests without end, handshakes that stop half-way, resets.
fn floods_before_the_login(ground: Ground) {
    let plain = Relay::start(ground, &[]);
    let tls = Relay::start_tls(ground, &[]);
    for relay in [&plain, &tls] {
        let mut pair = Pair::new(relay);
        let addr = relay.addr;
        let burst = |bytes: Vec<u8>, end: fn(TcpStream)| {
            move || {
                let begin = Instant::now();
                while begin.elapsed() < FLOOD {
                    let mut stream = connect(addr, None).unwrap();
                    // The relay may have ended it after the first bytes.
                    let _ = stream.write_all(&bytes);
                    end(stream);
                }
            }
        };
        pair.during(burst(noise(3, 5000), drop));
        pair.during(burst(noise(3, 200_000), drop));
        pair.during(burst(vec![22, 3, 1, 2, 0, 1, 0, 1, 0xfc], drop));
        pair.during(burst([&[22, 3, 1, 0x40, 0][..], &[1, 0xff, 0xff, 0xff], &[0; 20_000]].concat(), drop));
        pair.during(burst(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(200), drop));
        pair.during(burst([&b"GET / HTTP/1.1\r\nX: "[..], &[b'x'; 50_000]].concat(), drop));
        pair.during(burst(Vec::new(), reset));
        pair.during(burst(b"GET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: DERP\r\n\r\n".to_vec(), reset));
        pair.expect_quiet();
    }
}

/// The client closes its sending side: an ordinary end, what it has sent counts.
fn half_closed_connections(ground: Ground) {
    let plain = Relay::start(ground, &[]);
    let tls = Relay::start_tls(ground, &[]);
    for mode in Mode::ALL {
        let relay = if mode == Mode::Plain { &plain } else { &tls };
        let mut pair = Pair::new(relay);
        let mut witness = visit(relay).mode(mode).log_in();
        for round in 0..50_u64 {
            let mut client = visit(relay).mode(mode).log_in();
            let packet = send_packet(&witness.public(), &round.to_be_bytes());
            let cut = round as usize % packet.len();
            client.send(&[&packet, &packet[..cut]].concat());
            client.wire.socket.shutdown(Shutdown::Write).unwrap();
            let end = client.expect_end();
            let orderly = if mode == Mode::Plain { End::Fin } else { End::CloseNotify };
            assert_eq!(end, orderly, "{mode:?}, round {round}");
            witness.expect(&recv_packet(&client.public(), &round.to_be_bytes()));
            witness.expect(&peer_gone(&client.public(), DISCONNECTED));
        }
        // Before the login, in every phase.
        for bytes in [&b""[..], b"GET /derp", &visit(relay).request(), &[22, 3, 1]] {
            let mut stream = connect(relay.addr, None).unwrap();
            stream.write_all(bytes).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            // Whatever the answer is, it ends.
            std::io::Read::read_to_end(&mut stream, &mut Vec::new()).unwrap();
        }
        pair.exchange();
        pair.expect_quiet();
    }
}

fn resets_in_mid_frame(ground: Ground) {
    let plain = Relay::start(ground, &[]);
    let tls = Relay::start_tls(ground, &[]);
    for mode in Mode::ALL {
        let relay = if mode == Mode::Plain { &plain } else { &tls };
        let mut pair = Pair::new(relay);
        let mut witness = visit(relay).mode(mode).log_in();
        for round in 0..50_u64 {
            let mut client = visit(relay).mode(mode).log_in();
            let packet = send_packet(&witness.public(), &noise(round, 3000));
            client.send(&packet);
            // What has arrived cannot be taken back by the reset.
            witness.expect(&recv_packet(&client.public(), &noise(round, 3000)));
            witness.send_to(&client.public(), &noise(round, 5000));
            client.send(&packet[..1 + round as usize * 50]);
            let source = client.public();
            reset(client.wire.socket);
            witness.expect(&peer_gone(&source, DISCONNECTED));
        }
        pair.exchange();
        pair.expect_quiet();
    }
}

/// Many at once, each of another kind, on all workers.
fn everything_at_once(ground: Ground) {
    let relay = Relay::start_tls(ground, &[]);
    let mut pair = Pair::new(&relay);
    let victim = visit(&relay).log_in();
    let packet = send_packet(&victim.public(), &noise(1, 1400)).repeat(40);
    let empty = header(0x77, 0).repeat(10_000);
    let pings = ping(&[3; 8]).repeat(3000);
    pair.during(|| {
        thread::scope(|scope| {
            for bytes in [&packet, &packet, &empty, &pings] {
                let client = visit(&relay).log_in();
                scope.spawn(move || flood(client, bytes));
            }
            scope.spawn(|| {
                let begin = Instant::now();
                while begin.elapsed() < FLOOD {
                    visit(&relay).log_in().expect_quiet();
                }
            });
        });
    });
    pair.expect_quiet();
}

on_backends!(
    logged_in_floods,
    floods_of_single_bytes,
    oversized_headers_again_and_again,
    floods_before_the_login,
    half_closed_connections,
    resets_in_mid_frame,
);

mod spread {
    use super::everything_at_once;
    super::on_workers!(everything_at_once);
}
