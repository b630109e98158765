//! A client that does not wait: megabytes behind ClientInfo before anything is answered.

use std::thread;

use crate::relay_support::frames::*;
use crate::relay_support::ground::on_workers;
use crate::relay_support::*;

/// So that nothing need be dropped.
const ROOM: [&str; 4] = ["--queue-packets", "65536", "--queue-bytes", "256MiB"];
const PACKETS: u64 = 4000;
/// What one worker keeps for another whatever happens: fewer than 2048 packets, less than 4 MiB.
const PACKETS_TO_ANOTHER: u64 = 2000;

fn packet(number: u64) -> Vec<u8> {
    let size = match number % 100 {
        0 => 20_000,
        1 => 0,
        _ => 200 + (number * 7919 % 1300) as usize,
    };
    noise(number, size)
}

fn modes(ground: Ground, check: impl Fn(&Relay, Mode)) {
    let plain = Relay::start(ground, &ROOM);
    let tls = Relay::start_tls(ground, &ROOM);
    check(&plain, Mode::Plain);
    check(&tls, Mode::Tls12);
    check(&tls, Mode::Tls13);
}

fn megabytes_to_another_arrive_in_order(ground: Ground) {
    modes(ground, |relay, mode| {
        let mut receiver = visit(relay).mode(mode).log_in();
        let visit = visit(relay).mode(mode).header("Derp-Fast-Start: 1");
        let mut flight = [visit.request(), visit.client_info(), note_preferred(true)].concat();
        flight.extend((0..PACKETS_TO_ANOTHER).flat_map(|number| send_packet(&receiver.public(), &packet(number))));
        let mut client = visit.connect();
        let source = client.public();
        thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..PACKETS_TO_ANOTHER {
                    receiver.expect(&recv_packet(&source, &packet(number)));
                }
                receiver.expect_quiet();
            });
            client.pump(&flight);
            client.expect_server_key();
            client.expect_server_info();
            client.expect_quiet();
        });
    });
}

fn megabytes_to_itself_come_back_in_order(ground: Ground) {
    modes(ground, |relay, mode| {
        let visit = visit(relay).mode(mode);
        let key = visit.key.public;
        let mut flight = [visit.request(), visit.client_info()].concat();
        flight.extend((0..PACKETS).flat_map(|number| send_packet(&key, &packet(number))));
        let mut client = visit.connect();
        client.pump(&flight);
        client.expect_greeting();
        client.expect_server_info();
        for number in 0..PACKETS {
            client.expect(&recv_packet(&key, &packet(number)));
        }
        client.expect_quiet();
    });
}

on_workers!(megabytes_to_another_arrive_in_order, megabytes_to_itself_come_back_in_order);
