//! `--max-clients` and `--max-clients-per-ip`: who is too many hears 503 before the upgrade.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use crate::relay_support::frames::*;
use crate::relay_support::ground::on_workers;
use crate::relay_support::*;

fn refused(visit: &Visit<'_>) -> bool {
    let mut client = visit.connect();
    client.send(&[visit.request(), visit.client_info()].concat());
    let head = client.expect_head();
    if head.starts_with("HTTP/1.1 101 ") {
        client.expect_server_key();
        client.expect_server_info();
        return false;
    }
    assert!(head.starts_with("HTTP/1.1 503 "), "expected 101 or 503, got {head:?}");
    assert!(head.to_ascii_lowercase().contains("connection: close"), "expected an end, got {head:?}");
    true
}

/// A place is free again a little after its client has left: there is no event for it.
fn admitted_in_time(visit: &Visit<'_>) {
    let begin = Instant::now();
    while refused(visit) {
        assert!(begin.elapsed() < PATIENCE, "expected a free place after a client has left");
    }
}

fn the_third_of_two_is_refused(ground: Ground) {
    let relay = Relay::start_tls(ground, &["--max-clients", "2"]);
    assert_eq!(relay.value("clients"), "up to 2");
    for _ in 0..5 {
        let mut first = first_in(&relay);
        let mut second = first_in(&relay);
        for mode in [Mode::Tls12, Mode::Tls13] {
            assert!(refused(&visit(&relay).mode(mode)), "a third client");
            // It is refused in words, too, where it expects no answer to its request.
            assert!(refused(&visit(&relay).mode(mode).header("Derp-Fast-Start: 1")), "a third client in a hurry");
        }
        // A probe is no client.
        let mut prober = visit(&relay).connect();
        prober.send(b"GET /derp/probe HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(prober.expect_head().starts_with("HTTP/1.1 200 "));
        second.send_to(&first.public(), b"we are two");
        first.expect(&recv_packet(&second.public(), b"we are two"));
        drop(first);
        admitted_in_time(&visit(&relay));
        drop(second);
    }
}

/// The next client, as soon as there is room.
fn first_in(relay: &Relay) -> Client {
    let begin = Instant::now();
    loop {
        let visit = visit(relay);
        let mut client = visit.connect();
        client.send(&[visit.request(), visit.client_info()].concat());
        if client.expect_head().starts_with("HTTP/1.1 101 ") {
            client.expect_server_key();
            client.expect_server_info();
            return client;
        }
        assert!(begin.elapsed() < PATIENCE, "expected a free place");
    }
}

fn one_from_each_address(ground: Ground) {
    let relay = Relay::start(ground, &["--max-clients-per-ip", "1"]);
    let ip = |last: u8| IpAddr::from(Ipv4Addr::new(127, 0, 3, last));
    let first = visit(&relay).from(ip(1)).log_in();
    let mut other = visit(&relay).from(ip(2)).log_in();
    for last in [1, 2] {
        assert!(refused(&visit(&relay).from(ip(last))), "a second client from 127.0.3.{last}");
    }
    // A login that fails gives its place back.
    for _ in 0..3 {
        let visit = visit(&relay).from(ip(3));
        let mut client = visit.connect();
        client.send(&visit.request());
        client.expect_greeting();
        client.send(&frame(CLIENT_INFO, &[&[9; 100]]));
        client.until_end();
    }
    admitted_in_time(&visit(&relay).from(ip(3)));
    drop(first);
    admitted_in_time(&visit(&relay).from(ip(1)));
    other.expect_quiet();
}

on_workers!(the_third_of_two_is_refused, one_from_each_address);
