//! Several connections with one key: who wrote last is who is written to.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::relay_support::frames::*;
use crate::relay_support::ground::{on_backends, on_workers};
use crate::relay_support::*;

/// One of the connections speaks. When its packet has come to `witness`, the worker of `witness` knows who is active.
#[track_caller]
fn speaks(client: &mut Client, witness: &mut Client) {
    client.send_to(&witness.public(), b"me");
    witness.expect(&recv_packet(&client.public(), b"me"));
}

/// What `witness` sends to the key comes to `client`. Others would see it later, instead of what they wait for.
#[track_caller]
fn is_active(client: &mut Client, witness: &mut Client, what: &str) {
    witness.send_to(&client.public(), what.as_bytes());
    loop {
        let frame = client.frame();
        if frame.kind != HEALTH {
            assert_eq!(frame.bytes(), recv_packet(&witness.public(), what.as_bytes()), "{what}");
            return;
        }
    }
}

fn the_last_writer_is_active(ground: Ground) {
    let relay = Relay::start_tls(ground, &[]);
    let mut witness = visit(&relay).log_in();
    let key = Key::fresh();
    let mut clients: Vec<Client> = Vec::new();
    for at in 0..4 {
        clients.push(visit(&relay).key(&key).log_in());
        is_active(&mut clients[at], &mut witness, &format!("newest of {}", at + 1));
    }
    for turn in 0..40 {
        let client = &mut clients[turn * 7 % 4];
        speaks(client, &mut witness);
        is_active(client, &mut witness, &format!("turn {turn}"));
    }
    // Any frame does.
    for client in &mut clients {
        client.settle();
        if ground.workers == 1 {
            is_active(client, &mut witness, "who pinged");
        }
    }
}

fn a_survivor_takes_over(ground: Ground) {
    let relay = Relay::start(ground, &[]);
    let mut witness = visit(&relay).log_in();
    let key = Key::fresh();
    let mut first = visit(&relay).key(&key).log_in();
    let mut second = visit(&relay).key(&key).log_in();
    is_active(&mut second, &mut witness, "the newest");
    drop(second);
    // When every worker knows of it there is no event to wait for: some packets may still go the old way.
    let arrived = AtomicBool::new(false);
    let source = witness.public();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !arrived.load(Ordering::Acquire) {
                witness.send_to(&key.public, b"anybody?");
                thread::sleep(Duration::from_millis(5));
            }
        });
        let frame = first.frame();
        arrived.store(true, Ordering::Release);
        assert_eq!(frame.bytes(), recv_packet(&source, b"anybody?"));
    });
}

/// Both are told that somebody uses their key, once; who is left alone is told that all is well.
fn a_copied_key_is_told_so(ground: Ground) {
    let relay = Relay::start(ground, &[]);
    let mut witness = visit(&relay).log_in();
    let key = Key::fresh();
    let mut first = visit(&relay).key(&key).log_in();
    let mut second = visit(&relay).key(&key).log_in();
    for _ in 0..10 {
        speaks(&mut first, &mut witness);
        speaks(&mut second, &mut witness);
    }
    for client in [&mut first, &mut second] {
        let frame = client.frame();
        let text = String::from_utf8_lossy(&frame.payload).into_owned();
        assert!(frame.kind == HEALTH && text.contains("key"), "expected a Health frame about the key, got {frame:?}");
        client.expect_quiet();
    }
    drop(second);
    first.expect(&header(HEALTH, 0));
    first.expect_quiet();
    witness.expect_quiet();
}

/// The old connection ends after the new one has come: no copied key.
///
/// On several workers there is no event that tells when the end of the old one is known everywhere.
fn a_reconnect_is_no_copy(ground: Ground) {
    let relay = Relay::start(ground, &[]);
    let mut witness = visit(&relay).log_in();
    let key = Key::fresh();
    let mut current = visit(&relay).key(&key).log_in();
    for round in 0..20 {
        speaks(&mut current, &mut witness);
        let mut next = visit(&relay).key(&key).log_in();
        // What the old one still had on the way.
        speaks(&mut current, &mut witness);
        speaks(&mut next, &mut witness);
        current.wire.socket.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(current.until_end(), (vec![], End::Fin), "round {round}");
        current = next;
    }
    current.expect_quiet();
    witness.expect_quiet();
}

on_workers!(the_last_writer_is_active, a_survivor_takes_over, a_copied_key_is_told_so);

mod alone {
    use super::a_reconnect_is_no_copy;
    super::on_backends!(a_reconnect_is_no_copy);
}
