//! CONNECT through the relay.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use derpring::stats::CloseReason;
use rustls::{ClientConnection, StreamOwned};

use super::both;
use super::edge_support::*;

const REQUEST: &[u8] =
    b"CONNECT controlplane.tailscale.com:443 HTTP/1.1\r\nHost: controlplane.tailscale.com:443\r\n\r\n";

/// A relay whose targets are all at `target`.
fn relay(pki: &Pki, uring: bool, target: SocketAddr) -> Relay {
    Relay::start(uring, |config| {
        config.tls = Some(pki.server());
        config.live.site.connect = true;
        config.lookup = Arc::new(move |host, port| {
            assert_eq!((host, port), ("controlplane.tailscale.com", 443));
            Ok(vec![target])
        });
    })
}

fn client(relay: &Relay, pki: &Pki) -> StreamOwned<ClientConnection, TcpStream> {
    StreamOwned::new(pki.client(&rustls::version::TLS13), relay.connect())
}

fn connected(relay: &Relay, pki: &Pki) -> StreamOwned<ClientConnection, TcpStream> {
    let mut client = client(relay, pki);
    client.write_all(REQUEST).unwrap();
    expect(&mut client, b"HTTP/1.1 200 OK\r\n\r\n");
    client
}

#[test]
fn bytes_go_both_ways_until_both_have_ended() {
    let pki = Pki::new();
    both(|uring| {
        let target = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = relay(&pki, uring, target.local_addr().unwrap());
        let mut client = client(&relay, &pki);
        // What comes behind the request in the same write is the target's.
        client.write_all(&[REQUEST, b"early"].concat()).unwrap();
        let (mut server, _) = target.accept().unwrap();
        expect(&mut client, b"HTTP/1.1 200 OK\r\n\r\n");
        expect(&mut server, b"early");
        relay.wait("half-open", |stats| stats.half_open.get(), 0);

        let data: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
        let (there, back) = (data.clone(), data.clone());
        let mut reading = server.try_clone().unwrap();
        let echo = thread::spawn(move || {
            let mut got = vec![0; there.len()];
            reading.read_exact(&mut got).unwrap();
            assert!(got == there, "what the client sent arrives as it was");
        });
        client.write_all(&data).unwrap();
        echo.join().unwrap();
        let writing = thread::spawn(move || {
            server.write_all(&back).unwrap();
            server.shutdown(Shutdown::Write).unwrap();
            server
        });
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        assert!(got == data, "and so does what the target sent");
        // Its end has come through, and the other direction is still open.
        client.write_all(b"last words").unwrap();
        client.conn.send_close_notify();
        client.flush().unwrap();
        let mut rest = String::new();
        writing.join().unwrap().read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "last words");
        relay.wait_closed(CloseReason::HttpDone, 1);
        relay.handle.join();
    });
}

#[test]
fn targets_that_are_not_there_or_not_allowed() {
    let pki = Pki::new();
    both(|uring| {
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let relay = relay(&pki, uring, nobody);
        let mut stream = client(&relay, &pki);
        stream.write_all(REQUEST).unwrap();
        expect(&mut stream, b"HTTP/1.1 502 Bad Gateway\r\n");
        drop(stream);
        let mut stream = client(&relay, &pki);
        stream.write_all(b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n").unwrap();
        expect(&mut stream, b"HTTP/1.1 403 Forbidden\r\n");
        drop(stream);
        relay.wait_closed(CloseReason::HttpDone, 2);
        relay.handle.join();

        let relay = Relay::start(uring, |config| {
            config.tls = Some(pki.server());
            config.live.site.connect = true;
            config.lookup = Arc::new(|_, _| Err(io::ErrorKind::NotFound.into()));
        });
        let mut stream = client(&relay, &pki);
        stream.write_all(REQUEST).unwrap();
        expect(&mut stream, b"HTTP/1.1 502 Bad Gateway\r\n");
        relay.handle.join();
    });
}

#[test]
fn who_breaks_off_and_who_stays_silent() {
    let pki = Pki::new();
    both(|uring| {
        let target = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = relay(&pki, uring, target.local_addr().unwrap());
        // The target is reset: so is the client.
        let mut client = connected(&relay, &pki);
        let (server, _) = target.accept().unwrap();
        socket2::SockRef::from(&server).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(server);
        assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)));
        relay.wait_closed(CloseReason::HttpDone, 1);
        // The client leaves: the target is told.
        let client = connected(&relay, &pki);
        let (mut server, _) = target.accept().unwrap();
        drop(client);
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
        drop(server);
        relay.wait_closed(CloseReason::HttpDone, 2);
        // Nonsense where a record should be.
        let mut client = connected(&relay, &pki);
        let (mut server, _) = target.accept().unwrap();
        client.sock.write_all(&[0x17, 3, 3, 0, 40, 0, 1, 2, 3]).unwrap();
        client.sock.write_all(&[9; 60]).unwrap();
        assert!(matches!(server.read(&mut [0]), Ok(0) | Err(_)));
        relay.wait_closed(CloseReason::HttpDone, 3);
        // Two that say nothing: the relay stops all the same.
        let tunnels: Vec<_> = (0..2).map(|_| (connected(&relay, &pki), target.accept().unwrap())).collect();
        let workers = relay.workers.clone();
        relay.handle.join();
        assert!(workers.is_empty());
        drop(tunnels);
    });
}
