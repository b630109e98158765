//! Ping and pong, home, and what a relay does not say unasked.

use std::time::{Duration, Instant};

use crate::relay_support::frames::*;
use crate::relay_support::ground::on_backends;
use crate::relay_support::*;

/// A burst gets at least one pong, never more than one each, and only of what was asked.
fn one_pong_waits_at_a_time(ground: Ground) {
    let relay = Relay::start(ground, &[]);
    let mut client = visit(&relay).log_in();
    const BURST: u64 = 1000;
    for round in 0..5 {
        let pings = (0..BURST).flat_map(|at| ping(&(round * BURST + at).to_be_bytes()));
        client.send(&pings.collect::<Vec<u8>>());
        // Unlike another ping, a packet is always answered; and pongs go before packets.
        client.send_to(&client.public(), b"that was all");
        let mut last = None;
        loop {
            let pong = client.frame();
            if pong.kind == RECV_PACKET {
                break;
            }
            assert_eq!((pong.kind, pong.payload.len()), (PONG, 8), "{pong:?}");
            let number = u64::from_be_bytes(pong.payload.try_into().unwrap());
            assert!((round * BURST..(round + 1) * BURST).contains(&number), "round {round}: pong of {number}");
            assert!(last < Some(number), "round {round}: pong of {number} after that of {last:?}");
            last = Some(number);
        }
        assert_ne!(last, None, "round {round}: expected a pong");
    }
    assert_eq!(relay.vars()["got_ping"], 5 * BURST, "got_ping");
}

fn pings_one_by_one_are_all_answered(ground: Ground) {
    let relay = Relay::start_tls(ground, &[]);
    let mut client = visit(&relay).log_in();
    for number in 0..500_u64 {
        let data = number.to_be_bytes();
        client.send(&ping(&data));
        client.expect(&pong(&data));
    }
}

/// A ping is answered while packets keep the connection busy.
fn pongs_and_packets_share_a_connection(ground: Ground) {
    let relay = Relay::start_tls(ground, &[]);
    let mut client = visit(&relay).log_in();
    for round in 0..100_u64 {
        let data = noise(round, 1400);
        let packet = send_packet(&client.public(), &data);
        client.send(&[&packet, &ping(&round.to_be_bytes())[..], &packet].concat());
        let mut packets = 0;
        let mut pongs = 0;
        while packets < 2 || pongs < 1 {
            let frame = client.frame();
            match frame.kind {
                PONG => {
                    assert_eq!(frame.bytes(), pong(&round.to_be_bytes()));
                    pongs += 1;
                }
                _ => {
                    assert_eq!(frame.bytes(), recv_packet(&client.public(), &data));
                    packets += 1;
                }
            }
        }
    }
    client.expect_quiet();
}

fn home_is_counted_once(ground: Ground) {
    /// Changes of older connections are moves.
    const YOUNG: Duration = Duration::from_secs(5);
    let relay = Relay::start(ground, &[]);
    let begin = Instant::now();
    let (mut a, mut b) = (visit(&relay).log_in(), visit(&relay).log_in());
    let mut homes = |a_says: &[bool], b_says: &[bool]| {
        for (client, says) in [(&mut a, a_says), (&mut b, b_says)] {
            client.send(&says.iter().flat_map(|home| note_preferred(*home)).collect::<Vec<u8>>());
            client.expect_quiet();
        }
        relay.vars()["gauge_current_home_connections"].as_u64().unwrap()
    };
    assert_eq!(homes(&[false], &[]), 0);
    assert_eq!(homes(&[true, true, true], &[]), 1);
    assert_eq!(homes(&[], &[true]), 2);
    assert_eq!(homes(&[false, true, false], &[true]), 1);
    assert_eq!(homes(&[false], &[false]), 0);
    let young = begin.elapsed() < YOUNG;
    let vars = relay.vars();
    let moves = ["home_moves_in", "home_moves_out"].map(|name| vars[name].as_u64().unwrap());
    assert!(moves.iter().all(|moves| *moves <= 3), "home was taken and given up three times: {moves:?}");
    if young {
        assert_eq!(moves, [0, 0], "changes of young connections are no moves");
    }
}

/// KeepAlive comes after a minute, not among the first frames; nothing else comes unasked.
fn a_quiet_connection_stays_quiet(ground: Ground) {
    let relay = Relay::start_tls(ground, &[]);
    let mut clients: Vec<Client> = Mode::ALL[1..].iter().map(|mode| visit(&relay).mode(*mode).log_in()).collect();
    for _ in 0..100 {
        for client in &mut clients {
            client.expect_quiet();
        }
    }
}

on_backends!(
    one_pong_waits_at_a_time,
    pings_one_by_one_are_all_answered,
    pongs_and_packets_share_a_connection,
    home_is_counted_once,
    a_quiet_connection_stays_quiet,
);
