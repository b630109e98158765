//! Upgrades while clients come and go: nobody is refused, nobody is reset, and who was there may stay for a while.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use rustix::process::Signal;

use crate::relay_support::frames::*;
use crate::relay_support::ground::on_backends;
use crate::relay_support::process::status;
use crate::relay_support::*;
use crate::stage::Stage;

const UPGRADES: usize = 10;

/// Logs in again and again, and asks for something each time. Everything but an answer is a failure.
fn login_loop(visit: &Visit<'_>, stop: &AtomicBool, logins: &AtomicU64) {
    while !stop.load(Ordering::Acquire) {
        let mut client = visit.clone().key(&Key::fresh()).log_in();
        let told = client.settle();
        let told = told.iter().filter(|frame| frame.kind != RESTARTING).count();
        assert_eq!(told, 0, "nothing but Restarting and a pong");
        logins.fetch_add(1, Ordering::Relaxed);
    }
}

/// Asks over HTTP, on connections of its own.
fn http_loop(visit: &Visit<'_>, stop: &AtomicBool, answers: &AtomicU64) {
    while !stop.load(Ordering::Acquire) {
        let mut client = visit.connect();
        client.send(b"GET /derp/probe HTTP/1.1\r\nHost: x\r\n\r\n");
        let head = client.expect_head();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head:?}");
        answers.fetch_add(1, Ordering::Relaxed);
    }
}

fn ten_upgrades(ground: Ground, tls: bool) {
    // Longer than any of these sessions: none of them is ended by us, and the drain is over when they have left.
    let mut args = vec!["--drain-time=30", "--edges=2"];
    args.extend(tls.then_some("--cert-mode=self-signed"));
    let stage = Stage::new(ground, &args);
    let mut relay = stage.first();
    let modes = if tls { vec![Mode::Tls12, Mode::Tls13] } else { vec![Mode::Plain] };
    let visits: Vec<_> = modes.into_iter().map(|mode| visit_at(relay.addr, relay.public, mode)).collect();
    let (stop, logins, answers) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let per_upgrade = thread::scope(|scope| {
        for visit in &visits {
            scope.spawn(|| login_loop(visit, &stop, &logins));
            scope.spawn(|| http_loop(visit, &stop, &answers));
        }
        let mut per_upgrade = Vec::new();
        // Also when an assertion fails: the scope waits for the others.
        let _ended = OnDrop(&stop);
        for _ in 0..UPGRADES {
            let before = logins.load(Ordering::Relaxed);
            let next = stage.next(&[]);
            assert_eq!((next.addr, next.public), (relay.addr, relay.public));
            assert_eq!(status(relay.wait()), 0);
            relay = next;
            per_upgrade.push(logins.load(Ordering::Relaxed) - before);
        }
        per_upgrade
    });
    eprintln!(
        "{}: {UPGRADES} upgrades, {} logins ({per_upgrade:?} each), {} requests, nobody refused or reset",
        ground.backend,
        logins.load(Ordering::Relaxed),
        answers.load(Ordering::Relaxed)
    );
    assert!(per_upgrade.iter().all(|logins| *logins > 0), "logins in every upgrade: {per_upgrade:?}");
}

struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn ten_upgrades_refuse_nobody(ground: Ground) {
    ten_upgrades(ground, false);
}

fn ten_upgrades_refuse_nobody_under_tls(ground: Ground) {
    ten_upgrades(ground, true);
}

/// Sessions go on behind the takeover, who is on the way in comes in, and all are told.
fn who_was_there_may_stay_for_the_drain_time(ground: Ground) {
    let stage = Stage::new(ground, &["--drain-time=4"]);
    let mut old = stage.first();
    let (mut a, mut b) = (visit(&old).log_in(), visit(&old).log_in());
    // Has said half of it.
    let late = visit_at(old.addr, old.public, Mode::Plain);
    let mut half = late.connect();
    half.send(&late.request());
    half.expect_greeting();
    let mut idle = visit(&old).connect();

    let next = stage.next(&[]);
    old.expect_line("another relay has taken over");
    for client in [&mut a, &mut b] {
        assert_eq!(client.frame().kind, RESTARTING);
    }
    for number in 0..50 {
        a.send_to(&b.public(), &noise(number, 1000));
        b.expect(&recv_packet(&a.public(), &noise(number, 1000)));
    }
    half.send(&late.client_info());
    half.expect_server_info();
    assert_eq!(half.frame().kind, RESTARTING, "who comes in late is told as well");
    half.send_to(&a.public(), b"just in time");
    a.expect(&recv_packet(&half.public(), b"just in time"));
    // A request is answered, and the connection is not kept.
    idle.send(b"GET /derp/probe HTTP/1.1\r\nHost: x\r\n\r\n");
    let head = idle.expect_head();
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("Connection: close"), "{head:?}");
    // Newcomers are with the other one.
    let mut new = visit(&next).log_in();
    new.expect_quiet();
    for client in [&mut a, &mut b, &mut half] {
        assert_eq!(client.expect_end(), End::Fin);
    }
    old.expect_line("the drain is over");
    assert_eq!(status(old.wait()), 0);
    new.expect_quiet();
}

