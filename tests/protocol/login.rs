//! ServerKey, ClientInfo, ServerInfo.

use std::fs;

use crypto_box::aead::Aead;
use crypto_box::{PublicKey, SalsaBox, SecretKey};
use tempfile::TempDir;

use crate::relay_support::frames::{self, *};
use crate::relay_support::ground::on_backends;
use crate::relay_support::*;

const CLIENT_SECRET: &str = "0002030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f60";
const CLIENT_PUBLIC: &str = "07a37cbc142093c8b755dc1b10e86cb426374ad16aa853ed0bdfc0b2b86d1c7c";
const SERVER_SECRET: &str = "4042434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f60";
const SERVER_PUBLIC: &str = "64b101b1d0be5a8704bd078f9895001fc03e8e9f9522f188dd128d9846d48466";
const CLIENT_BOX: &str =
    "adae4041b70fe715a2dcf63c8ac02df1e4e99f7e03896c0d8df02f11f38281e1fd9e1b60e2040edd9003eadd2e2a72bf";

fn nonce() -> [u8; 24] {
    std::array::from_fn(|at| at as u8)
}

fn fixed_relay(ground: Ground, dir: &TempDir) -> Relay {
    let path = dir.path().join("relay.key");
    fs::write(&path, format!("{{\"PrivateKey\": \"privkey:{SERVER_SECRET}\"}}")).unwrap();
    let relay = Relay::start(ground, &["--key-file", path.to_str().unwrap()]);
    assert_eq!(hex(&relay.public), SERVER_PUBLIC, "the start block's public key");
    relay
}

fn known_bytes_log_in(ground: Ground) {
    let dir = TempDir::new().unwrap();
    let relay = fixed_relay(ground, &dir);
    let key = Key::of(unhex32(CLIENT_SECRET));
    assert_eq!(hex(&key.public), CLIENT_PUBLIC);
    let login = unhex(&format!("0200000068{CLIENT_PUBLIC}{}{CLIENT_BOX}", hex(&nonce())));

    // What was recorded once opens again: the reference has no challenge either.
    for round in 0..2 {
        let visit = visit(&relay).key(&key);
        let mut client = visit.connect();
        client.send(&visit.request());
        let head = client.expect_head();
        assert!(head.contains(&format!("\r\nDerp-Public-Key: {SERVER_PUBLIC}\r\n")), "round {round}: {head}");
        client.expect(&unhex(&format!("010000002844455250f09f9491{SERVER_PUBLIC}")));
        client.send(&login);
        let info = client.frame();
        assert_eq!((info.kind, info.payload.len()), (SERVER_INFO, 53), "round {round}");
        let says = key.open_server_info(&relay.public, &info.payload);
        assert_eq!(says.as_deref(), Some("{\"version\":2}"), "round {round}");
        client.send_to(&key.public, b"to myself");
        client.expect(&recv_packet(&key.public, b"to myself"));
    }
}

fn fast_start_gets_no_http(ground: Ground) {
    let relay = Relay::start_tls(ground, &[]);
    for mode in [Mode::Tls12, Mode::Tls13] {
        let visit = visit(&relay).mode(mode).header("Derp-Fast-Start: 1");
        let mut client = visit.connect();
        client.send(&[visit.request(), visit.client_info()].concat());
        client.expect_server_key();
        client.expect_server_info();
        client.expect_quiet();
    }
    // Only the exact value counts.
    let mut client = visit(&relay).header("Derp-Fast-Start: true").log_in();
    client.expect_quiet();
}

