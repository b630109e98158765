//! A login however it is cut: nothing that the client sent may be lost, doubled or left unread.

mod edge_support;

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::Duration;

use derpring::limits;
use derpring::stats::CloseReason;
use derpring::tls::Transport;
use derpring::worker::bridge::Handover;
use edge_support::*;
use rustls::SupportedProtocolVersion;

/// NotePreferred and the beginning of a packet.
const BEHIND: &[u8] = b"\x07\0\0\0\x01\x01\x04\0\0\x10\0half a packet";

/// Long enough for the relay to see the first part alone, most of the time; right either way.
const BREATH: Duration = Duration::from_micros(700);

fn both(test: impl Fn(bool)) {
    test(true);
    test(false);
}

/// What was not used of the client's bytes.
fn left_over(session: &mut Handover) -> Vec<u8> {
    session.transport.open_into(&mut session.wire_in, &mut session.plain_in).unwrap();
    session.plain_in.clone()
}

fn check(session: &mut Handover, client: &Client, stream: &TcpStream) {
    assert_eq!(session.identity.key, client.key());
    assert_eq!(session.identity.address, Some(stream.local_addr().unwrap()));
    assert!(session.identity.prober && !session.identity.mesh);
    assert_eq!(client.open(&session.greeting), br#"{"version":2}"#);
}

/// The rest of the flight may still be in the socket, which is the worker's to read.
fn drain(session: &mut Handover, expected: usize) -> Vec<u8> {
    use std::io::Read;
    let socket = TcpStream::from(session.socket.try_clone().unwrap());
    let mut buf = [0; 4096];
    loop {
        let got = left_over(session);
        if got.len() >= expected {
            return got;
        }
        match (&socket).read(&mut buf) {
            Ok(0) => return got,
            Ok(n) => session.wire_in.extend_from_slice(&buf[..n]),
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "non-blocking");
                std::thread::sleep(BREATH);
            }
        }
    }
}

#[test]
fn plain_flight_cut_at_every_byte() {
    both(|uring| {
        let relay = Relay::start(uring, |_| {});
        let client = Client::new(1);
        let flight = fast_start(&client, BEHIND);
        for cut in 0..=flight.len() {
            let mut stream = relay.connect();
            stream.write_all(&flight[..cut]).unwrap();
            std::thread::sleep(BREATH);
            stream.write_all(&flight[cut..]).unwrap();
            let mut session = relay.workers.take();
            if !unsaid_key(&mut session) {
                assert!((FAST_START.len()..flight.len() - BEHIND.len()).contains(&cut), "cut at {cut}");
                expect(&mut stream, &server_key());
            }
            check(&mut session, &client, &stream);
            assert!(matches!(session.transport, Transport::Plain));
            assert!(session.identity.not_ideal && session.wire_in.is_empty());
            assert_eq!(drain(&mut session, BEHIND.len()), BEHIND, "cut at {cut}");
        }
        relay.handle.join();
    });
}

#[test]
fn a_key_that_is_known_is_told_at_once_where_the_login_is_late() {
    both(|uring| {
        let relay = Relay::start(uring, |_| {});
        let client = Client::new(1);
        let mut stream = relay.connect();
        stream.write_all(FAST_START).unwrap();
        expect(&mut stream, &server_key());
        stream.write_all(&client.client_info(INFO)).unwrap();
        let mut session = relay.workers.take();
        assert!(!unsaid_key(&mut session), "it is said once");
        check(&mut session, &client, &stream);
        // And where the login fails.
        let mut stream = relay.connect();
        let mut forged = fast_start(&client, &[]);
        *forged.last_mut().unwrap() ^= 1;
        stream.write_all(&forged).unwrap();
        expect(&mut stream, &server_key());
        assert_eq!(read_to_end(&mut stream), "");
        relay.wait_closed(CloseReason::BadLogin, 1);
        relay.handle.join();
    });
}

