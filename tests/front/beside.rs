//! The listener of plain HTTP beside TLS.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use derpring::proto::http::{Challenge, Challenges};
use derpring::stats::CloseReason;

use super::both;
use super::edge_support::*;

struct Acme;

impl Challenges for Acme {
    fn http01(&self, host: &str, token: &str) -> Challenge {
        match (host, token) {
            ("relay.test", "token") => Challenge::Authorization("token.thumbprint".into()),
            ("relay.test", _) => Challenge::UnknownToken,
            _ => Challenge::ForeignHost,
        }
    }
}

#[test]
fn it_serves_challenges_and_leads_to_tls() {
    let pki = Pki::new();
    both(|uring| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let plain = listener.local_addr().unwrap();
        let relay = Relay::start(uring, |config| {
            config.tls = Some(pki.server());
            config.http = vec![listener];
            config.challenges = Some(Arc::new(Acme));
        });
        let mut stream = connect(plain);
        let get = |host: &str, path: &str| format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        for (request, answer) in [
            (get("relay.test", "/generate_204"), "HTTP/1.1 204 No Content\r\n"),
            (get("relay.test:80", "/.well-known/acme-challenge/token"), "HTTP/1.1 200 OK\r\n"),
            (get("relay.test", "/.well-known/acme-challenge/other"), "HTTP/1.1 404 Not Found\r\n"),
            (get("other.test", "/.well-known/acme-challenge/token"), "HTTP/1.1 403 Forbidden\r\n"),
            (get("relay.test", "/derp"), "HTTP/1.1 302 Found\r\n"),
            (get("relay.test", "/debug/"), "HTTP/1.1 403 Forbidden\r\n"),
            ("DELETE / HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), "HTTP/1.1 400 Bad Request\r\n"),
        ] {
            stream.write_all(request.as_bytes()).unwrap();
            expect(&mut stream, answer.as_bytes());
            let body = head_and_body(&mut stream);
            if answer.contains("200") {
                assert_eq!(body, "token.thumbprint");
            }
        }
        // DERP is behind TLS alone.
        stream.write_all(FAST_START).unwrap();
        expect(&mut stream, b"HTTP/1.1 302 Found\r\n");
        drop(stream);
        relay.wait_closed(CloseReason::HttpDone, 1);

        // And TLS is on the other port.
        let mut stream = connect(plain);
        stream.write_all(&flight(&mut pki.client(&rustls::version::TLS13))).unwrap();
        assert!(read_to_end(&mut stream).starts_with("HTTP/1.1 400 "));
        relay.wait_closed(CloseReason::BadHttp, 1);
        relay.handle.stop_accepting();
        let refused = TcpStream::connect(plain).and_then(|stream| {
            let mut stream = patient(stream);
            std::io::Read::read(&mut stream, &mut [0])
        });
        assert!(matches!(refused, Err(_) | Ok(0)), "it no longer listens");
        relay.handle.join();
    });
}

fn connect(address: SocketAddr) -> TcpStream {
    patient(TcpStream::connect(address).unwrap())
}

/// The rest of an answer, whose first line has been read.
fn head_and_body(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        std::io::Read::read_exact(stream, &mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    std::io::Read::read_exact(stream, &mut body).unwrap();
    String::from_utf8(body).unwrap()
}
