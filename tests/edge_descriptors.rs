//! Descriptors. One test, alone in its process: number and limit are the process's.

mod edge_support;

use std::fs::File;
use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use edge_support::*;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

/// Takes every descriptor that is left.
fn exhaust() -> Vec<File> {
    let mut taken = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        taken.push(file);
    }
    taken
}

#[test]
fn descriptors_are_never_lost_and_may_run_out() {
    nothing_leaks();
    relay_without_descriptors_waits_and_goes_on();
}

fn relay_without_descriptors_waits_and_goes_on() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(128), ..limit }).unwrap();
    for uring in [true, false] {
        let relay = Relay::start(uring, |_| {});
        let early = relay.connect();
        relay.wait("accepts", |s| s.accepts.get(), 1);
        let late = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let taken = exhaust();
        late.connect(&relay.addr.into()).unwrap();
        let mut late = patient(TcpStream::from(late));
        late.write_all(&fast_start(&Client::new(2), &[])).unwrap();
        let start = std::time::Instant::now();
        while relay.sum(|s| s.accept_paused.get()) == 0 {
            assert!(start.elapsed() < PATIENCE);
            std::thread::sleep(Duration::from_millis(5));
        }
        // Who is in gets through: the hand-over needs no descriptor that is not there.
        let (mut stream, session) = relay.log_in(early);
        assert_eq!(relay.sum(|s| s.accepts.get()), 1);
        let mut socket = TcpStream::from(session.socket);
        socket.write_all(b"hello").unwrap();
        expect(&mut stream, b"hello");
        // And again: the reserve was refilled with what the first hand-over gave back. Who waited comes in now.
        drop(taken);
        let session = relay.workers.take();
        assert_eq!(session.identity.key, Client::new(2).key());
        relay.wait("accept paused", |s| s.accept_paused.get(), 0);
        relay.handle.join();
    }
}

/// Neither logins nor refusals nor evictions keep a descriptor.
fn nothing_leaks() {
    let open = || {
        let links = std::fs::read_dir("/proc/self/fd").unwrap();
        let mut all: Vec<_> = links.filter_map(|link| std::fs::read_link(link.unwrap().path()).ok()).collect();
        all.sort();
        all
    };
    for uring in [true, false] {
        let relay = Relay::start(uring, |config| config.half_open_max_per_ip = 4);
        // An edge that has let nobody in may still be making what it waits with.
        let start = std::time::Instant::now();
        while relay.handle.stats().iter().any(|edge| edge.accepts.get() == 0) {
            assert!(start.elapsed() < PATIENCE, "an edge accepts nobody");
            relay.log_in(relay.connect());
        }
        relay.wait("half open", |s| s.half_open.get(), 0);
        let before = open();
        for _ in 0..50 {
            let silent: Vec<TcpStream> = (0..6).map(|_| relay.connect()).collect();
            relay.log_in(relay.connect());
            let mut bad = relay.connect();
            bad.write_all(b"\0\0\r\n\r\n").unwrap();
            read_to_end(&mut bad);
            drop(silent);
        }
        relay.wait("half open", |s| s.half_open.get(), 0);
        let start = std::time::Instant::now();
        while open() != before {
            assert!(start.elapsed() < PATIENCE, "{before:?} became {:?}", open());
            std::thread::sleep(Duration::from_millis(5));
        }
        relay.handle.join();
    }
}
