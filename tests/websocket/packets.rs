//! Packets arrive as they were sent, whatever messages they travel in.

use tungstenite::Message;

use crate::judge::{Heard, Judge, relays};
use crate::relay_support::frames::*;
use crate::relay_support::ground::on_workers;
use crate::relay_support::*;

const SIZES: [usize; 12] = [0, 1, 100, 1400, 4096, 16330, 16384, 32 << 10, 60 << 10, 65535 - 37, 65535, MAX_PACKET];

fn packets_of_every_size(ground: Ground) {
    for (relay, modes) in &relays(ground, &[]) {
        for mode in *modes {
            let [mut alice, mut bob] = [Judge::log_in(relay, *mode), Judge::log_in(relay, *mode)];
            let mut carol = visit(relay).mode(*mode).log_in();
            for (number, size) in SIZES.into_iter().enumerate() {
                let data = noise(number as u64, size);
                alice.send_to(&alice.public(), &data);
                alice.expect(&recv_packet(&alice.public(), &data));
                alice.send_to(&bob.public(), &data);
                bob.expect(&recv_packet(&alice.public(), &data));
                bob.send_to(&carol.public(), &data);
                carol.expect(&recv_packet(&bob.public(), &data));
                carol.send_to(&alice.public(), &data);
                alice.expect(&recv_packet(&carol.public(), &data));
            }
        }
    }
}

/// All of it at once, so that the relay has more than one message to make of what waits.
fn many_packets_at_once(ground: Ground) {
    for (relay, modes) in &relays(ground, &[]) {
        for mode in *modes {
            let mut bob = Judge::log_in(relay, *mode);
            let mut alice = visit(relay).mode(*mode).log_in();
            let data = |n: u64| noise(n, (n * 7919 % 9000) as usize);
            alice.pump(&(0..300).flat_map(|n| send_packet(&bob.public(), &data(n))).collect::<Vec<u8>>());
            for n in 0..300 {
                bob.expect(&recv_packet(&alice.public(), &data(n)));
            }
        }
    }
}

/// Frames cut into messages and fragments at places that have nothing to do with either, with pings in between.
fn cuts_mean_nothing(ground: Ground) {
    for (relay, modes) in &relays(ground, &[]) {
        for mode in *modes {
            let mut alice = Judge::log_in(relay, *mode);
            let me = alice.public();
            let data = |n: u64| noise(n, (n * 977 % 3000) as usize);
            let stream: Vec<u8> = (0..100).flat_map(|n| send_packet(&me, &data(n))).collect();
            // Byte by byte first, then longer than any frame.
            let mut seeds = noise(ground.workers as u64, 1 << 16).into_iter().cycle();
            let mut cut = |at: usize| if at < 300 { 1 } else { 1 + usize::from(seeds.next().unwrap()) * (at % 23) };
            let (mut rest, mut pieces) = (&stream[..], Vec::new());
            while !rest.is_empty() {
                let (piece, behind) = rest.split_at(cut(stream.len() - rest.len()).min(rest.len()));
                pieces.push(piece);
                rest = behind;
            }
            let mut pings = 0;
            let mut first = true;
            for (n, piece) in pieces.iter().enumerate() {
                let last = n % 5 == 0 || n == pieces.len() - 1;
                alice.send_fragment(piece, first, last);
                first = last;
                if n % 40 == 0 {
                    pings += 1;
                    alice.ws.send(Message::Ping(format!("ping {pings}").into())).unwrap();
                }
            }
            let (mut next, mut last_pong) = (0, 0);
            while next < 100 || last_pong < pings {
                match alice.next() {
                    Heard::Frame(frame) => {
                        assert_eq!(frame.bytes(), recv_packet(&me, &data(next)), "packet {next}");
                        next += 1;
                    }
                    // Older pings may go unanswered, never in another order.
                    Heard::Pong(text) => {
                        let number = String::from_utf8(text).unwrap()[5..].parse().unwrap();
                        assert!(number > last_pong && number <= pings, "pong {number} behind pong {last_pong}");
                        last_pong = number;
                    }
                    other => panic!("expected packets and pongs, got {other:?}"),
                }
            }
            alice.expect_quiet();
        }
    }
}

on_workers!(packets_of_every_size, many_packets_at_once, cuts_mean_nothing);
