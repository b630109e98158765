//! What a frame's header may say: which frames end the connection, which are passed over.

use std::fs;

use tempfile::TempDir;

use crate::relay_support::frames::*;
use crate::relay_support::ground::{on_backends, on_workers};
use crate::relay_support::*;

const MESH: &str = "5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed5eed";

/// The beginning of a frame that announces `len` bytes: enough of them that the reference has judged it, too.
fn beginning(kind: u8, len: u32) -> Vec<u8> {
    [header(kind, len), vec![0; len.min(70) as usize]].concat()
}

/// Sends a packet, the frame, and another packet, in one go. The first packet is the last thing that counts.
fn ends(relay: &Relay, witness: &mut Client, visit: &Visit<'_>, what: &str, bad: &[u8]) {
    for mode in Mode::ALL {
        if relay.tls == (mode == Mode::Plain) {
            continue;
        }
        let mut client = visit.clone().mode(mode).key(&Key::fresh()).log_in();
        let before = send_packet(&witness.public(), b"before");
        let after = send_packet(&witness.public(), b"after");
        client.send(&[&before, bad, &after].concat());
        match client.next() {
            Event::End(_, 0) => {}
            other => panic!("{what} in {mode:?}: expected the end of the connection, got {other:?}"),
        }
        witness.expect(&recv_packet(&client.public(), b"before"));
        witness.expect(&peer_gone(&client.public(), DISCONNECTED));
    }
    witness.expect_quiet();
}

fn frames_that_end_the_connection(ground: Ground) {
    let plain = Relay::start(ground, &[]);
    let tls = Relay::start_tls(ground, &[]);
    for relay in [&plain, &tls] {
        let mut witness = visit(relay).log_in();
        for (kind, len) in [
            (SEND_PACKET, 0),
            (SEND_PACKET, 31),
            (SEND_PACKET, 32 + 65_537),
            (SEND_PACKET, 1 << 24),
            (SEND_PACKET, u32::MAX),
            (NOTE_PREFERRED, 0),
            (NOTE_PREFERRED, 2),
            (NOTE_PREFERRED, u32::MAX),
            (PING, 0),
            (PING, 7),
            (PING, 1001),
            (PING, u32::MAX),
            (WATCH_CONNS, 0),
            (WATCH_CONNS, 1),
            (WATCH_CONNS, u32::MAX),
            (CLOSE_PEER, 32),
            (CLOSE_PEER, 31),
            (CLOSE_PEER, u32::MAX),
            (FORWARD_PACKET, 64),
            (FORWARD_PACKET, 63),
            (FORWARD_PACKET, u32::MAX),
        ] {
            let what = format!("a {kind:#04x} of {len} bytes without mesh rights");
            ends(relay, &mut witness, &visit(relay), &what, &beginning(kind, len));
        }
    }
}

fn mesh_frames_that_end_the_connection(ground: Ground) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("mesh.key");
    fs::write(&path, format!("{MESH}\n")).unwrap();
    let relay = Relay::start_tls(ground, &["--mesh-key-file", path.to_str().unwrap()]);
    let mut witness = visit(&relay).log_in();
    for (kind, len) in [
        (SEND_PACKET, 31),
        (NOTE_PREFERRED, 2),
        (PING, 7),
        (WATCH_CONNS, 1),
        (WATCH_CONNS, u32::MAX),
        (CLOSE_PEER, 0),
        (CLOSE_PEER, 31),
        (CLOSE_PEER, 33),
        (FORWARD_PACKET, 0),
        (FORWARD_PACKET, 63),
        (FORWARD_PACKET, 64 + 65_537),
        (FORWARD_PACKET, u32::MAX),
    ] {
        let what = format!("a {kind:#04x} of {len} bytes with mesh rights");
        ends(&relay, &mut witness, &visit(&relay).mesh(MESH), &what, &beginning(kind, len));
    }
}

/// Types that nobody knows, that only the relay sends, and a second ClientInfo.
fn skipped() -> impl Iterator<Item = u8> {
    let meant = [SEND_PACKET, NOTE_PREFERRED, FORWARD_PACKET, WATCH_CONNS, CLOSE_PEER, PING];
    (0..=u8::MAX).filter(move |kind| !meant.contains(kind))
}

