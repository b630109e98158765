//! One key that comes back all the time.

use std::thread;
use std::time::{Duration, Instant};

use super::work::Pair;
use crate::relay_support::frames::*;
use crate::relay_support::ground::on_workers;
use crate::relay_support::wire::reset;
use crate::relay_support::*;

/// A hundred times a second, with every way to leave; another pair loses nothing, and each of the logins works.
fn a_key_reconnects_without_pause(ground: Ground) {
    const TIME: Duration = Duration::from_secs(3);
    const PAUSE: Duration = Duration::from_millis(10);
    let relay = Relay::start_tls(ground, &[]);
    let mut pair = Pair::new(&relay);
    let mut witness = visit(&relay).log_in();
    let key = Key::fresh();
    let rounds = pair.during(|| {
        let begin = Instant::now();
        let mut kept = None;
        let mut round = 0_u32;
        while begin.elapsed() < TIME {
            let due = begin + PAUSE * round;
            let mode = if round.is_multiple_of(3) { Mode::Tls12 } else { Mode::Tls13 };
            let mut client = visit(&relay).mode(mode).key(&key).log_in();
            client.send_to(&witness.public(), &round.to_be_bytes());
            // Nobody is told that it left while it is there again; else once each time.
            loop {
                let frame = witness.frame();
                if frame.bytes() == peer_gone(&key.public, DISCONNECTED) {
                    continue;
                }
                assert_eq!(frame.bytes(), recv_packet(&key.public, &round.to_be_bytes()), "round {round}");
                break;
            }
            match round % 4 {
                0 => drop(client),
                1 => reset(client.wire.socket),
                2 => drop(kept.replace(client)),
                _ => {
                    client.send(&header(SEND_PACKET, 65_568));
                    kept = None;
                }
            }
            round += 1;
            // The pace is the test, so this is no wait for something.
            thread::sleep((due + PAUSE).saturating_duration_since(Instant::now()));
        }
        round
    });
    eprintln!("{rounds} logins in {TIME:?}");
    // All have left: this is the last word about them.
    let mut last = visit(&relay).key(&key).log_in();
    last.send_to(&witness.public(), b"last");
    while witness.frame().bytes() != recv_packet(&key.public, b"last") {}
    last.settle();
    drop(last);
    witness.expect(&peer_gone(&key.public, DISCONNECTED));
    witness.expect_quiet();
    pair.expect_quiet();
}

on_workers!(a_key_reconnects_without_pause);