/// Without a drain time the old one ends as soon as nobody is half-way in.
fn without_a_drain_time_it_ends_soon(ground: Ground) {
    let stage = Stage::new(ground, &[]);
    let mut old = stage.first();
    let mut client = visit(&old).log_in();
    let next = stage.next(&[]);
    assert_eq!(client.frame().kind, RESTARTING);
    assert_eq!(client.expect_end(), End::Fin);
    assert_eq!(status(old.wait()), 0);
    visit(&next).log_in().expect_quiet();
}

/// A signal ends the drain of the old one, and nothing of the new one.
fn a_signal_ends_the_drain(ground: Ground) {
    let stage = Stage::new(ground, &["--drain-time=3600"]);
    let mut old = stage.first();
    let mut client = visit(&old).log_in();
    let next = stage.next(&[]);
    assert_eq!(client.frame().kind, RESTARTING);
    old.signal(Signal::TERM);
    assert_eq!(client.expect_end(), End::Fin);
    assert_eq!(status(old.wait()), 0);
    visit(&next).log_in().expect_quiet();
}

/// Addresses that the new one has not are closed, those that the old one had not are opened, and the rest goes over:
/// admin listeners too.
fn addresses_may_change(ground: Ground) {
    let stage = Stage::new(ground, &[]);
    let admin = stage.path("admin");
    let left = stage.path("left");
    let unix = |path: &std::path::Path| format!("--admin-listen=unix:{},127.0.0.1:0", path.display());
    let also = format!("--admin-listen=unix:{}", left.display());
    let mut old = stage.next_to_nobody(&["--listen=127.0.0.1:0,127.0.0.3:0", &unix(&admin), &also]);
    let spare =
        old.lines().iter().find_map(|line| line.strip_prefix("  listening   http://127.0.0.3:")?.strip_suffix("/derp"));
    let spare = (Ipv4Addr::new(127, 0, 0, 3), spare.expect("another listener").parse::<u16>().unwrap());
    assert_eq!(ask(&admin), "200");
    let tcp_admin = admin_port(&mut old);
    let kept = old.addr;
    TcpStream::connect(spare).unwrap();
    let listen = format!("--listen={kept},127.0.0.2:0");
    let mut new = stage.next(&[&listen, &unix(&admin)]);
    assert_eq!(status(old.wait()), 0);
    assert_eq!((new.addr, admin_port(&mut new)), (kept, tcp_admin));
    assert_eq!(TcpStream::connect(spare).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!(!left.exists(), "nobody listens there any more");
    assert_eq!(ask(&admin), "200");
    visit(&new).log_in().expect_quiet();
    // And again: what was taken over can be given on.
    let last = stage.next(&[&listen, &unix(&admin)]);
    assert_eq!(status(new.wait()), 0);
    assert_eq!(ask(&admin), "200");
    visit(&last).log_in().expect_quiet();
    last.signal(Signal::TERM);
    let mut last = last;
    assert_eq!(status(last.wait()), 0);
    assert!(!admin.exists() && !stage.takeover_socket().exists(), "the last one removes the names");
}

fn admin_port(relay: &mut Relay) -> String {
    let line = relay.lines().iter().find(|line| line.starts_with("  admin       http://"));
    line.expect("an admin listener over TCP").trim().to_owned()
}

/// The status of `/readyz`.
fn ask(path: &std::path::Path) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().to_owned()
}

/// Connections that nobody has accepted are not lost with the one who might have.
fn who_waits_in_the_queue_is_served(ground: Ground) {
    let stage = Stage::new(ground, &[]);
    let mut old = stage.first();
    // It does not accept now, and they wait.
    old.signal(Signal::STOP);
    let waiting: Vec<TcpStream> = (0..50).map(|_| wire::connect(old.addr, None).unwrap()).collect();
    old.signal(Signal::CONT);
    let begin = Instant::now();
    let next = stage.next(&[]);
    for socket in waiting {
        let visit = visit(&next);
        let mut client = visit.over(socket);
        client.send(&visit.request());
        client.expect_greeting();
        client.send(&visit.client_info());
        client.expect_server_info();
    }
    eprintln!("{}: taken over in {:?}", ground.backend, begin.elapsed());
    assert_eq!(status(old.wait()), 0);
}

on_backends!(
    ten_upgrades_refuse_nobody,
    ten_upgrades_refuse_nobody_under_tls,
    who_was_there_may_stay_for_the_drain_time,
    without_a_drain_time_it_ends_soon,
    a_signal_ends_the_drain,
    addresses_may_change,
    who_waits_in_the_queue_is_served,
);
