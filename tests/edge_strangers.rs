//! What strangers may cost: silence, crowds, and more clients than there is room for.

mod edge_support;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use derpring::stats::CloseReason;
use edge_support::*;

fn both(test: impl Fn(bool)) {
    test(true);
    test(false);
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n")
}

#[test]
fn silence_ends_at_the_deadline_in_every_phase() {
    let pki = Pki::new();
    both(|uring| {
        let deadline = Duration::from_millis(300);
        let plain = Relay::start(uring, |config| config.login_deadline = deadline);
        let tls = Relay::start(uring, |config| {
            config.login_deadline = deadline;
            config.tls = Some(pki.server());
        });
        let hello = flight(&mut pki.client(&rustls::version::TLS13));
        let login = fast_start(&Client::new(1), &[]);
        let started = Instant::now();
        let silent: Vec<TcpStream> = [
            (&plain, &[][..]),
            (&plain, b"GET /derp HT"),
            (&plain, FAST_START),
            (&plain, &login[..login.len() - 1]),
            (&tls, &[]),
            (&tls, &hello[..3]),
            (&tls, &hello[..hello.len() - 1]),
            (&tls, &hello),
        ]
        .into_iter()
        .map(|(relay, bytes)| {
            let mut stream = relay.connect();
            stream.write_all(bytes).unwrap();
            stream
        })
        .collect();
        for mut stream in silent {
            read_to_end(&mut stream);
        }
        // By this deadline, and not by the usual one of ten seconds.
        assert!((deadline..Duration::from_secs(5)).contains(&started.elapsed()), "{:?}", started.elapsed());
        plain.wait_closed(CloseReason::LoginDeadline, 4);
        tls.wait_closed(CloseReason::LoginDeadline, 4);
        for relay in [plain, tls] {
            relay.wait("half open", |s| s.half_open.get(), 0);
            relay.handle.join();
        }
    });
}

/// A trickle of bytes does not move the deadline.
#[test]
fn trickle_ends_at_the_deadline() {
    both(|uring| {
        let relay = Relay::start(uring, |config| config.login_deadline = Duration::from_millis(300));
        let mut stream = relay.connect();
        let started = Instant::now();
        while stream.write_all(b"a").is_ok() {
            assert!(started.elapsed() < PATIENCE);
            std::thread::sleep(Duration::from_millis(10));
        }
        relay.wait_closed(CloseReason::LoginDeadline, 1);
        relay.handle.join();
    });
}

#[test]
fn crowd_of_silent_connections_delays_nobody() {
    both(|uring| {
        let relay = Relay::start(uring, |config| {
            config.half_open_max = 32;
            config.half_open_max_per_ip = 16;
        });
        let crowd: Vec<TcpStream> = (0..200).map(|_| relay.connect_from("127.0.0.9")).collect();
        relay.wait_closed(CloseReason::HalfOpenCap, 200 - 16);
        // The same address: the oldest go, the newcomer is served.
        for _ in 0..20 {
            let started = Instant::now();
            let (stream, session) = relay.log_in(relay.connect_from("127.0.0.9"));
            // A silent one takes ten.
            assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
            drop((stream, session));
        }
        let before = relay.sum(|s| s.closed(CloseReason::HalfOpenCap));
        // From many addresses the whole table fills, and still the oldest go.
        let many: Vec<TcpStream> = (10..100).map(|n| relay.connect_from(&format!("127.0.0.{n}"))).collect();
        relay.wait(
            "evicted",
            |s| s.closed(CloseReason::HalfOpenCap),
            before + 90 + 16 - 32 - evicted_by_logins(before),
        );
        let (_stream, _session) = relay.log_in(relay.connect());
        drop((crowd, many));
        relay.wait("half open", |s| s.half_open.get(), 0);
        relay.handle.join();
    });
}

/// Each of the logins above took the place of one silent connection.
fn evicted_by_logins(before: u64) -> u64 {
    before - (200 - 16)
}

