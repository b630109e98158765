//! TLS on established connections, with a client driven by hand: spoilt records, cut records, key updates, the end.

use rustls::AlertDescription;

use crate::relay_support::frames::*;
use crate::relay_support::ground::{on_backends, on_workers};
use crate::relay_support::*;

const TLS: [Mode; 2] = [Mode::Tls12, Mode::Tls13];

fn every_byte_of_a_record_flipped(ground: Ground) {
    let relay = Relay::start_tls(ground, &[]);
    let (mut a, mut b) = (visit(&relay).log_in(), visit(&relay).log_in());
    for mode in TLS {
        let mut at = 0;
        loop {
            let mut client = visit(&relay).mode(mode).log_in();
            let mut record = client.wire.seal(&send_packet(&a.public(), b"spoilt on its way"));
            if at == record.len() {
                break;
            }
            record[at] ^= 1 << (at % 8);
            // A length that has grown takes in what follows. The relay may be gone before all of it is written.
            let more = client.wire.seal(&ping(&[0; 900]).repeat(40));
            let _ = client.wire.write_raw(&[record, more].concat());
            let end = client.expect_end();
            let right = match end {
                End::Alert(AlertDescription::BadRecordMac | AlertDescription::RecordOverflow) => true,
                // The content type, which is not encrypted; in TLS 1.2 it may be that of an alert or a handshake.
                End::Alert(AlertDescription::UnexpectedMessage) => at == 0,
                End::Alert(AlertDescription::DecodeError) => mode == Mode::Tls12 && matches!(at, 1 | 2),
                // rustls, which has the records of TLS 1.2, sends no alert of anybody else's choice.
                End::CloseNotify => mode == Mode::Tls12 && matches!(at, 0 | 3 | 4),
                _ => false,
            };
            assert!(right, "{mode:?}, byte {at}: got {end:?} for an alert that says why");
            // Nobody else notices.
            a.send_to(&b.public(), &[at as u8]);
            b.expect(&recv_packet(&a.public(), &[at as u8]));
            b.send_to(&a.public(), &[at as u8]);
            a.expect(&recv_packet(&b.public(), &[at as u8]));
            at += 1;
        }
        assert!(at > 70, "{mode:?}: a record of {at} bytes is not the one that was meant");
    }
}

/// What came before the spoilt record counts.
fn packets_before_a_spoilt_record_are_delivered(ground: Ground) {
    let relay = Relay::start_tls(ground, &[]);
    let mut witness = visit(&relay).log_in();
    for mode in TLS {
        let mut client = visit(&relay).mode(mode).log_in();
        let good = client.wire.seal(&send_packet(&witness.public(), b"one"));
        let half = send_packet(&witness.public(), b"two");
        let more = client.wire.seal(&half[..20]);
        let mut bad = client.wire.seal(&half[20..]);
        *bad.last_mut().unwrap() ^= 1;
        client.wire.write_raw(&[good, more, bad].concat()).unwrap();
        assert_eq!(client.expect_end(), End::Alert(AlertDescription::BadRecordMac), "{mode:?}");
        witness.expect(&recv_packet(&client.public(), b"one"));
        witness.expect(&peer_gone(&client.public(), DISCONNECTED));
    }
    witness.expect_quiet();
}

/// A record that is sent twice, and one that is left out.
fn records_must_come_once_and_in_order(ground: Ground) {
    let relay = Relay::start_tls(ground, &[]);
    let mut witness = visit(&relay).log_in();
    for mode in TLS {
        for left_out in [false, true] {
            let mut client = visit(&relay).mode(mode).log_in();
            let first = client.wire.seal(&send_packet(&witness.public(), b"first"));
            let second = client.wire.seal(&send_packet(&witness.public(), b"second"));
            let wire = if left_out { second } else { [&first[..], &first].concat() };
            client.wire.write_raw(&wire).unwrap();
            assert_eq!(client.expect_end(), End::Alert(AlertDescription::BadRecordMac), "{mode:?}");
            if !left_out {
                witness.expect(&recv_packet(&client.public(), b"first"));
                witness.expect(&peer_gone(&client.public(), DISCONNECTED));
            }
        }
    }
    witness.expect_quiet();
}

