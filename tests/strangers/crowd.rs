//! Connections that say nothing, or not enough.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::work::Pair;
use crate::relay_support::frames::*;
use crate::relay_support::ground::on_backends;
use crate::relay_support::wire::{connect, is_reset};
use crate::relay_support::*;

/// What the relay keeps of connections that are not logged in: in all, and from one address.
const HALF_OPEN: usize = 4096;
const HALF_OPEN_PER_ADDRESS: usize = 512;

const LOGIN_DEADLINE: Duration = Duration::from_secs(10);

/// Descriptors of this process are for one crowd at a time.
fn descriptors() -> (MutexGuard<'static, ()>, usize) {
    static CROWD: Mutex<()> = Mutex::new(());
    let guard = CROWD.lock().unwrap_or_else(PoisonError::into_inner);
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Without leave to raise it the old limit is what there is.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let limit = getrlimit(Resource::Nofile).current.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    (guard, limit)
}

fn address(number: usize) -> IpAddr {
    Ipv4Addr::new(127, 0, 1 + (number / 200) as u8, 1 + (number % 200) as u8).into()
}

/// Whether the relay has ended the connection; waits for it if `patient`.
fn ended(mut stream: &TcpStream, patient: bool) -> bool {
    stream.set_nonblocking(!patient).unwrap();
    match stream.read(&mut [0; 64]) {
        Ok(0) => true,
        Ok(_) => panic!("expected silence or an end"),
        Err(e) if is_reset(&e) => true,
        Err(e) if e.kind() == ErrorKind::WouldBlock => {
            assert!(!patient, "expected the relay to end the connection within {PATIENCE:?}");
            false
        }
        Err(e) => panic!("expected silence or an end, got {e}"),
    }
}

fn thousands_of_silent_connections_delay_no_login(ground: Ground) {
    const WANTED: usize = 5000;
    const SPARE: usize = 1000;
    let (_crowd, limit) = descriptors();
    let count = WANTED.min(limit.saturating_sub(SPARE));
    if count < WANTED {
        let reason = format!("{count} silent connections instead of {WANTED}: the limit on descriptors is {limit}");
        ground::leave_out("part of thousands_of_silent_connections_delay_no_login", &reason, "DERPRING_REQUIRE_NOFILE");
    }
    let relay = Relay::start_tls(ground, &[]);
    let mut pair = Pair::new(&relay);
    let mut silent = Vec::new();
    for number in 0..count {
        // 100 from each address: far from the bound that one address has.
        // Not later than the relay has it: none is older than it looks here.
        let since = Instant::now();
        let stream = connect(relay.addr, Some(address(number / 100)));
        silent.push((stream.unwrap_or_else(|e| panic!("silent connection {number}: {e}")), since));
        if number % 500 == 499 {
            let begin = Instant::now();
            visit(&relay).log_in().expect_quiet();
            assert!(begin.elapsed() < LOGIN_DEADLINE, "a login took {:?} beside {number}", begin.elapsed());
            pair.rounds(5);
        }
    }
    // Who is too many has pushed out the oldest, and only those.
    let surplus = count.saturating_sub(HALF_OPEN);
    for (number, (stream, _)) in silent[..surplus].iter().enumerate() {
        assert!(ended(stream, true), "silent connection {number} of {count}");
    }
    // The logins took places, too.
    const LOGINS: usize = 20;
    for (number, (stream, since)) in silent.iter().enumerate().skip(surplus + LOGINS) {
        let gone = ended(stream, false);
        let why = "is not among the oldest";
        assert!(!gone || since.elapsed() >= LOGIN_DEADLINE, "silent connection {number} of {count} {why}");
    }
    pair.expect_quiet();
}

fn one_address_pushes_out_only_its_own(ground: Ground) {
    const EXTRA: usize = 100;
    let (_crowd, limit) = descriptors();
    assert!(limit > 1500, "this test needs 1500 descriptors, the limit is {limit}");
    let relay = Relay::start(ground, &[]);
    let begin = Instant::now();
    let first = connect(relay.addr, Some(address(0))).unwrap();
    let crowd: Vec<TcpStream> =
        (0..HALF_OPEN_PER_ADDRESS + EXTRA).map(|_| connect(relay.addr, Some(address(1))).unwrap()).collect();
    for (number, stream) in crowd[..EXTRA].iter().enumerate() {
        assert!(ended(stream, true), "connection {number} of one address");
    }
    // Its users can still log in: each costs another silent one its place.
    visit(&relay).from(address(1)).log_in().expect_quiet();
    let old = ended(&first, false);
    let young = crowd[EXTRA + 10..].iter().filter(|stream| ended(stream, false)).count();
    if begin.elapsed() < LOGIN_DEADLINE {
        assert!(!old, "a connection of another address was pushed out");
        assert_eq!(young, 0, "of the youngest, some were pushed out");
    }
}

/// In every phase, whether it says nothing or a byte now and then.
fn who_does_not_log_in_is_ended(ground: Ground) {
    let plain = Relay::start(ground, &[]);
    let tls = Relay::start_tls(ground, &[]);
    let mut pair = Pair::new(&tls);
    let mut silent: Vec<(&str, Client)> = Vec::new();
    let visit = visit(&plain);
    let info = visit.client_info();
    let mut come = |what: &'static str, relay: &Relay, mode: Mode, bytes: &[u8]| {
        let mut client = crate::relay_support::visit(relay).mode(mode).connect();
        if !bytes.is_empty() {
            client.send(bytes);
        }
        silent.push((what, client));
    };
    let begin = Instant::now();
    come("connected", &plain, Mode::Plain, b"");
    come("half a request", &plain, Mode::Plain, b"GET /derp HTTP/1.1\r\nHo");
    come("upgraded", &plain, Mode::Plain, &visit.request());
    come("half a login", &plain, Mode::Plain, &[visit.request(), info[..info.len() - 1].to_vec()].concat());
    come("the announcement of a large login", &plain, Mode::Plain, &[visit.request(), header(2, 200_000)].concat());
    come("no TLS", &tls, Mode::Plain, b"");
    come("half a hello", &tls, Mode::Plain, &[22, 3, 1, 2, 0, 1, 0]);
    come("TLS 1.2 done", &tls, Mode::Tls12, b"");
    come("TLS 1.3 done", &tls, Mode::Tls13, b"");
    // Forty bytes of a header line, one each half second: twice the deadline, if that started anew with each byte.
    let mut slow = crate::relay_support::visit(&plain).connect();
    slow.send(b"GET /derp HTTP/1.1\r\nX: ");
    let mut writer = slow.wire.socket.try_clone().unwrap();
    let trickle = thread::spawn(move || {
        for _ in 0..40 {
            if writer.write_all(b"x").is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(500));
        }
    });
    silent.push(("a byte now and then", slow));
    for (what, mut client) in silent {
        // The answer to the upgrade, perhaps.
        while client.wire.read(&mut Vec::new()).is_none() {}
        let after = begin.elapsed();
        assert!(
            after >= LOGIN_DEADLINE - Duration::from_secs(1),
            "{what}: ended after {after:?}, long before its time"
        );
        pair.exchange();
    }
    trickle.join().unwrap();
    pair.expect_quiet();
}

on_backends!(
    thousands_of_silent_connections_delay_no_login,
    one_address_pushes_out_only_its_own,
    who_does_not_log_in_is_ended,
);