#[test]
fn session_outlives_the_deadline_and_the_cap() {
    both(|uring| {
        let relay = Relay::start(uring, |config| {
            config.login_deadline = Duration::from_secs(1);
            config.half_open_max = 2;
            config.half_open_max_per_ip = 2;
        });
        let (mut stream, session) = relay.log_in(relay.connect());
        let _crowd: Vec<TcpStream> = (0..5).map(|_| relay.connect()).collect();
        std::thread::sleep(Duration::from_millis(1500));
        let mut socket = TcpStream::from(session.socket);
        socket.write_all(b"still here").unwrap();
        expect(&mut stream, b"still here");
        relay.handle.join();
        stream.write_all(b"and now").unwrap();
        std::thread::sleep(Duration::from_millis(20));
        expect(&mut socket, b"and now");
    });
}

#[test]
fn full_relay_says_503_and_has_room_again_when_a_session_ends() {
    both(|uring| {
        let relay = Relay::start(uring, |config| {
            config.live.max_clients = Some(2);
            config.live.max_clients_per_ip = Some(1);
        });
        let ask = |mut stream: TcpStream| {
            stream.write_all(UPGRADE).unwrap();
            read_to_end(&mut stream)
        };
        let (_a, first) = relay.log_in(relay.connect_from("127.0.0.2"));
        let answer = ask(relay.connect_from("127.0.0.2"));
        assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\ntoo many clients from this address\n"), "{answer}");
        relay.wait_closed(CloseReason::MaxClientsPerIp, 1);

        let (_b, _second) = relay.log_in(relay.connect_from("127.0.0.3"));
        let answer = ask(relay.connect_from("127.0.0.4"));
        assert!(answer.ends_with("\r\n\r\ntoo many clients\n"), "{answer}");
        relay.wait_closed(CloseReason::MaxClients, 1);
        // A full relay still answers probes.
        let mut probe = relay.connect();
        probe.write_all(get("/derp/probe").as_bytes()).unwrap();
        expect(&mut probe, b"HTTP/1.1 200 OK\r\n");

        relay.workers.close(*first);
        // A login that fails gives its place back.
        for n in 1..=3 {
            let mut stream = relay.connect_from("127.0.0.5");
            stream.write_all(&[FAST_START, b"nonsense"].concat()).unwrap();
            read_to_end(&mut stream);
            relay.wait_closed(CloseReason::BadLogin, n);
        }
        let (_c, _third) = relay.log_in(relay.connect_from("127.0.0.2"));
        relay.handle.join();
    });
}

#[test]
fn peers_that_leave_are_counted_as_such() {
    both(|uring| {
        let relay = Relay::start(uring, |_| {});
        drop(relay.connect());
        relay.wait_closed(CloseReason::PeerClosed, 1);
        let stream = relay.connect();
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        relay.wait("accepts", |s| s.accepts.get(), 2);
        drop(stream);
        relay.wait_closed(CloseReason::PeerReset, 1);
        relay.wait("half open", |s| s.half_open.get(), 0);
        relay.handle.join();
    });
}

#[test]
fn no_new_connections_after_stop_but_old_ones_finish() {
    both(|uring| {
        let relay = Relay::start(uring, |_| {});
        let early = relay.connect();
        relay.wait("accepts", |s| s.accepts.get(), 1);
        relay.handle.stop_accepting();
        // Each edge lets go of its listeners in its next turn; the last one closes the door.
        let refused = || matches!(TcpStream::connect(relay.addr), Err(e) if e.kind() == ErrorKind::ConnectionRefused);
        let began = Instant::now();
        while !refused() {
            assert!(began.elapsed() < Duration::from_secs(20), "connects are still taken");
        }
        let (_stream, _session) = relay.log_in(early);

        let relay = Relay::start(uring, |_| {});
        let mut half_open = relay.connect();
        relay.wait("accepts", |s| s.accepts.get(), 1);
        let stats = relay.handle.stats().clone();
        let started = Instant::now();
        relay.handle.join();
        // Its deadline, of ten seconds, is not waited for.
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        assert_eq!(half_open.read(&mut [0]).unwrap_or(0), 0);
        assert_eq!(stats.iter().map(|s| s.closed(CloseReason::Shutdown)).sum::<u64>(), 1);
    });
}
