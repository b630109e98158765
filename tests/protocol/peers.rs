//! PeerGone: who is told that somebody left, or was never there.

use std::time::Instant;

use crate::relay_support::frames::*;
use crate::relay_support::ground::on_workers;
use crate::relay_support::*;

fn who_has_heard_of_a_peer_learns_that_it_left(ground: Ground) {
    let relay = Relay::start_tls(ground, &[]);
    let mut clients: Vec<Client> = (0..4).map(|_| visit(&relay).log_in()).collect();
    let mut stranger = visit(&relay).log_in();
    for round in 0..20_u64 {
        let mut leaver = visit(&relay).log_in();
        for client in &mut clients {
            // The relay has routed it, when it has come.
            client.send_to(&leaver.public(), b"hello");
            leaver.expect(&recv_packet(&client.public(), b"hello"));
            leaver.send(&send_packet(&client.public(), &round.to_be_bytes()).repeat(2));
            client.expect(&recv_packet(&leaver.public(), &round.to_be_bytes()));
            client.expect(&recv_packet(&leaver.public(), &round.to_be_bytes()));
        }
        let gone = peer_gone(&leaver.public(), DISCONNECTED);
        drop(leaver);
        for client in &mut clients {
            client.expect(&gone);
        }
    }
    stranger.expect_quiet();
    // Each was told once.
    for client in &mut clients {
        client.expect_quiet();
    }
}

/// It must neither overtake the packets nor get lost when the source is gone before they are written.
fn gone_comes_behind_the_last_packet(ground: Ground) {
    let relay = Relay::start_tls(ground, &[]);
    let mut witness = visit(&relay).log_in();
    for round in 0..100_u64 {
        let mut leaver = visit(&relay).log_in();
        let packets = (0..20).map(|at| noise(round * 20 + at, 1 + (at as usize * 977) % 3000));
        let packets: Vec<Vec<u8>> = packets.collect();
        leaver.send(&packets.iter().flat_map(|data| send_packet(&witness.public(), data)).collect::<Vec<u8>>());
        let source = leaver.public();
        if round % 2 == 0 {
            // Without a goodbye of TLS. Unread bytes there are none, so this is no reset.
            drop(leaver);
        } else {
            leaver.wire.tls.as_mut().unwrap().send_close_notify();
            leaver.send(&[]);
        }
        for data in &packets {
            witness.expect(&recv_packet(&source, data));
        }
        witness.expect(&peer_gone(&source, DISCONNECTED));
    }
}

/// Who comes back and leaves again is reported again, once.
fn a_peer_that_returns_can_leave_again(ground: Ground) {
    let relay = Relay::start(ground, &[]);
    let mut witness = visit(&relay).log_in();
    let key = Key::fresh();
    for round in 0..10_u64 {
        let mut peer = visit(&relay).key(&key).log_in();
        peer.send_to(&witness.public(), &round.to_be_bytes());
        witness.expect(&recv_packet(&key.public, &round.to_be_bytes()));
        drop(peer);
        witness.expect(&peer_gone(&key.public, DISCONNECTED));
    }
    witness.expect_quiet();
}

/// Nothing is said as long as another connection of the key is there.
fn the_last_connection_of_a_key_counts(ground: Ground) {
    let relay = Relay::start(ground, &[]);
    let mut witness = visit(&relay).log_in();
    let key = Key::fresh();
    let mut first = visit(&relay).key(&key).log_in();
    let mut second = visit(&relay).key(&key).log_in();
    for client in [&mut first, &mut second] {
        client.send_to(&witness.public(), b"from here");
        witness.expect(&recv_packet(&key.public, b"from here"));
    }
    drop(first);
    // Behind the departure of the first on its own worker, or before it: quiet either way.
    second.send_to(&witness.public(), b"still here");
    witness.expect(&recv_packet(&key.public, b"still here"));
    witness.expect_quiet();
    drop(second);
    witness.expect(&peer_gone(&key.public, DISCONNECTED));
    witness.expect_quiet();
}

fn disco_to_nobody_is_answered_within_limits(ground: Ground) {
    let relay = Relay::start_tls(ground, &[]);
    let mut client = visit(&relay).log_in();
    let mut other = visit(&relay).log_in();
    let strangers: Vec<Public> = (0..40).map(|_| Key::fresh().public).collect();
    let begin = Instant::now();
    let burst = strangers.iter().flat_map(|key| send_packet(key, &disco(62)));
    client.send(&burst.collect::<Vec<u8>>());
    let answers = client.settle();
    // One more for each second that this took.
    let most = 3 + begin.elapsed().as_secs() as usize;
    assert!((3..=most).contains(&answers.len()), "expected 3 to {most} answers, got {answers:?}");
    for (answer, key) in answers.iter().zip(&strangers) {
        assert_eq!(answer.bytes(), peer_gone(key, NOT_HERE), "of the first ones");
    }
    // Another connection has its own measure.
    other.send_to(&strangers[0], &disco(1000));
    other.expect(&peer_gone(&strangers[0], NOT_HERE));

    // And it fills up again, one a second.
    let mut more = 0;
    while more < 2 {
        client.send_to(&strangers[7], &disco(62));
        for answer in client.settle() {
            assert_eq!(answer.bytes(), peer_gone(&strangers[7], NOT_HERE));
            more += 1;
        }
        let most = 1 + begin.elapsed().as_secs() as usize;
        assert!(more <= most, "{more} more answers in {:?}", begin.elapsed());
        assert!(begin.elapsed() < PATIENCE, "expected more answers after a second");
    }
}

/// 61 bytes, or another beginning: not disco.
fn what_only_looks_like_disco_is_not_answered(ground: Ground) {
    let relay = Relay::start(ground, &[]);
    let mut client = visit(&relay).log_in();
    let mut close = disco(62);
    close[5] ^= 1;
    for data in [&disco(62)[..61], &close, b""] {
        client.send_to(&Key::fresh().public, data);
    }
    client.expect_quiet();
}

on_workers!(
    who_has_heard_of_a_peer_learns_that_it_left,
    gone_comes_behind_the_last_packet,
    a_peer_that_returns_can_leave_again,
    the_last_connection_of_a_key_counts,
    disco_to_nobody_is_answered_within_limits,
    what_only_looks_like_disco_is_not_answered,
);
