//! Who is behind a proxy, and who only says so.

use std::io::Write;
use std::net::{Shutdown, TcpStream};

use derpring::config::{Cidr, DebugAccess};
use derpring::edge::EdgeConfig;
use derpring::limits;
use derpring::stats::CloseReason;

use super::edge_support::*;
use super::{address, both, proxy_v2, trusting};

fn behind(config: &mut EdgeConfig) {
    config.live.trusted_proxies = trusting(&["127.0.0.1", "10.0.0.0/8"]);
}

/// Upgrades with these headers, after `before`, and tells under which address.
fn log_in(relay: &Relay, mut stream: TcpStream, before: &[u8], headers: &str) -> Option<std::net::SocketAddr> {
    let request = String::from_utf8(FAST_START.to_vec()).unwrap();
    let request = request.replace("\r\n\r\n", &format!("\r\n{headers}\r\n"));
    let login = [before, request.as_bytes(), &Client::new(1).client_info(INFO)].concat();
    stream.write_all(&login).unwrap();
    let mut session = relay.workers.take();
    assert!(unsaid_key(&mut session), "one write for both");
    session.identity.address
}

#[test]
fn every_form_of_header_names_the_client() {
    both(|uring| {
        let relay = Relay::start(uring, behind);
        let v1 = b"PROXY TCP4 192.0.2.1 127.0.0.1 1001 443\r\n";
        assert_eq!(log_in(&relay, relay.connect(), v1, ""), address("192.0.2.1:1001"));
        let v1 = b"PROXY TCP6 2001:db8::1 ::1 1002 443\r\n";
        assert_eq!(log_in(&relay, relay.connect(), v1, ""), address("[2001:db8::1]:1002"));
        assert_eq!(log_in(&relay, relay.connect(), &proxy_v2("192.0.2.2:1003"), ""), address("192.0.2.2:1003"));
        for own in [&b"PROXY UNKNOWN\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", b""] {
            let stream = relay.connect();
            let peer = stream.local_addr().ok();
            assert_eq!(log_in(&relay, stream, own, ""), peer, "the proxy speaks for itself");
        }
        let forwarded = "X-Forwarded-For: 198.51.100.1, 192.0.2.3\r\n";
        assert_eq!(log_in(&relay, relay.connect(), b"", forwarded), address("192.0.2.3:0"));
        let forwarded = "Forwarded: for=\"[2001:db8::4]:77\", for=10.0.0.9\r\n";
        assert_eq!(log_in(&relay, relay.connect(), b"", forwarded), address("[2001:db8::4]:77"));
        // Two proxies, one behind the other, each with its own way to say it.
        let first = proxy_v2("10.0.0.9:5");
        assert_eq!(log_in(&relay, relay.connect(), &first, "X-Forwarded-For: 192.0.2.5\r\n"), address("192.0.2.5:0"));
        let first = proxy_v2("192.0.2.6:6");
        assert_eq!(log_in(&relay, relay.connect(), &first, "X-Forwarded-For: 10.1.1.1\r\n"), address("192.0.2.6:6"));
        relay.handle.join();
    });
}

#[test]
fn a_header_in_pieces_in_front_of_tls() {
    let pki = Pki::new();
    both(|uring| {
        let relay = Relay::start(uring, |config| {
            behind(config);
            config.tls = Some(pki.server());
        });
        for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
            let mut stream = relay.connect();
            let mut tls = pki.client(version);
            let first = [proxy_v2("192.0.2.7:7"), flight(&mut tls)].concat();
            for piece in first.chunks(5) {
                stream.write_all(piece).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            tls.complete_io(&mut stream).unwrap();
            tls.writer().write_all(&fast_start(&Client::new(2), &[])).unwrap();
            stream.write_all(&flight(&mut tls)).unwrap();
            let mut session = relay.workers.take();
            assert!(unsaid_key(&mut session), "one write for both");
            assert_eq!(session.identity.address, address("192.0.2.7:7"));
        }
        relay.handle.join();
    });
}

#[test]
fn who_is_not_trusted_is_not_believed() {
    both(|uring| {
        let relay = Relay::start(uring, |config| config.live.trusted_proxies = trusting(&["127.0.0.2"]));
        let stream = relay.connect();
        let own = stream.local_addr().ok();
        let headers = "X-Forwarded-For: 192.0.2.1\r\nForwarded: for=192.0.2.1\r\n";
        assert_eq!(log_in(&relay, stream, b"", headers), own);
        let login = fast_start(&Client::new(1), &[]);
        for (n, header) in
            [b"PROXY TCP4 192.0.2.1 127.0.0.1 1 2\r\n".to_vec(), proxy_v2("192.0.2.1:1")].iter().enumerate()
        {
            let mut stream = relay.connect();
            // It may be gone before all of it is written.
            let _ = stream.write_all(&[&header[..], &login].concat());
            assert_eq!(read_to_end(&mut stream), "");
            relay.wait_closed(CloseReason::UntrustedProxy, n as u64 + 1);
        }
        assert!(relay.workers.is_empty());
        assert_eq!(
            log_in(&relay, relay.connect_from("127.0.0.2"), &proxy_v2("192.0.2.1:1"), ""),
            address("192.0.2.1:1")
        );
        relay.handle.join();
    });
}

