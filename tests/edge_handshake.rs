//! The hand-over from rustls' handshake to our own record layer, judged by rustls' client.

mod edge_support;

use std::io::{Read, Write};

use derpring::tls::handshake::{Established, Handshake, Step, TlsVersion};
use derpring::tls::{Flow, Transport};
use edge_support::*;
use rustls::{ClientConnection, SupportedProtocolVersion};

const EARLY: &[u8] = b"first words";
const LATER: &[u8] = b"and more of them, in a second record";

/// The flight that ends the handshake, with data in two records behind it, and how far the server is.
fn last_flight(
    pki: &Pki,
    version: &'static SupportedProtocolVersion,
    tickets: usize,
) -> (ClientConnection, Handshake, Vec<u8>) {
    let mut client = pki.client(version);
    let mut server = Handshake::new(pki.server_with_tickets(tickets)).unwrap();
    let (mut wire_in, mut out) = (flight(&mut client), Vec::new());
    assert!(matches!(server.advance(&mut wire_in, &mut out), Ok(Step::NeedInput)));
    deliver(&mut client, &out);
    // In TLS 1.2 rustls keeps this until the server's Finished; in 1.3 it goes out behind the client's.
    client.writer().write_all(EARLY).unwrap();
    let mut last = flight(&mut client);
    if client.is_handshaking() {
        // TLS 1.2: the client may speak only after a round trip, so there is none of its data in this flight.
        return (client, server, last);
    }
    client.writer().write_all(LATER).unwrap();
    last.extend(flight(&mut client));
    (client, server, last)
}

/// Both directions work, and nothing of `expected` is lost or doubled.
fn check(mut client: ClientConnection, established: Established, mut wire_in: Vec<u8>, out: &[u8], expected: &[u8]) {
    let Established { mut transport, mut plain, .. } = established;
    deliver(&mut client, out);
    wire_in.extend(flight(&mut client));
    assert_eq!(transport.open_into(&mut wire_in, &mut plain), Ok(Flow::Open));
    assert_eq!(plain, expected);
    assert!(wire_in.is_empty());

    let mut sealed = Vec::new();
    transport.seal_into(b"answer", &mut sealed).unwrap();
    deliver(&mut client, &sealed);
    let mut got = [0; 6];
    client.reader().read_exact(&mut got).unwrap();
    assert_eq!(&got, b"answer");
}

fn cut_everywhere(version: &'static SupportedProtocolVersion, tickets: usize, expected: &[u8]) {
    let pki = Pki::new();
    let length = last_flight(&pki, version, tickets).2.len();
    for cut in 0..=length + 10 {
        // Signatures may differ in length from run to run.
        let (client, mut server, flight) = last_flight(&pki, version, tickets);
        let (first, rest) = flight.split_at(cut.min(flight.len()));
        let (mut wire_in, mut out) = (first.to_vec(), Vec::new());
        let established = match server.advance(&mut wire_in, &mut out).unwrap() {
            Step::Done(established) => {
                wire_in.extend_from_slice(rest);
                established
            }
            Step::NeedInput => {
                wire_in.extend_from_slice(rest);
                match server.advance(&mut wire_in, &mut out).unwrap() {
                    Step::Done(established) => established,
                    Step::NeedInput => panic!("cut at {cut}: not finished with the whole flight"),
                }
            }
        };
        assert!(established.plain.is_empty(), "cut at {cut}: rustls has opened a record that was not its own");
        check(client, established, wire_in, &out, expected);
    }
}

#[test]
fn tls13_flight_with_data_behind_finished_cut_at_every_byte() {
    let both = [EARLY, LATER].concat();
    cut_everywhere(&rustls::version::TLS13, 2, &both);
    cut_everywhere(&rustls::version::TLS13, 0, &both);
}

#[test]
fn tls12_flight_cut_at_every_byte() {
    cut_everywhere(&rustls::version::TLS12, 0, EARLY);
}

#[test]
fn tls12_resumption_puts_data_behind_the_clients_finished() {
    let pki = Pki::new();
    let server = pki.server_with_tickets(0);
    let config = pki.client_config(&rustls::version::TLS12);
    let connect = || client_of(config.clone());
    let mut first = connect();
    let mut handshake = Handshake::new(server.clone()).unwrap();
    let (mut wire_in, mut out) = (flight(&mut first), Vec::new());
    handshake.advance(&mut wire_in, &mut out).unwrap();
    deliver(&mut first, &std::mem::take(&mut out));
    wire_in.extend(flight(&mut first));
    assert!(matches!(handshake.advance(&mut wire_in, &mut out), Ok(Step::Done(_))));
    deliver(&mut first, &out);

    let length = 300;
    for cut in 0..length {
        let mut client = connect();
        let mut handshake = Handshake::new(server.clone()).unwrap();
        let (mut wire_in, mut out) = (flight(&mut client), Vec::new());
        assert!(matches!(handshake.advance(&mut wire_in, &mut out), Ok(Step::NeedInput)));
        deliver(&mut client, &std::mem::take(&mut out));
        client.writer().write_all(EARLY).unwrap();
        let flight = flight(&mut client);
        assert!(!client.is_handshaking() && flight.len() < length, "resumed");
        let (head, tail) = flight.split_at(cut.min(flight.len()));
        wire_in.extend_from_slice(head);
        let mut step = handshake.advance(&mut wire_in, &mut out).unwrap();
        wire_in.extend_from_slice(tail);
        if matches!(step, Step::NeedInput) {
            step = handshake.advance(&mut wire_in, &mut out).unwrap();
        }
        let Step::Done(established) = step else { panic!("cut at {cut}") };
        assert_eq!(established.version, TlsVersion::V1_2);
        check(client, established, wire_in, &out, EARLY);
    }
}

#[test]
fn single_bytes_are_enough() {
    let pki = Pki::new();
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let mut client = pki.client(version);
        let mut server = Handshake::new(pki.server_with_tickets(2)).unwrap();
        let (mut wire_in, mut out) = (Vec::new(), Vec::new());
        let established = 'done: loop {
            let flight = flight(&mut client);
            assert!(!flight.is_empty());
            for byte in flight {
                wire_in.push(byte);
                if let Step::Done(established) = server.advance(&mut wire_in, &mut out).unwrap() {
                    break 'done established;
                }
            }
            deliver(&mut client, &std::mem::take(&mut out));
        };
        assert!(matches!(established.transport, Transport::Tls13(_) | Transport::Tls12(_)));
        client.writer().write_all(EARLY).unwrap();
        check(client, established, wire_in, &out, EARLY);
    }
}