fn json_is_read_as_go_reads_it(ground: Ground) {
    let relay = Relay::start(ground, &[]);
    for json in [
        r#"{}"#,
        "null",
        " { } ",
        r#"{"version":2}"#,
        r#"{"Version":7,"CANACKPINGS":true,"isprober":true}"#,
        r#"{"version":1,"version":2}"#,
        r#"{"CanAckPings":null,"AppName":"x","more":[{"deep":1e9}]}"#,
        &format!(r#"{{"meshKey":"{}"}}"#, "ab".repeat(32)),
        &format!(r#"{{"MESHKEY":"{}"}}"#, "AB".repeat(32)),
    ] {
        let mut client = visit(&relay).json(json).log_in();
        client.expect_quiet();
    }
}

fn what_is_no_login_is_closed(ground: Ground) {
    let relay = Relay::start(ground, &[]);
    let visit = visit(&relay);
    let good = visit.client_info();
    let short = frame(CLIENT_INFO, &[&good[5..5 + 55]]);
    let sealed = |json: &str| visit.key.client_info(&relay.public, nonce(), json);
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        bytes
    };
    let zero_key = {
        // With the zero key everybody knows the shared secret: the box itself opens.
        let shared = SalsaBox::new(&PublicKey::from([0; 32]), &SecretKey::from([7; 32]));
        let sealed = shared.encrypt((&nonce()).into(), &b"{\"version\":2}"[..]).unwrap();
        frame(CLIENT_INFO, &[&[0; 32], &nonce(), &sealed])
    };
    let mut rows: Vec<(String, Vec<u8>)> = vec![
        ("a frame of another type".into(), send_packet(&visit.key.public, b"early")),
        ("a ping".into(), ping(&[0; 8])),
        ("an unknown frame".into(), frame(0x77, &[&[0; 100]])),
        ("55 bytes".into(), short),
        ("no bytes".into(), header(CLIENT_INFO, 0)),
        ("256 KiB and a byte".into(), header(CLIENT_INFO, 262_145)),
        ("4 GiB".into(), header(CLIENT_INFO, u32::MAX)),
        ("the zero key".into(), zero_key),
        ("sealed for another relay".into(), visit.key.client_info(&Key::fresh().public, nonce(), "{}")),
        ("a key without a box".into(), frame(CLIENT_INFO, &[&good[5..5 + 56]])),
    ];
    rows.extend([5, 36, 37, 60, 61, 77, good.len() - 1].map(|at| (format!("byte {at} flipped"), flipped(at))));
    for json in [
        "",
        "{",
        "{} {}",
        "[]",
        "2",
        r#""text""#,
        r#"{"version":"2"}"#,
        r#"{"version":2.5}"#,
        r#"{"CanAckPings":1}"#,
        r#"{"IsProber":"yes"}"#,
        r#"{"AppName":7}"#,
        r#"{"meshKey":""}"#,
        r#"{"meshKey":null}"#,
        r#"{"meshKey":"abc"}"#,
        &format!(r#"{{"meshKey":"{}"}}"#, "zz".repeat(32)),
        &format!(r#"{{"meshKey":"{}"}}"#, "ab".repeat(33)),
    ] {
        rows.push((format!("{json:?}"), sealed(json)));
    }
    for (what, bytes) in rows {
        let mut client = visit.connect();
        client.send(&visit.request());
        client.expect_greeting();
        client.send(&bytes);
        match client.next() {
            Event::End(End::Fin | End::Reset, 0) => {}
            other => panic!("{what}: expected the end of the connection, got {other:?}"),
        }
    }
    visit.log_in().expect_quiet();
}

/// The largest that the reference takes.
fn a_login_of_256_kib(ground: Ground) {
    let relay = Relay::start_tls(ground, &[]);
    let text = "x".repeat(262_144 - 56 - 16 - r#"{"AppName":""}"#.len());
    for mode in [Mode::Tls12, Mode::Tls13] {
        let visit = visit(&relay).mode(mode).json(&format!(r#"{{"AppName":"{text}"}}"#));
        assert_eq!(visit.client_info().len(), 5 + 262_144);
        visit.log_in().expect_quiet();
    }
}

fn odd_requests_upgrade(ground: Ground) {
    let relay = Relay::start(ground, &[]);
    for head in [
        "POST /derp HTTP/1.1\r\nHost: x\r\nUpgrade: derp\r\n\r\n",
        "GET /derp HTTP/1.0\r\nUpgrade: DERP\r\n\r\n",
        "GET /derp HTTP/1.1\r\nhost:x\r\nupgrade:  WebSocket \r\nConnection: close\r\n\r\n",
    ] {
        let visit = visit(&relay);
        let mut client = visit.connect();
        client.send(head.as_bytes());
        client.expect_greeting();
        client.send(&visit.client_info());
        client.expect_server_info();
    }
    for (head, wanted) in [
        ("GET /derp HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 426 "),
        ("GET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\n\r\n", "HTTP/1.1 426 "),
        ("GET /derp HTTP/1.1\r\nUpgrade: DERP\r\n\r\n", "HTTP/1.1 400 "),
    ] {
        let mut client = visit(&relay).connect();
        client.send(head.as_bytes());
        let answer = client.expect_head();
        assert!(answer.starts_with(wanted), "{head:?}: expected {wanted:?}, got {answer:?}");
    }
}

/// A probe and the upgrade on one connection, and a whole flight behind the probe.
fn a_connection_may_ask_before_it_upgrades(ground: Ground) {
    let relay = Relay::start(ground, &[]);
    let visit = visit(&relay);
    let mut client = visit.connect();
    let probe = b"GET /derp/probe HTTP/1.1\r\nHost: x\r\n\r\n";
    client.send(probe);
    let answer = client.expect_head();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
    let packet = send_packet(&visit.key.public, b"behind it all");
    client.send(&[&probe[..], &visit.request(), &visit.client_info(), &packet].concat());
    let answer = client.expect_head();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
    client.expect_greeting();
    client.expect_server_info();
    client.expect(&frames::recv_packet(&visit.key.public, b"behind it all"));
}

on_backends!(
    known_bytes_log_in,
    fast_start_gets_no_http,
    json_is_read_as_go_reads_it,
    what_is_no_login_is_closed,
    a_login_of_256_kib,
    odd_requests_upgrade,
    a_connection_may_ask_before_it_upgrades,
);
