//! The start block, the port, the cores.

use std::net::TcpStream;
use std::process::Stdio;
use std::thread;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::relay_support::frames::*;
use crate::relay_support::ground::{on_backends, on_workers};
use crate::relay_support::process::{command, flags, status};
use crate::relay_support::*;

fn the_start_block_says_what_runs(ground: Ground) {
    let mut relay = Relay::start_tls(ground, &["--edges=2", "--max-clients=77"]);
    let port = relay.addr.port();
    let backend = relay.value("backend").to_owned();
    match ground.backend {
        "epoll" => assert_eq!(backend, "epoll: --backend epoll"),
        _ => assert!(backend == "io_uring" || backend.starts_with("io_uring ("), "{backend:?}"),
    }
    assert_eq!(relay.value("listening"), format!("https://127.0.0.1:{port}/derp"));
    assert_eq!(relay.value("threads"), format!("{} workers, 2 edges", ground.workers));
    assert_eq!(relay.value("clients"), "up to 77");
    let memory = relay.value("memory").to_owned();
    assert!(memory.starts_with("queues up to ") && memory.ends_with(" MiB per worker"), "{memory:?}");
    let version = format!("derpring {}", env!("CARGO_PKG_VERSION"));
    assert!(relay.lines().contains(&version), "expected a line {version:?} in {:#?}", relay.lines());
    // A key of its own each time it starts.
    let other = Relay::start(ground, &[]);
    assert_ne!(relay.public, other.public);
}

fn it_listens_on_every_address(ground: Ground) {
    let mut command = command();
    let mut args = flags(ground);
    args.retain(|arg| !arg.starts_with("--listen"));
    let mut relay = Relay::spawn(command.args(args).arg("--listen=127.0.0.1:0,[::1]:0,127.0.0.2:0"));
    let lines = relay.lines().iter().filter_map(|line| line.trim().strip_prefix("listening"));
    let addresses = lines.map(|line| line.trim().strip_prefix("http://").unwrap().strip_suffix("/derp").unwrap());
    let addresses: Vec<_> = addresses.map(|address| address.parse().unwrap()).collect();
    assert_eq!(addresses.len(), 3, "{addresses:?}");
    let clients = addresses.into_iter().map(|address| {
        relay.addr = address;
        visit(&relay).log_in()
    });
    let mut clients: Vec<Client> = clients.collect();
    for from in 0..3 {
        let to = clients[(from + 1) % 3].public();
        clients[from].send_to(&to, b"through another door");
        let source = clients[from].public();
        clients[(from + 1) % 3].expect(&recv_packet(&source, b"through another door"));
    }
}

/// The second relay is told so; the first one does not lose a client to it.
fn a_port_is_for_one_relay(ground: Ground) {
    let relay = Relay::start(ground, &[]);
    let listen = format!("--listen={}", relay.addr);
    for _ in 0..3 {
        let mut args = flags(ground);
        args.retain(|arg| !arg.starts_with("--listen"));
        let run = command().args(args).arg(&listen).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(status(run.status), 1, "{text}");
        let said: Vec<&str> = text.lines().filter(|line| line.starts_with("derpring: ")).collect();
        assert_eq!(said.len(), 1, "{text}");
        let wanted = format!("derpring: cannot listen on {}: ", relay.addr);
        assert!(said[0].starts_with(&wanted) && said[0].contains("stop it, or give another"), "{text}");
        visit(&relay).log_in().expect_quiet();
    }
}

/// Whoever starts it again after a crash does so at once, and with the same address. What a ring holds is closed after
/// its process is gone.
fn a_relay_that_was_killed_is_followed_at_once(ground: Ground) {
    let mut relay = Relay::start(ground, &[]);
    for _ in 0..3 {
        let crowd: Vec<TcpStream> = (0..500).map(|_| TcpStream::connect(relay.addr).unwrap()).collect();
        visit(&relay).log_in().expect_quiet();
        let listen = format!("--listen={}", relay.addr);
        let mut args = flags(ground);
        args.retain(|arg| !arg.starts_with("--listen"));
        // By SIGKILL.
        drop(relay);
        relay = Relay::spawn(command().args(args).arg(&listen));
        visit(&relay).log_in().expect_quiet();
        drop(crowd);
    }
}

/// Workers are as many as cores that the relay may use, and it is told fewer by its affinity mask.
fn workers_follow_the_affinity_mask(ground: Ground) {
    let relay = thread::spawn(move || {
        let mine = sched_getaffinity(None).unwrap();
        let first = (0..CpuSet::MAX_CPU).find(|cpu| mine.is_set(*cpu)).unwrap();
        let mut one = CpuSet::new();
        one.set(first);
        // Of this thread, and of what it starts.
        sched_setaffinity(None, &one).unwrap();
        let mut args = flags(ground);
        args.retain(|arg| !arg.starts_with("--workers"));
        Relay::spawn(command().args(args))
    });
    let relay = relay.join().unwrap();
    assert_eq!(relay.value("threads"), "1 workers, 1 edges");
    let (mut a, mut b) = (visit(&relay).log_in(), visit(&relay).log_in());
    a.send_to(&b.public(), b"one core");
    b.expect(&recv_packet(&a.public(), b"one core"));
}

on_workers!(the_start_block_says_what_runs);

mod once {
    use super::{
        a_port_is_for_one_relay, a_relay_that_was_killed_is_followed_at_once, it_listens_on_every_address,
        workers_follow_the_affinity_mask,
    };
    super::on_backends!(
        it_listens_on_every_address,
        a_port_is_for_one_relay,
        a_relay_that_was_killed_is_followed_at_once,
        workers_follow_the_affinity_mask
    );
}
