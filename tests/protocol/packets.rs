//! SendPacket in, RecvPacket out.

use crate::relay_support::frames::*;
use crate::relay_support::ground::on_workers;
use crate::relay_support::*;

/// Around every border that a packet can meet: nothing, disco's least, a TLS record, the largest.
const SIZES: [usize; 17] =
    [0, 1, 31, 32, 61, 62, 63, 1400, 4096, 16_347, 16_384, 16_385, 32_768, 49_152, 65_500, 65_535, 65_536];

fn every_byte_arrives(ground: Ground) {
    let plain = Relay::start(ground, &[]);
    let tls = Relay::start_tls(ground, &[]);
    for mode in Mode::ALL {
        let relay = if mode == Mode::Plain { &plain } else { &tls };
        let (mut a, mut b) = (visit(relay).mode(mode).log_in(), visit(relay).mode(mode).log_in());
        for (at, size) in SIZES.into_iter().enumerate() {
            let data = noise(at as u64, size);
            a.send_to(&b.public(), &data);
            b.expect(&recv_packet(&a.public(), &data));
            // What begins like disco takes another queue.
            let mut data = disco(size.max(62));
            data.truncate(size);
            b.send_to(&a.public(), &data);
            a.expect(&recv_packet(&b.public(), &data));
        }
        a.expect_quiet();
        b.expect_quiet();
    }
}

fn a_client_may_send_to_itself(ground: Ground) {
    let relay = Relay::start_tls(ground, &[]);
    let mut client = visit(&relay).log_in();
    for (at, size) in SIZES.into_iter().enumerate() {
        let data = noise(at as u64, size);
        client.send_to(&client.public(), &data);
        client.expect(&recv_packet(&client.public(), &data));
    }
    client.expect_quiet();
}

/// Six clients, each to each: on three workers every pair of workers is among them.
fn packets_reach_whom_they_are_for_and_nobody_else(ground: Ground) {
    let plain = Relay::start(ground, &[]);
    let tls = Relay::start_tls(ground, &[]);
    for relay in [&plain, &tls] {
        let mut clients: Vec<Client> = (0..6).map(|_| visit(relay).log_in()).collect();
        let keys: Vec<Public> = clients.iter().map(Client::public).collect();
        const ROUNDS: usize = 20;
        let data = |from: usize, to: usize, round: usize| {
            let size = (from * 7919 + to * 104_729 + round * 131) % 1500;
            [&[from as u8, to as u8, round as u8][..], &noise((from * 6 + to) as u64, size)].concat()
        };
        for round in 0..ROUNDS {
            for (from, client) in clients.iter_mut().enumerate() {
                let burst: Vec<u8> = (0..6).flat_map(|to| send_packet(&keys[to], &data(from, to, round))).collect();
                client.send(&burst);
            }
        }
        for (to, client) in clients.iter_mut().enumerate() {
            let mut next = [0; 6];
            for _ in 0..6 * ROUNDS {
                let frame = client.frame();
                let (source, got) = frame.packet();
                let from = keys.iter().position(|key| *key == source);
                let from = from.unwrap_or_else(|| panic!("client {to} got a packet of nobody: {frame:?}"));
                assert_eq!(got, data(from, to, next[from]), "to {to}, packet {} of {from}", next[from]);
                next[from] += 1;
            }
            client.expect_quiet();
        }
    }
}

/// As a prober does: up to 30 packets of the largest size on the way, none may be lost, none overtaken.
fn thirty_of_the_largest_in_flight(ground: Ground) {
    let relay = Relay::start_tls(ground, &[]);
    let (mut a, mut b) = (visit(&relay).log_in(), visit(&relay).log_in());
    const ALL: u64 = 150;
    const FLIGHT: u64 = 30;
    let packet = |number: u64| noise(number, MAX_PACKET);
    let burst: Vec<u8> = (0..FLIGHT).flat_map(|number| send_packet(&b.public(), &packet(number))).collect();
    a.pump(&burst);
    for number in 0..ALL {
        b.expect(&recv_packet(&a.public(), &packet(number)));
        if number + FLIGHT < ALL {
            a.send_to(&b.public(), &packet(number + FLIGHT));
        }
    }
    b.expect_quiet();
}

/// Nobody is told about a packet to a key that is not there, unless it is disco.
fn data_to_nobody_vanishes(ground: Ground) {
    let relay = Relay::start(ground, &[]);
    let mut client = visit(&relay).log_in();
    for size in [0, 61, 1400, MAX_PACKET] {
        client.send_to(&Key::fresh().public, &noise(1, size));
    }
    client.send_to(&[0; 32], b"to the zero key");
    client.send_to(&relay.public, b"to the relay itself");
    client.expect_quiet();
}

on_workers!(
    every_byte_arrives,
    a_client_may_send_to_itself,
    packets_reach_whom_they_are_for_and_nobody_else,
    thirty_of_the_largest_in_flight,
    data_to_nobody_vanishes,
);
