//! A unix socket as the main listener.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use derpring::config::DebugAccess;
use derpring::stats::CloseReason;
use tempfile::TempDir;

use super::edge_support::*;
use super::{address, both, proxy_v2};

fn connect(dir: &TempDir) -> UnixStream {
    let stream = UnixStream::connect(dir.path().join("derp")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn log_in(relay: &Relay, mut stream: UnixStream, before: &[u8], headers: &str) -> Option<std::net::SocketAddr> {
    let request = String::from_utf8(FAST_START.to_vec()).unwrap();
    let request = request.replace("\r\n\r\n", &format!("\r\n{headers}\r\n"));
    stream.write_all(&[before, request.as_bytes(), &Client::new(1).client_info(INFO)].concat()).unwrap();
    let mut handover = relay.workers.take();
    assert!(unsaid_key(&mut handover), "one write for both");
    // What was handed over is the socket itself, in the form that workers want.
    assert!(rustix::fs::fcntl_getfl(&handover.socket).unwrap().contains(rustix::fs::OFlags::NONBLOCK));
    let theirs = std::net::TcpStream::from(handover.socket);
    (&theirs).write_all(b"hello").unwrap();
    expect(&mut stream, b"hello");
    handover.identity.address
}

#[test]
fn logins_without_an_address() {
    both(|uring| {
        let dir = TempDir::new().unwrap();
        let listener = UnixListener::bind(dir.path().join("derp")).unwrap();
        let relay = Relay::start(uring, |config| {
            config.unix = vec![listener];
            config.live.max_clients_per_ip = Some(1);
            config.live.site.debug = Some(DebugAccess::default());
        });
        for _ in 0..3 {
            assert_eq!(log_in(&relay, connect(&dir), b"", "X-Forwarded-For: 192.0.2.1\r\n"), None, "nobody is trusted");
        }
        let mut stream = connect(&dir);
        stream.write_all(b"GET /debug/ HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        expect(&mut stream, b"HTTP/1.1 403 Forbidden\r\n");
        drop(stream);
        relay.wait_closed(CloseReason::HttpDone, 1);
        let mut stream = connect(&dir);
        let _ = stream.write_all(&proxy_v2("192.0.2.1:1"));
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
        relay.wait_closed(CloseReason::UntrustedProxy, 1);
        relay.handle.join();
        assert!(UnixStream::connect(dir.path().join("derp")).is_err(), "nobody listens");
    });
}

#[test]
fn proxies_at_a_unix_socket_are_believed_when_told_so() {
    both(|uring| {
        let dir = TempDir::new().unwrap();
        let listener = UnixListener::bind(dir.path().join("derp")).unwrap();
        let relay = Relay::start(uring, |config| {
            config.unix = vec![listener];
            config.live.trusted_proxies.unix = true;
        });
        assert_eq!(log_in(&relay, connect(&dir), b"", "X-Forwarded-For: 192.0.2.1\r\n"), address("192.0.2.1:0"));
        assert_eq!(log_in(&relay, connect(&dir), &proxy_v2("192.0.2.2:2"), ""), address("192.0.2.2:2"));
        assert_eq!(log_in(&relay, connect(&dir), b"", ""), None);
        // Who is connected by TCP is not.
        let mut stream = relay.connect();
        let _ = stream.write_all(&proxy_v2("192.0.2.2:2"));
        assert_eq!(read_to_end(&mut stream), "");
        relay.wait_closed(CloseReason::UntrustedProxy, 1);
        relay.handle.join();
    });
}
