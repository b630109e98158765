//! Clients inside of WebSockets that read slowly, or not at all.

use std::thread;
use std::time::Duration;

use crate::judge::{Heard, Judge, relays};
use crate::relay_support::frames::*;
use crate::relay_support::ground::on_workers;
use crate::relay_support::*;

fn packet(number: u64) -> Vec<u8> {
    [&number.to_be_bytes()[..], &noise(number, (number * 7919 % 2000) as usize)].concat()
}

fn number_of(frame: &Frame, from: &Public) -> u64 {
    let (source, data) = frame.packet();
    let number = u64::from_be_bytes(data[..8].try_into().unwrap());
    assert_eq!((&source, data), (from, &packet(number)[..]), "packet {number} is not what was sent");
    number
}

/// The flood is many times what queues hold: packets are dropped, messages never cut short.
fn a_slow_receiver_gets_whole_packets_in_order(ground: Ground) {
    const PACKETS: u64 = 10_000;
    for (relay, modes) in &relays(ground, &[]) {
        for mode in *modes {
            let mut receiver = Judge::log_in_with(relay, *mode, Some(16 * 1024));
            let mut sender = visit(relay).mode(*mode).log_in();
            let (to, from) = (receiver.public(), sender.public());
            thread::scope(|scope| {
                scope.spawn(|| {
                    for batch in 0..PACKETS / 100 {
                        let numbers = batch * 100..(batch + 1) * 100;
                        sender.pump(&numbers.flat_map(|n| send_packet(&to, &packet(n))).collect::<Vec<u8>>());
                    }
                });
                let (mut last, mut count) = (None, 0);
                // The oldest are dropped, so that the last one arrives.
                while last != Some(PACKETS - 1) {
                    let number = number_of(&receiver.frame(), &from);
                    assert!(last < Some(number), "packet {number} behind {last:?}");
                    last = Some(number);
                    count += 1;
                    if count % 50 == 0 {
                        // This is its slowness, not a wait for something.
                        thread::sleep(Duration::from_millis(1));
                    }
                }
                eprintln!("{mode:?}: {count} packets of {PACKETS} arrived");
            });
            receiver.expect_quiet();
            sender.expect_quiet();
        }
    }
}

/// Taking nothing at all for the write timeout ends the connection. What it reads then is whole, and either ends with a
/// Close, or without a word where its socket had no room for one.
fn who_takes_nothing_is_ended(ground: Ground) {
    let relay = Relay::start_tls(ground, &["--queue-packets=65536", "--queue-bytes=64MiB"]);
    let mut receiver = Judge::log_in_with(&relay, Mode::Tls13, Some(16 * 1024));
    let mut sender = visit(&relay).log_in();
    let (to, from) = (receiver.public(), sender.public());
    receiver.send_to(&from, b"I am here");
    sender.expect(&recv_packet(&to, b"I am here"));
    let mut sent = 0;
    // 2000 packets: what one worker keeps for another whatever happens is fewer than 2048, less than 4 MiB.
    for _ in 0..40 {
        sender.send(&(sent..sent + 50).flat_map(|n| send_packet(&to, &packet(n))).collect::<Vec<u8>>());
        sent += 50;
    }
    sender.expect(&peer_gone(&to, DISCONNECTED));
    let mut next = 0;
    loop {
        match receiver.next() {
            Heard::Frame(frame) => assert_eq!(number_of(&frame, &from), next, "nothing had to be dropped"),
            Heard::Close(_) | Heard::End { .. } => break,
            Heard::Pong(_) => panic!("nobody pinged"),
        }
        next += 1;
    }
    assert!(next < sent, "expected the end before all of {sent} packets were taken");
}

on_workers!(a_slow_receiver_gets_whole_packets_in_order, who_takes_nothing_is_ended);
