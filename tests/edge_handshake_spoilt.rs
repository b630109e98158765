//! Handshakes that are cut up, spoilt, or no handshakes.

mod edge_support;

use std::io::{Cursor, Write};

use derpring::tls::Flow;
use derpring::tls::handshake::{Handshake, HandshakeError, Step};
use edge_support::*;

#[test]
fn garbage_is_answered_with_an_alert() {
    let pki = Pki::new();
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\xff\xff", b"\x17\x03\x03\0\x05aaaaa"] {
        let mut server = Handshake::new(pki.server_with_tickets(0)).unwrap();
        let (mut wire_in, mut out) = (garbage.to_vec(), Vec::new());
        let error = server.advance(&mut wire_in, &mut out).unwrap_err();
        assert!(matches!(error, HandshakeError::Peer(_)), "{garbage:?}: {error:?}");
        assert_eq!(out.first(), Some(&21), "{garbage:?}");
    }
}

/// rustls keeps the half message, and indexes by it into whatever it is given next.
#[test]
fn failure_in_the_middle_of_a_message_is_only_an_error() {
    let pki = Pki::new();
    let half = b"\x16\x03\x01\0\x04\x01\0\x01\0";
    for behind in [&b"\x15\x03\x01\0\x02\x02\x28"[..], b"\x14\x03\x01\0\x01\x01", b"\x16\x03\x01\0\0", b"nonsense"] {
        let mut server = Handshake::new(pki.server_with_tickets(0)).unwrap();
        let (mut wire_in, mut out) = ([half, behind].concat(), Vec::new());
        assert!(matches!(server.advance(&mut wire_in, &mut out), Err(HandshakeError::Peer(_))), "{behind:?}");
        assert!(matches!(server.advance(&mut wire_in, &mut out), Err(HandshakeError::Ours(_))), "over is over");
    }
    let mut server = Handshake::new(pki.server_with_tickets(0)).unwrap();
    let too_long = b"\x16\x03\x01\0\x04\x01\xff\xff\xff";
    assert!(matches!(server.advance(&mut too_long.to_vec(), &mut Vec::new()), Err(HandshakeError::Peer(_))));
}

#[test]
fn endless_handshake_message_is_bounded() {
    let pki = Pki::new();
    let mut server = Handshake::new(pki.server_with_tickets(0)).unwrap();
    let (mut wire_in, mut out) = (Vec::new(), Vec::new());
    // A ClientHello that claims 16 MiB, then one that claims just under the largest that TLS knows.
    let mut error = None;
    for n in 0..100 {
        let mut body = vec![0; 1 << 14];
        if n == 0 {
            body[..4].copy_from_slice(&[1, 0, 0xff, 0xff]);
        }
        wire_in.extend_from_slice(&[22, 3, 1, 0x40, 0]);
        wire_in.extend(body);
        if let Err(e) = server.advance(&mut wire_in, &mut out) {
            error = Some(e);
            break;
        }
    }
    assert!(error.is_some());
    assert!(wire_in.len() < 100 * 1024);
}

/// The bodies of the records in `wire`, in records of at most `size` bytes.
fn fragment(wire: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = wire;
    while let Some(header) = rest.first_chunk::<5>() {
        let len = usize::from(u16::from_be_bytes([header[3], header[4]]));
        for part in rest[5..5 + len].chunks(size) {
            out.extend([header[0], header[1], header[2], 0, part.len() as u8]);
            out.extend(part);
        }
        rest = &rest[5 + len..];
    }
    out
}

#[test]
fn client_hello_in_many_records() {
    let pki = Pki::new();
    for (version, size) in [(&rustls::version::TLS13, 1), (&rustls::version::TLS13, 100), (&rustls::version::TLS12, 7)]
    {
        for whole in [true, false] {
            let mut client = pki.client(version);
            let mut server = Handshake::new(pki.server_with_tickets(0)).unwrap();
            let (mut wire_in, mut out) = (Vec::new(), Vec::new());
            let hello = fragment(&flight(&mut client), size);
            if whole {
                wire_in.extend_from_slice(&hello);
                assert!(matches!(server.advance(&mut wire_in, &mut out), Ok(Step::NeedInput)));
            } else {
                for byte in hello {
                    wire_in.push(byte);
                    assert!(matches!(server.advance(&mut wire_in, &mut out), Ok(Step::NeedInput)));
                }
            }
            deliver(&mut client, &std::mem::take(&mut out));
            client.writer().write_all(b"words").unwrap();
            wire_in.extend(flight(&mut client));
            let Step::Done(mut established) = server.advance(&mut wire_in, &mut out).unwrap() else {
                panic!("not finished")
            };
            deliver(&mut client, &out);
            wire_in.extend(flight(&mut client));
            let mut plain = Vec::new();
            assert_eq!(established.transport.open_into(&mut wire_in, &mut plain), Ok(Flow::Open));
            assert_eq!(plain, b"words");
        }
    }
}

/// Whatever is wrong with it, it is an error and no panic.
#[test]
fn spoilt_flights() {
    let pki = Pki::new();
    let config = pki.server_with_tickets(2);
    let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below as u64) as usize
    };
    let hello = flight(&mut pki.client(&rustls::version::TLS13));
    let old_hello = flight(&mut pki.client(&rustls::version::TLS12));
    for round in 0..3000 {
        let base = if round % 2 == 0 { &hello } else { &old_hello };
        let mut wire = if round % 3 == 0 { fragment(base, 1 + next(60)) } else { base.clone() };
        for _ in 0..1 + next(3) {
            let at = next(wire.len());
            match next(4) {
                0 => wire[at] ^= 1 << next(8),
                1 => wire.truncate(at.max(1)),
                2 => wire.insert(at, next(256) as u8),
                _ => wire.extend_from_within(at..),
            }
        }
        let mut server = Handshake::new(config.clone()).unwrap();
        let (mut wire_in, mut out) = (Vec::new(), Vec::new());
        let cut = next(wire.len() + 1);
        for part in [&wire[..cut], &wire[cut..]] {
            wire_in.extend_from_slice(part);
            if server.advance(&mut wire_in, &mut out).is_err() {
                break;
            }
        }
    }
}

#[test]
fn wrong_version_gets_a_protocol_version_alert() {
    let pki = Pki::new();
    let mut client = pki.client(&rustls::version::TLS12);
    let mut server = Handshake::new(pki.server_of(&rustls::version::TLS13)).unwrap();
    let (mut wire_in, mut out) = (flight(&mut client), Vec::new());
    assert!(matches!(server.advance(&mut wire_in, &mut out), Err(HandshakeError::Peer(_))));
    client.read_tls(&mut Cursor::new(out)).unwrap();
    let error = client.process_new_packets().unwrap_err();
    assert_eq!(error, rustls::Error::AlertReceived(rustls::AlertDescription::ProtocolVersion));
}
