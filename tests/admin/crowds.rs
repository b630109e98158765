//! Clients of the admin listener that are many, slow, or say nothing: they cost each other, never the relay.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::http::*;
use crate::relay_support::frames::*;
use crate::relay_support::*;

/// What a connection may take for a head.
const IDLE: Duration = Duration::from_secs(10);
/// Connections from this machine at a time.
const MOST: usize = 48;

fn ended(stream: &mut TcpStream, within: Duration) -> bool {
    stream.set_read_timeout(Some(within)).unwrap();
    match stream.read(&mut [0; 1000]) {
        Ok(0) => true,
        Ok(n) => panic!("expected silence, got {n} bytes"),
        Err(e) => wire::is_reset(&e),
    }
}

#[test]
fn too_many_are_turned_away_and_silence_ends() {
    once("too_many_are_turned_away_and_silence_ends", || {
        let mut relay = start(&[]);
        let to = admin(&relay);
        let (mut a, mut b) = (visit(&relay).log_in(), visit(&relay).log_in());
        let mut silent: Vec<TcpStream> = (0..MOST).map(|_| connect(to)).collect();
        let mut late = connect(to);
        assert!(ended(&mut late, IDLE / 2), "expected the one too many to be closed, and not as an idle one");
        relay.expect_line("no place for another connection to the admin listener");
        assert!(!ended(&mut silent[0], Duration::from_millis(200)), "who has a place keeps it for a while");
        a.send_to(&b.public(), b"meanwhile");
        b.expect(&recv_packet(&a.public(), b"meanwhile"));

        let begin = Instant::now();
        for stream in &mut silent {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
            assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408 "), "{:?}", String::from_utf8_lossy(&rest));
        }
        assert!(begin.elapsed() < IDLE + PATIENCE, "silence lasted {:?}", begin.elapsed());
        assert_eq!(get(to, "/readyz").status, 200, "there is room again");
    });
}

/// A head that comes byte by byte does not keep others waiting, and is not waited for for ever.
#[test]
fn a_slow_head_keeps_nobody_waiting() {
    once("a_slow_head_keeps_nobody_waiting", || {
        let relay = start(&[]);
        let to = admin(&relay);
        let mut slow = connect(to);
        let begin = Instant::now();
        slow.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX-Long: ").unwrap();
        slow.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        loop {
            if slow.write_all(b"x").is_err() {
                break;
            }
            assert_eq!(get(to, "/readyz").status, 200);
            match slow.read(&mut [0; 1000]) {
                Ok(_) => break,
                Err(e) if wire::is_timeout(&e) => {}
                Err(_) => break,
            }
            assert!(begin.elapsed() < IDLE + PATIENCE, "it is still waited for");
        }
        assert!(begin.elapsed() > IDLE / 2, "it was let go too soon: {:?}", begin.elapsed());
    });
}

/// Bodies that nobody wants, heads that are too long, nonsense: an answer or an end, and the next one is served.
#[test]
fn nonsense_ends_with_its_connection() {
    once("nonsense_ends_with_its_connection", || {
        let relay = start(&[]);
        let to = admin(&relay);
        let long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(100_000));
        for nonsense in ["\u{1}\u{2}\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", &long, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
            let mut stream = connect(to);
            let _ = stream.write_all(nonsense.as_bytes());
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            assert!(!answer.starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&answer));
            assert_eq!(get(to, "/readyz").status, 200);
        }
        let body = "x".repeat(1 << 20);
        let mut stream = connect(to);
        // It may close before it has all of it.
        let _ = stream.write_all(request("GET", "/readyz", &[], &body).as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&answer));
        assert_eq!(ask(to, "PUT", "/debug/log", &[], &"x".repeat(5000)).status, 400);
        assert_eq!(get(to, "/readyz").status, 200);
    });
}
