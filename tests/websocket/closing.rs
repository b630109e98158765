//! How a WebSocket ends, and what each side is told.

use rustix::process::Signal;
use tungstenite::Message;

use crate::judge::{Heard, Judge, relays};
use crate::relay_support::frames::*;
use crate::relay_support::ground::on_workers;
use crate::relay_support::*;

const LIMIT: usize = 128 * 1024;

const UPGRADE: &[u8] = b"GET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: derp\r\n\r\n";

/// The code comes back, and whoever had heard of the client hears of its end.
fn a_client_that_closes_is_answered(ground: Ground) {
    for (relay, modes) in &relays(ground, &[]) {
        for mode in *modes {
            let mut bob = visit(relay).mode(*mode).log_in();
            for code in [1000, 1001, 3000, 4999] {
                let mut alice = Judge::log_in(relay, *mode);
                alice.send_to(&bob.public(), b"Hello");
                bob.expect(&recv_packet(&alice.public(), b"Hello"));
                alice.close(code);
                assert_eq!(alice.next(), Heard::Close(Some(code)));
                assert_eq!(alice.next(), Heard::End { clean: true });
                bob.expect(&peer_gone(&alice.public(), DISCONNECTED));
            }
        }
    }
}

/// Its own Close comes behind what the relay had for it.
fn what_waits_is_sent_before_the_close(ground: Ground) {
    for (relay, modes) in &relays(ground, &[]) {
        for mode in *modes {
            let mut alice = Judge::log_in(relay, *mode);
            let me = alice.public();
            let all: Vec<u8> = (0..20).flat_map(|n| send_packet(&me, &noise(n, 1000))).collect();
            alice.send(&all);
            for n in 0..20 {
                alice.expect(&recv_packet(&me, &noise(n, 1000)));
            }
            alice.close(1000);
            alice.expect_close(1000);
        }
    }
}

type Violation = fn(&mut Judge);

fn violations_are_named(ground: Ground) {
    let text = |judge: &mut Judge| judge.ws.send(Message::text("Hello")).unwrap();
    let nothing_to_continue = |judge: &mut Judge| judge.send_fragment(b"end of what?", false, true);
    let begun_twice = |judge: &mut Judge| {
        judge.send_fragment(b"", true, false);
        judge.send_fragment(b"", true, false);
    };
    let violations: [(u16, Violation); 3] = [(1003, text), (1002, nothing_to_continue), (1002, begun_twice)];
    for (relay, modes) in &relays(ground, &[]) {
        for mode in *modes {
            let mut bob = visit(relay).mode(*mode).log_in();
            for (code, violate) in violations {
                let mut alice = Judge::log_in(relay, *mode);
                alice.send_to(&bob.public(), b"Hello");
                bob.expect(&recv_packet(&alice.public(), b"Hello"));
                violate(&mut alice);
                alice.expect_close(code);
                bob.expect(&peer_gone(&alice.public(), DISCONNECTED));
            }
        }
    }
}

/// The limit is on the whole message. More is on its way when the relay hangs up: its Close may be lost to a reset.
fn messages_have_a_limit(ground: Ground) {
    for (relay, modes) in &relays(ground, &[]) {
        for mode in *modes {
            let mut alice = Judge::log_in(relay, *mode);
            let unknown = |len: usize| frame(0x77, &[&vec![0; len - 5]]);
            alice.send(&unknown(LIMIT));
            for (n, part) in unknown(LIMIT).chunks(LIMIT / 4).enumerate() {
                alice.send_fragment(part, n == 0, n == 3);
            }
            alice.expect_quiet();
            for first in [LIMIT, 1] {
                let mut alice = Judge::log_in(relay, *mode);
                alice.send_fragment(&unknown(LIMIT + 1)[..first], true, false);
                // The relay may be gone before all of it is sent.
                let _ = alice.try_send_fragment(&vec![0; LIMIT + 1 - first], false, true);
                match alice.next() {
                    Heard::Close(code) => assert_eq!(code, Some(1009)),
                    Heard::End { clean } => assert!(!clean),
                    other => panic!("expected the end, got {other:?}"),
                }
            }
        }
    }
}

fn a_relay_that_stops_goes_away(ground: Ground) {
    for (mut relay, modes) in relays(ground, &[]) {
        let mut judges: Vec<_> =
            modes.iter().flat_map(|mode| [*mode; 4]).map(|mode| Judge::log_in(&relay, mode)).collect();
        // In the middle of a message, which never ends.
        judges[0].send_fragment(b"\x77\x00\x00", true, false);
        judges[1].expect_quiet();
        relay.signal(Signal::TERM);
        for judge in &mut judges {
            let told = judge.frame();
            assert_eq!((told.kind, told.payload.len()), (RESTARTING, 8), "expected Restarting, got {told:?}");
            judge.expect_close(1001);
        }
        assert!(relay.wait().success());
    }
}

/// With an answer that clients understand as passing, before there is a WebSocket.
fn a_full_relay_refuses_the_upgrade(ground: Ground) {
    for (relay, modes) in &relays(ground, &["--max-clients=1"]) {
        let mut alice = Judge::log_in(relay, modes[0]);
        let mut refused = visit(relay).mode(modes[0]).connect();
        refused.send(UPGRADE);
        let head = refused.expect_head();
        assert!(head.starts_with("HTTP/1.1 503 "), "expected 503, got {head}");
        alice.expect_quiet();
    }
}

fn a_closed_peer_is_told(ground: Ground) {
    let key = "ab".repeat(32);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mesh.key");
    std::fs::write(&file, &key).unwrap();
    for (relay, modes) in &relays(ground, &[&format!("--mesh-key-file={}", file.display())]) {
        for mode in *modes {
            let mut mesh = visit(relay).mode(*mode).mesh(&key).log_in();
            let mut alice = Judge::log_in(relay, *mode);
            mesh.send(&close_peer(&alice.public()));
            alice.expect_close(1000);
        }
    }
}

on_workers!(
    a_client_that_closes_is_answered,
    what_waits_is_sent_before_the_close,
    violations_are_named,
    messages_have_a_limit,
    a_relay_that_stops_goes_away,
    a_full_relay_refuses_the_upgrade,
    a_closed_peer_is_told,
);
