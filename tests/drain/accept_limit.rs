//! `--accept-limit`: connections beyond it are closed and counted, and the relay lives on.

use std::io::Read;
use std::process::Stdio;

use crate::relay_support::ground::on_backends;
use crate::relay_support::process::command;
use crate::relay_support::*;

/// How many of so many connections are let in.
fn let_in(relay: &Relay, tries: usize) -> usize {
    let sockets: Vec<_> = (0..tries).map(|_| wire::connect(relay.addr, None).unwrap()).collect();
    let answered = |mut socket: std::net::TcpStream| {
        let _ =
            std::io::Write::write_all(&mut socket, b"GET /derp/probe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let mut answer = Vec::new();
        // A reset, where our request came too late for it.
        let _ = socket.read_to_end(&mut answer);
        answer.starts_with(b"HTTP/1.1 200 ")
    };
    sockets.into_iter().map(answered).filter(|answered| *answered).count()
}

fn who_is_too_many_is_closed_and_counted(ground: Ground) {
    // So slow that none comes in again while this runs.
    let mut relay = Relay::start(ground, &["--accept-limit=0.0001", "--accept-burst=9", "--edges=2"]);
    let mut session = visit(&relay).log_in();
    assert_eq!(let_in(&relay, 5), 5);
    // Who has an answer has been let in: two edges take connections in no order.
    let probe = |client: &mut Client| {
        client.send(b"GET /derp/probe HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(client.expect_head().starts_with("HTTP/1.1 200 "));
    };
    let [_seventh, _eighth, mut counter] = [0; 3].map(|_| {
        let mut client = visit(&relay).connect();
        probe(&mut client);
        client
    });
    for _ in 0..5 {
        assert_eq!(let_in(&relay, 50), 0);
        // Each answer renews its deadline.
        probe(&mut counter);
    }
    session.expect_quiet();
    let vars = ask(counter, "/debug/vars");
    let vars: serde_json::Value = serde_json::from_str(&vars).unwrap();
    assert_eq!(vars["derp"]["gauge_current_connections"], 1, "{vars}");
    assert!(relay.lines().len() < 100, "no line for each of 250 connections");
}

/// The counters of derper's listener, which has them under TLS only.
fn derpers_counters_move(ground: Ground) {
    let args = ["--accept-limit=0.0001", "--accept-burst=3"];
    let relay = Relay::start_tls(ground, &args);
    let session = visit(&relay).log_in();
    let counter = visit(&relay).connect();
    let mut third = visit(&relay).log_in();
    for _ in 0..7 {
        let mut socket = wire::connect(relay.addr, None).unwrap();
        assert_eq!(socket.read(&mut [0]).unwrap(), 0, "closed without a word");
    }
    third.expect_quiet();
    let vars = ask(counter, "/debug/vars");
    let vars: serde_json::Value = serde_json::from_str(&vars).unwrap();
    let listener = &vars["tls_listener"];
    assert_eq!(listener["counter_accepted_connections"], 3, "{listener}");
    assert_eq!(listener["counter_rejected_connections"], 7, "{listener}");
    drop(session);
}

/// Asks on a connection that is there already.
fn ask(mut client: Client, path: &str) -> String {
    client.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes());
    client.expect_head();
    client.rest_of_it()
}

/// Under derper's command line plain HTTP is not limited: its limiter is that of the TLS listener.
fn derpers_flag_is_for_tls_only(ground: Ground) {
    let limit = ["-accept-connection-limit=0.0001", "-accept-connection-burst=2"];
    let dir = tempfile::TempDir::new().unwrap();
    let key = format!("-c={}", dir.path().join("key").display());
    let plain = ["derper", "-a=127.0.0.1:0", "-stun=false", "-http-port=-1", "-hostname=127.0.0.1", &key];
    let start = |more: &[&str]| {
        let mut command = command();
        command.env("DERPRING_BACKEND", ground.backend).stdin(Stdio::null());
        Relay::spawn(command.args(plain).args(more).args(limit))
    };
    assert_eq!(let_in(&start(&[]), 20), 20);
    let certs = format!("-certdir={}", dir.path().join("certs").display());
    let relay = start(&["-certmode=manual", &certs]);
    let two: Vec<Client> = (0..2).map(|_| visit(&relay).log_in()).collect();
    let mut socket = wire::connect(relay.addr, None).unwrap();
    assert_eq!(socket.read(&mut [0]).unwrap(), 0);
    drop(two);
}

on_backends!(who_is_too_many_is_closed_and_counted, derpers_counters_move, derpers_flag_is_for_tls_only);