#[test]
fn one_large_login_too_many_is_told_the_key_and_ended() {
    both(|uring| {
        let relay = Relay::start(uring, |config| config.edges = 1);
        let begun = [FAST_START, b"\x02\0\x04\0\0"].concat();
        let mut others = Vec::new();
        for _ in 0..limits::LARGE_CLIENT_INFOS {
            let mut stream = relay.connect();
            stream.write_all(&begun).unwrap();
            expect(&mut stream, &server_key());
            others.push(stream);
        }
        let mut stream = relay.connect();
        stream.write_all(&begun).unwrap();
        expect(&mut stream, &server_key());
        assert_eq!(read_to_end(&mut stream), "");
        relay.wait_closed(CloseReason::BadLogin, 1);
        drop(others);
        relay.handle.join();
    });
}

#[test]
fn answer_comes_before_the_login_for_those_who_wait() {
    both(|uring| {
        let relay = Relay::start(uring, |config| config.mesh_key = Some([0xab; 32]));
        let client = Client::new(1);
        let mut stream = relay.connect();
        // Requests in front of the upgrade, in the same write.
        let probe = "GET /derp/probe HTTP/1.1\r\nHost: h\r\n\r\n";
        let post = "POST /generate_204 HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nabcde";
        stream.write_all(&[probe.as_bytes(), post.as_bytes(), UPGRADE].concat()).unwrap();
        expect(&mut stream, b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: 0\r\n\r\n");
        expect(&mut stream, b"HTTP/1.1 204 No Content\r\n");
        expect(&mut stream, b"Cache-Control: no-cache, no-store, must-revalidate, no-transform, max-age=0\r\n\r\n");
        expect(&mut stream, switching().as_bytes());
        expect(&mut stream, &server_key());
        let mesh = format!(r#"{{"meshKey":"{}"}}"#, "ab".repeat(32));
        stream.write_all(&client.client_info(mesh.as_bytes())).unwrap();
        let session = relay.workers.take();
        assert!(session.identity.mesh && !session.identity.prober && !session.identity.not_ideal);
        relay.wait("logins", |s| s.logins.get(), 1);
        relay.wait("derp accepts", |s| s.derp_accepts.get(), 1);
        relay.wait("requests", |s| s.http_requests.get(), 2);
        relay.wait("half open", |s| s.half_open.get(), 0);
        relay.handle.join();
    });
}

#[test]
fn single_bytes_are_enough() {
    both(|uring| {
        let relay = Relay::start(uring, |_| {});
        let client = Client::new(2);
        let mut stream = relay.connect();
        for byte in fast_start(&client, BEHIND) {
            stream.write_all(&[byte]).unwrap();
            std::thread::sleep(Duration::from_micros(50));
        }
        let mut session = relay.workers.take();
        if !unsaid_key(&mut session) {
            expect(&mut stream, &server_key());
        }
        check(&mut session, &client, &stream);
        assert_eq!(drain(&mut session, BEHIND.len()), BEHIND);
        relay.handle.join();
    });
}

/// Ends the handshake, and has what the client says then, Finished included where the version allows.
fn tls_flight(
    pki: &Pki,
    version: &'static SupportedProtocolVersion,
    stream: &mut TcpStream,
    client: &Client,
) -> (rustls::ClientConnection, Vec<u8>) {
    let mut tls = pki.client(version);
    stream.write_all(&flight(&mut tls)).unwrap();
    tls_read(&mut tls, stream, 0);
    let mut last = Vec::new();
    while tls.is_handshaking() {
        stream.write_all(&flight(&mut tls)).unwrap();
        while tls.is_handshaking() && !tls.wants_write() {
            tls.read_tls(stream).unwrap();
            tls.process_new_packets().unwrap();
        }
    }
    last.extend(flight(&mut tls));
    let words = fast_start(client, BEHIND);
    let (one, two) = words.split_at(words.len() - 10);
    for part in [one, two] {
        tls.writer().write_all(part).unwrap();
        last.extend(flight(&mut tls));
    }
    (tls, last)
}

#[test]
fn tls_flight_cut_at_every_byte() {
    let pki = Pki::new();
    for (uring, version) in [
        (true, &rustls::version::TLS13),
        (false, &rustls::version::TLS13),
        (true, &rustls::version::TLS12),
        (false, &rustls::version::TLS12),
    ] {
        let relay = Relay::start(uring, |config| config.tls = Some(pki.server()));
        let client = Client::new(3);
        let mut cut = 0;
        loop {
            let mut stream = relay.connect();
            let (mut tls, bytes) = tls_flight(&pki, version, &mut stream, &client);
            let at = cut.min(bytes.len());
            stream.write_all(&bytes[..at]).unwrap();
            std::thread::sleep(BREATH);
            stream.write_all(&bytes[at..]).unwrap();
            let mut session = relay.workers.take();
            if !unsaid_key(&mut session) {
                assert_eq!(tls_read(&mut tls, &mut stream, 45), server_key(), "cut at {cut}");
            }
            check(&mut session, &client, &stream);
            assert_eq!(drain(&mut session, BEHIND.len()), BEHIND, "cut at {cut}");

            // The other direction, from where the edge left it.
            let mut sealed = Vec::new();
            let greeting = session.greeting.clone();
            session.transport.seal_into(&greeting, &mut sealed).unwrap();
            TcpStream::from(session.socket).write_all(&sealed).unwrap();
            assert_eq!(tls_read(&mut tls, &mut stream, greeting.len()), greeting);
            if cut > bytes.len() {
                break;
            }
            cut += 1;
        }
        let is13 = version.version == rustls::ProtocolVersion::TLSv1_3;
        let logins = cut as u64 + 1;
        relay.wait("logins", |s| s.logins.get(), logins);
        relay.wait("handshakes", |s| s.handshakes_ok.get(), logins);
        relay.wait("versions", |s| if is13 { s.tls13.get() } else { s.tls12.get() }, logins);
        relay.handle.join();
    }
}

#[test]
fn full_worker_queue_is_waited_for() {
    both(|uring| {
        let relay = Relay::start(uring, |_| {});
        relay.workers.refuse.store(10, Ordering::Relaxed);
        let (_stream, session) = relay.log_in(relay.connect());
        assert_eq!(session.identity.key, Client::new(1).key());
        relay.workers.refuse.store(usize::MAX, Ordering::Relaxed);
        relay.handle.join();
    });
}

#[test]
fn queue_that_stays_full_ends_the_login_at_its_deadline() {
    both(|uring| {
        let relay = Relay::start(uring, |config| config.login_deadline = Duration::from_secs(1));
        relay.workers.refuse.store(usize::MAX, Ordering::Relaxed);
        let mut stream = relay.connect();
        stream.write_all(&fast_start(&Client::new(1), &[])).unwrap();
        read_to_end(&mut stream);
        relay.wait_closed(CloseReason::Internal, 1);
        relay.handle.join();
    });
}

#[test]
fn what_is_no_login_is_ended_and_counted() {
    both(|uring| {
        let relay = Relay::start(uring, |_| {});
        let client = Client::new(4);
        let good = client.client_info(INFO);
        let mut forged = good.clone();
        forged[100] ^= 1;
        let mut zero = good.clone();
        zero[5..37].fill(0);
        let bad = [
            b"\x04\0\0\0\x20".to_vec(),
            b"\x02\0\x04\0\x01".to_vec(),
            b"\x02\0\0\0\x37".to_vec(),
            forged,
            zero,
            client.client_info(b"[]"),
            client.client_info(b""),
        ];
        for (n, frame) in bad.iter().enumerate() {
            let mut stream = relay.connect();
            stream.write_all(&[FAST_START, frame].concat()).unwrap();
            read_to_end(&mut stream);
            relay.wait_closed(CloseReason::BadLogin, n as u64 + 1);
        }
        assert!(relay.workers.is_empty());
        // The largest that the protocol allows is fine.
        let padding = format!(r#"{{"x":"{}"}}"#, "a".repeat(256 * 1024 - 72 - 8));
        let large = client.client_info(padding.as_bytes());
        assert_eq!(large.len(), 5 + 256 * 1024);
        let mut stream = relay.connect();
        stream.write_all(&[FAST_START, &large, BEHIND].concat()).unwrap();
        let mut session = relay.workers.take();
        assert_eq!(drain(&mut session, BEHIND.len()), BEHIND);
        relay.handle.join();
    });
}