fn frames_that_are_passed_over(ground: Ground) {
    let plain = Relay::start(ground, &[]);
    let tls = Relay::start_tls(ground, &[]);
    for mode in Mode::ALL {
        let relay = if mode == Mode::Plain { &plain } else { &tls };
        let mut client = visit(relay).mode(mode).log_in();
        let mut sent = 0;
        for len in [0, 1, 3, 100] {
            // Their payload looks like a frame that would end the connection.
            let all = skipped().flat_map(|kind| frame(kind, &[&[WATCH_CONNS; 100][..len]]));
            client.send(&all.collect::<Vec<u8>>());
            sent += skipped().count();
            client.expect_quiet();
        }
        for len in [56, 16_384, 70_000, 1 << 20, 5_000_000] {
            for kind in [CLIENT_INFO, RECV_PACKET, PONG, RESTARTING, 0x00, 0xff] {
                client.pump(&frame(kind, &[&noise(9, len)]));
                sent += 1;
            }
            client.expect_quiet();
        }
        if mode == Mode::Plain {
            assert_eq!(relay.vars()["unknown_frames"], sent as u64, "unknown_frames");
        }
    }
}

/// A frame of 4 GiB less a byte begins; what would be frames behind its header is part of it.
fn four_gib_are_only_announced(ground: Ground) {
    let plain = Relay::start(ground, &[]);
    let tls = Relay::start_tls(ground, &[]);
    for mode in Mode::ALL {
        let relay = if mode == Mode::Plain { &plain } else { &tls };
        let mut witness = visit(relay).mode(mode).log_in();
        for kind in [0x00, CLIENT_INFO, RECV_PACKET, PONG, 0xff] {
            let mut client = visit(relay).mode(mode).log_in();
            let trap = [send_packet(&witness.public(), b"inside"), ping(b"12345678")].concat().repeat(200);
            client.send(&header(kind, u32::MAX));
            for _ in 0..50 {
                client.pump(&trap);
            }
            // Nothing has come, and nothing but the client ends it.
            client.wire.socket.shutdown(std::net::Shutdown::Write).unwrap();
            let end = client.expect_end();
            assert!(matches!(end, End::Fin | End::CloseNotify), "{kind:#04x}: expected an orderly end, got {end:?}");
            witness.expect_quiet();
        }
    }
}

fn the_largest_and_smallest_that_count(ground: Ground) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("mesh.key");
    fs::write(&path, MESH).unwrap();
    let relay = Relay::start(ground, &["--mesh-key-file", path.to_str().unwrap()]);
    let (mut mesh, mut client) = (visit(&relay).mesh(MESH).log_in(), visit(&relay).log_in());
    for len in [0, MAX_PACKET] {
        let data = noise(3, len);
        client.send_to(&mesh.public(), &data);
        mesh.expect(&recv_packet(&client.public(), &data));
        let source = Key::fresh().public;
        mesh.send(&forward_packet(&source, &client.public(), &data));
        client.expect(&recv_packet(&source, &data));
    }
    for len in [8, 9, 100, 999, 1000] {
        let data = noise(len as u64, len);
        client.send(&ping(&data));
        client.expect(&pong(data[..8].try_into().unwrap()));
    }
    for value in [0, 1, 2, 255] {
        client.send(&frame(NOTE_PREFERRED, &[&[value]]));
    }
    client.expect_quiet();
    mesh.expect_quiet();
}

/// An end inside a header or a frame is an ordinary end.
fn a_stream_may_end_anywhere(ground: Ground) {
    let relay = Relay::start(ground, &[]);
    let mut witness = visit(&relay).log_in();
    let whole = send_packet(&witness.public(), b"whole");
    for cut in 0..whole.len() {
        let mut client = visit(&relay).log_in();
        client.send(&[&whole, &whole[..cut]].concat());
        client.wire.socket.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(client.expect_end(), End::Fin, "cut at {cut}");
        witness.expect(&recv_packet(&client.public(), b"whole"));
        witness.expect(&peer_gone(&client.public(), DISCONNECTED));
    }
}

on_backends!(
    frames_that_end_the_connection,
    mesh_frames_that_end_the_connection,
    frames_that_are_passed_over,
    the_largest_and_smallest_that_count,
    a_stream_may_end_anywhere,
);

mod spread {
    use super::four_gib_are_only_announced;
    super::on_workers!(four_gib_are_only_announced);
}