#[test]
fn spoilt_headers_end_their_connection() {
    both(|uring| {
        let relay = Relay::start(uring, behind);
        let mut spoilt = proxy_v2("192.0.2.1:1");
        spoilt[12] = 0x31;
        let long = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"[..], &[0; 5000]].concat();
        let endless = [&b"PROXY UNKNOWN "[..], &[b'x'; 100]].concat();
        let line = b"PROXY TCP4 here there 1 2\r\n".to_vec();
        let headers = [spoilt, long, endless, line];
        for (n, header) in headers.iter().enumerate() {
            let mut stream = relay.connect();
            let _ = stream.write_all(header);
            assert_eq!(read_to_end(&mut stream), "");
            relay.wait_closed(CloseReason::BadProxyHeader, n as u64 + 1);
        }
        // Half of one, and then nothing: the time for a login is all there is.
        let mut stream = relay.connect();
        stream.write_all(b"PROXY TC").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&mut stream), "");
        relay.wait_closed(CloseReason::PeerClosed, 1);
        relay.handle.join();

        let relay = Relay::start(uring, |config| {
            behind(config);
            config.login_deadline = std::time::Duration::from_millis(100);
        });
        for silent in [&b"\r\n\r\n\0"[..], b"PROXY TCP4"] {
            let mut stream = relay.connect();
            stream.write_all(silent).unwrap();
            assert_eq!(read_to_end(&mut stream), "");
        }
        relay.wait_closed(CloseReason::LoginDeadline, 2);
        relay.handle.join();
    });
}

/// Behind a proxy all come from one address: what is bounded per address is bounded per client.
#[test]
fn bounds_per_address_are_those_of_clients() {
    both(|uring| {
        let relay = Relay::start(uring, |config| {
            behind(config);
            config.half_open_max_per_ip = 2;
            config.live.max_clients_per_ip = Some(1);
        });
        let idle: Vec<TcpStream> = (0..8).map(|_| relay.connect()).collect();
        let introduced: Vec<TcpStream> = (0..8)
            .map(|n| {
                let mut stream = relay.connect();
                stream.write_all(&proxy_v2(&format!("192.0.2.{n}:1"))).unwrap();
                stream.write_all(b"GET /derp/probe HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
                expect(&mut stream, b"HTTP/1.1 200 OK\r\n");
                stream
            })
            .collect();
        relay.wait("half-open", |stats| stats.half_open.get(), 16);
        assert_eq!(relay.sum(|stats| stats.closed(CloseReason::HalfOpenCap)), 0, "a proxy is not a crowd");
        for stream in idle.iter().take(2) {
            let mut stream = stream;
            stream.write_all(&proxy_v2("192.0.2.0:2")).unwrap();
        }
        // Three of one client where two may be.
        relay.wait_closed(CloseReason::HalfOpenCap, 1);
        drop((idle, introduced));

        assert_eq!(log_in(&relay, relay.connect(), &proxy_v2("192.0.2.50:1"), ""), address("192.0.2.50:1"));
        assert_eq!(log_in(&relay, relay.connect(), b"", "X-Forwarded-For: 192.0.2.51\r\n"), address("192.0.2.51:0"));
        let mut stream = relay.connect();
        stream.write_all(&proxy_v2("192.0.2.51:9")).unwrap();
        stream.write_all(UPGRADE).unwrap();
        assert!(read_to_end(&mut stream).starts_with("HTTP/1.1 503 "), "this one has its client");
        relay.wait_closed(CloseReason::MaxClientsPerIp, 1);
        relay.handle.join();
    });
}

#[test]
fn debug_pages_are_for_the_clients_address() {
    both(|uring| {
        let relay = Relay::start(uring, |config| {
            behind(config);
            config.live.site.debug =
                Some(DebugAccess { trusted: vec![Cidr::parse_exact("192.0.2.9").unwrap()], ..DebugAccess::default() });
        });
        let status = |before: &[u8], headers: &str| {
            let mut stream = relay.connect();
            let request = format!("GET /debug/ HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{headers}\r\n");
            stream.write_all(&[before, request.as_bytes()].concat()).unwrap();
            read_to_end(&mut stream)[9..12].to_owned()
        };
        // Nobody makes pages here: who is let in gets 503.
        assert_eq!(status(&proxy_v2("192.0.2.9:1"), ""), "503");
        assert_eq!(status(b"", "X-Forwarded-For: 127.0.0.1, 192.0.2.9\r\n"), "503");
        for (before, headers) in [
            (&b""[..], ""),
            (b"PROXY UNKNOWN\r\n", ""),
            (b"", "X-Forwarded-For: 192.0.2.9, 192.0.2.1\r\n"),
            (b"", "X-Forwarded-For: 192.0.2.9, unknown\r\n"),
            (&proxy_v2("192.0.2.1:1"), "X-Forwarded-For: 192.0.2.9\r\n"),
        ] {
            assert_eq!(status(before, headers), "403", "{headers:?}");
        }
        // Both headers, and they disagree.
        assert_eq!(status(b"", "X-Forwarded-For: 192.0.2.9\r\nForwarded: for=192.0.2.1\r\n"), "400");
        relay.wait_closed(CloseReason::BadHttp, 1);
        relay.handle.join();
    });
}

/// Requests of many clients over one connection: each counts for its own.
#[test]
fn a_proxy_that_shares_its_connections() {
    both(|uring| {
        let relay = Relay::start(uring, behind);
        let mut stream = relay.connect();
        for n in 1..limits::HTTP_REQUESTS_MAX {
            let client = n % 200;
            let request = format!("GET /derp/probe HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 192.0.2.{client}\r\n\r\n");
            stream.write_all(request.as_bytes()).unwrap();
            expect(&mut stream, b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: 0\r\n\r\n");
        }
        assert_eq!(log_in(&relay, stream, b"", "X-Forwarded-For: 192.0.2.254\r\n"), address("192.0.2.254:0"));
        relay.handle.join();
    });
}