fn what_is_no_tls_ends_the_connection(ground: Ground) {
    let relay = Relay::start_tls(ground, &[]);
    let mut witness = visit(&relay).log_in();
    for mode in TLS {
        for (what, bytes) in [
            ("plain frames", ping(&[7; 100]).repeat(50)),
            ("a plain request", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
            ("zeros", vec![0; 20_000]),
            ("an empty record", vec![23, 3, 3, 0, 0]),
            ("an endless record", [&[23, 3, 3, 0xff, 0xff][..], &[0; 1000]].concat()),
            ("a plain alert", vec![21, 3, 3, 0, 2, 2, 40]),
            ("a plain close_notify", vec![21, 3, 3, 0, 2, 1, 0]),
            ("a change of cipher", vec![20, 3, 3, 0, 1, 1]),
            ("a plain handshake", vec![22, 3, 3, 0, 4, 0, 0, 0, 0]),
            ("plain data", [&[23, 3, 3, 0, 100][..], &[9; 100]].concat()),
        ] {
            let mut client = visit(&relay).mode(mode).log_in();
            let _ = client.wire.write_raw(&bytes);
            let end = client.expect_end();
            let right = matches!(end, End::Alert(_)) || (mode, &end) == (Mode::Tls12, &End::CloseNotify);
            assert!(right, "{mode:?}, {what}: expected an alert, got {end:?}");
        }
    }
    witness.expect_quiet();
}

fn a_record_is_cut_at_every_byte(ground: Ground) {
    let relay = Relay::start_tls(ground, &[]);
    let (mut witness, mut by) = (visit(&relay).log_in(), visit(&relay).log_in());
    for mode in TLS {
        let mut client = visit(&relay).mode(mode).log_in();
        for cut in 0.. {
            let data = noise(cut as u64, 40);
            let record = client.wire.seal(&send_packet(&witness.public(), &data));
            let (first, second) = record.split_at(cut.min(record.len()));
            client.wire.write_raw(first).unwrap();
            // A turn of the worker; on other workers it is only likely.
            by.expect_quiet();
            client.wire.write_raw(second).unwrap();
            witness.expect(&recv_packet(&client.public(), &data));
            if cut > record.len() {
                break;
            }
        }
        // Frames over many records, and many frames in one.
        let data = noise(1, MAX_PACKET);
        let packet = send_packet(&witness.public(), &data);
        for size in [1000, 16_384, 5000] {
            for part in packet.chunks(size) {
                client.send(part);
            }
            witness.expect(&recv_packet(&client.public(), &data));
        }
        let small = send_packet(&witness.public(), b"");
        client.send(&small.repeat(400));
        for _ in 0..400 {
            witness.expect(&recv_packet(&client.public(), b""));
        }
        client.expect_quiet();
        let source = client.public();
        drop(client);
        witness.expect(&peer_gone(&source, DISCONNECTED));
    }
}

fn keys_are_updated_in_mid_stream(ground: Ground) {
    let relay = Relay::start_tls(ground, &[]);
    let (mut a, mut b) = (visit(&relay).log_in(), visit(&relay).log_in());
    let exchange = |a: &mut Client, b: &mut Client, round: u64| {
        for size in [0, 1400, 40_000] {
            let data = noise(round, size);
            a.send_to(&b.public(), &data);
            b.expect(&recv_packet(&a.public(), &data));
            b.send_to(&a.public(), &data);
            a.expect(&recv_packet(&b.public(), &data));
        }
    };
    for round in 0..30 {
        exchange(&mut a, &mut b, round);
        a.wire.tls.as_mut().unwrap().refresh_traffic_keys().unwrap();
        if round % 3 == 0 {
            b.wire.tls.as_mut().unwrap().refresh_traffic_keys().unwrap();
        }
        exchange(&mut a, &mut b, round);
    }
    // Between two halves of a frame, in one flight with both, and several at once.
    let data = noise(5, 3000);
    let packet = send_packet(&b.public(), &data);
    let (first, second) = packet.split_at(1234);
    for updates in 1..4 {
        let mut wire = a.wire.seal(first);
        for _ in 0..updates {
            a.wire.tls.as_mut().unwrap().refresh_traffic_keys().unwrap();
            wire.extend(a.wire.seal(&[]));
        }
        wire.extend(a.wire.seal(second));
        a.wire.write_raw(&wire).unwrap();
        b.expect(&recv_packet(&a.public(), &data));
        a.expect_quiet();
    }
}

/// The edge has the connection then, and the worker goes on with the keys that are due.
fn keys_are_updated_around_the_login(ground: Ground) {
    let relay = Relay::start_tls(ground, &[]);
    let mut witness = visit(&relay).log_in();
    // Bit by bit: before the request, before ClientInfo, before the packet.
    for places in 1..8 {
        let visit = visit(&relay);
        let mut client = visit.connect();
        let parts = [visit.request(), visit.client_info(), send_packet(&witness.public(), b"under new keys")];
        let mut wire = Vec::new();
        for (at, part) in parts.iter().enumerate() {
            if places & 1 << at != 0 {
                client.wire.tls.as_mut().unwrap().refresh_traffic_keys().unwrap();
                wire.extend(client.wire.seal(&[]));
            }
            wire.extend(client.wire.seal(part));
        }
        client.wire.write_raw(&wire).unwrap();
        client.expect_greeting();
        client.expect_server_info();
        witness.expect(&recv_packet(&client.public(), b"under new keys"));
        witness.send_to(&client.public(), b"and back");
        client.expect(&recv_packet(&witness.public(), b"and back"));
        let source = client.public();
        drop(client);
        witness.expect(&peer_gone(&source, DISCONNECTED));
    }
}

/// At the edge, at the worker; alone and behind data in one flight. What follows it does not count.
fn close_notify_is_answered(ground: Ground) {
    let relay = Relay::start_tls(ground, &[]);
    let mut witness = visit(&relay).log_in();
    for mode in TLS {
        let mut client = visit(&relay).mode(mode).log_in();
        let mut wire = client.wire.seal(&send_packet(&witness.public(), b"last words"));
        client.wire.tls.as_mut().unwrap().send_close_notify();
        wire.extend(client.wire.seal(&[]));
        client.wire.write_raw(&wire).unwrap();
        assert_eq!(client.expect_end(), End::CloseNotify, "{mode:?}");
        witness.expect(&recv_packet(&client.public(), b"last words"));
        witness.expect(&peer_gone(&client.public(), DISCONNECTED));

        let mut client = visit(&relay).mode(mode).log_in();
        client.wire.tls.as_mut().unwrap().send_close_notify();
        let bye = client.wire.seal(&[]);
        client.wire.write_raw(&[bye, vec![0x55; 500]].concat()).unwrap();
        assert_eq!(client.expect_end(), End::CloseNotify, "{mode:?} with bytes behind it");
    }
    witness.expect_quiet();
}

/// The peer's own fatal alert is not answered.
fn an_alert_of_the_client_ends_it(ground: Ground) {
    let relay = Relay::start_tls(ground, &[]);
    let mut witness = visit(&relay).log_in();
    for mode in TLS {
        let mut client = visit(&relay).mode(mode).log_in();
        speaks_to(&mut client, &mut witness);
        // A record that does not open makes rustls send its alert.
        let tls = client.wire.tls.as_mut().unwrap();
        tls.read_tls(&mut &[&[23, 3, 3, 0, 50][..], &[1; 50]].concat()[..]).unwrap();
        assert!(tls.process_new_packets().is_err());
        let mut alert = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut alert).unwrap();
        }
        assert!(!alert.is_empty(), "{mode:?}: expected an alert from rustls");
        client.wire.write_raw(&alert).unwrap();
        witness.expect(&peer_gone(&client.public(), DISCONNECTED));
    }
    witness.expect_quiet();
}

fn speaks_to(client: &mut Client, witness: &mut Client) {
    client.send_to(&witness.public(), b"hello");
    witness.expect(&recv_packet(&client.public(), b"hello"));
}

on_backends!(
    every_byte_of_a_record_flipped,
    packets_before_a_spoilt_record_are_delivered,
    records_must_come_once_and_in_order,
    what_is_no_tls_ends_the_connection,
    close_notify_is_answered,
    an_alert_of_the_client_ends_it,
);

mod spread {
    use super::{a_record_is_cut_at_every_byte, keys_are_updated_around_the_login, keys_are_updated_in_mid_stream};
    super::on_workers!(
        a_record_is_cut_at_every_byte,
        keys_are_updated_in_mid_stream,
        keys_are_updated_around_the_login,
    );
}
