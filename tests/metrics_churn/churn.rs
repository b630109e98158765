//! The crowd, and the account at the end.

use std::collections::VecDeque;
use std::env;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::http::{admin, start_on};
use crate::judge::watch;
use crate::pages::{Numbers, PAGES, clients, metrics, sum};
use crate::relay_support::frames::*;
use crate::relay_support::ground::{leave_out, uring_works, within};
use crate::relay_support::wire::reset;
use crate::relay_support::*;

/// Logins a second, by all visitors together.
const RATE: u32 = 1000;
const VISITORS: u32 = 8;
/// Connections that each of them keeps before the oldest goes.
const KEPT: usize = 16;
const PACKET: usize = 300;

/// What memory may stay behind: for a worker's stocks, which a burst fills, and for each login, which is far less than
/// what any of them had.
const MEMORY_OF_STOCKS: f64 = 16e6;
const MEMORY_OF_LOGIN: f64 = 100.0;

#[test]
fn epoll() {
    on("epoll");
}

#[test]
fn uring() {
    if !uring_works() {
        return leave_out("metrics_churn::uring", "io_uring is not available here", "DERPRING_REQUIRE_URING");
    }
    on("uring");
}

fn on(backend: &'static str) {
    // Each is to have the machine for itself, as far as that is ours to say.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let seconds = env::var("DERPRING_CHURN_SECONDS").map_or(3, |given| {
        given.parse().unwrap_or_else(|e| panic!("DERPRING_CHURN_SECONDS={given}: give a number of seconds: {e}"))
    });
    let time = Duration::from_secs(seconds);
    within(10 * time + Duration::from_secs(240), "metrics_churn", move || numbers_hold(backend, time));
}

/// What visitors have done.
#[derive(Clone, Copy, Default)]
struct Done {
    logins: u32,
    pings: u32,
    resets: u32,
    offences: u32,
}

fn numbers_hold(backend: &'static str, time: Duration) {
    let relay = start_on(Ground { backend, workers: 2 }, &["--edges=2"]);
    let to = admin(&relay);
    // So that what is made on first use is there.
    let warm: Done = crowd(&relay, Duration::from_millis(500));
    let before = at_rest(to, &warm);

    let end = AtomicBool::new(false);
    let begin = Instant::now();
    let (done, asked) = thread::scope(|scope| {
        let watchers: Vec<_> =
            PAGES.iter().map(|(name, read)| (*name, scope.spawn(|| watch(name, *read, to, &end)))).collect();
        let done = {
            let _end = SetOnDrop(&end);
            crowd(&relay, time)
        };
        let asked: Vec<_> = watchers.into_iter().map(|(name, watcher)| (name, rejoin(watcher))).collect();
        (done, asked)
    });
    let rate = f64::from(done.logins) / begin.elapsed().as_secs_f64();
    let after = with_descriptors(descriptors(&before), to, &(warm + done));
    let memory = |numbers: &Numbers| numbers.gauges["process_resident_memory_bytes{}"];
    let (was, is) = (memory(&before), memory(&after));
    eprintln!(
        "{backend}: {} logins, {rate:.0} a second; answers: {asked:?}; {:.1} MB of memory, then {:.1}",
        done.logins,
        was / 1e6,
        is / 1e6
    );
    let stays = MEMORY_OF_STOCKS + MEMORY_OF_LOGIN * f64::from(done.logins);
    assert!(is <= was + stays, "memory went from {was} to {is} bytes for {} logins", done.logins);
    let _guest = visit(&relay).log_in();
    lists_one(to);
}

/// After all that, the one who is there is listed, and by all workers.
fn lists_one(to: SocketAddr) {
    let begin = Instant::now();
    loop {
        let now = clients(to).gauges;
        if now["connected"] == 1.0 && now["missing workers"] == 0.0 {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "expected one client, and all workers to answer: {now:?}");
    }
}

/// All visitors, for so long. When it returns all have left.
fn crowd(relay: &Relay, time: Duration) -> Done {
    thread::scope(|scope| {
        let visitors: Vec<_> = (0..VISITORS).map(|number| scope.spawn(move || visitor(relay, number, time))).collect();
        visitors.into_iter().map(rejoin).fold(Done::default(), |all, one| all + one)
    })
}

/// Logs in when it is due, or as soon as it can if it is behind.
fn visitor(relay: &Relay, number: u32, time: Duration) -> Done {
    let pause = Duration::from_secs(1) * VISITORS / RATE;
    let begin = Instant::now();
    let mut done = Done::default();
    let mut kept = VecDeque::new();
    while begin.elapsed() < time {
        let due = begin + pause * done.logins;
        // The pace is the test, so this is no wait for something.
        thread::sleep(due.saturating_duration_since(Instant::now()));
        kept.push_back(one_visit(relay, number, &mut done));
        if kept.len() > KEPT {
            leave(kept.pop_front().unwrap(), &mut done);
        }
    }
    for client in kept {
        leave(client, &mut done);
    }
    done
}

/// A login, a packet to itself and sometimes a ping, each answered.
fn one_visit(relay: &Relay, number: u32, done: &mut Done) -> Client {
    // Of many addresses, as the ports of one run out.
    let from = Ipv4Addr::new(127, 0, 2 + number as u8, 1 + (done.logins % 200) as u8);
    let mut client = visit(relay).from(IpAddr::V4(from)).log_in();
    done.logins += 1;
    let data = noise(u64::from(done.logins), PACKET);
    let me = client.public();
    client.send(&[note_preferred(done.logins.is_multiple_of(2)), send_packet(&me, &data)].concat());
    client.expect(&recv_packet(&me, &data));
    if done.logins.is_multiple_of(3) {
        client.expect_quiet();
        done.pings += 1;
    }
    client
}

/// In one of three ways.
fn leave(mut client: Client, done: &mut Done) {
    match (done.resets + done.offences + done.logins) % 3 {
        0 => {
            done.resets += 1;
            reset(client.wire.socket);
        }
        1 => {
            done.offences += 1;
            client.send(&frame(NOTE_PREFERRED, &[&[0; 2]]));
            client.expect_end();
        }
        _ => drop(client),
    }
}

/// Waits until all who came have left and every number says so.
fn settled(to: SocketAddr, all: &Done) -> Numbers {
    let begin = Instant::now();
    loop {
        let now = metrics(to);
        let wrong = differences(&now, all);
        if wrong.is_empty() {
            return now;
        }
        assert!(begin.elapsed() < PATIENCE, "(name, is, should be): {wrong:#?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// As [`settled`], when no more descriptors are being closed: a worker counts an end in one turn and closes the socket
/// in a later one.
fn at_rest(to: SocketAddr, all: &Done) -> Numbers {
    const LOOKS: u32 = 10;
    let begin = Instant::now();
    let mut last = settled(to, all);
    let mut same = 0;
    while same < LOOKS {
        assert!(begin.elapsed() < PATIENCE, "descriptors still come and go: {} now", descriptors(&last));
        thread::sleep(Duration::from_millis(20));
        // A worker that answers has had another turn.
        let all_answered = clients(to).gauges["missing workers"] == 0.0;
        let now = settled(to, all);
        same = if all_answered && descriptors(&now) == descriptors(&last) { same + 1 } else { 0 };
        last = now;
    }
    last
}

/// As [`settled`], when there are as many descriptors as there should be.
fn with_descriptors(wanted: f64, to: SocketAddr, all: &Done) -> Numbers {
    let begin = Instant::now();
    loop {
        let now = settled(to, all);
        if descriptors(&now) == wanted {
            return now;
        }
        assert!(begin.elapsed() < PATIENCE, "descriptors: {} and not {wanted}", descriptors(&now));
        thread::sleep(Duration::from_millis(20));
    }
}

fn descriptors(numbers: &Numbers) -> f64 {
    numbers.gauges["process_open_fds{}"]
}

fn differences(now: &Numbers, all: &Done) -> Vec<(String, f64, f64)> {
    let [logins, pings, resets, offences] = [all.logins, all.pings, all.resets, all.offences].map(f64::from);
    let counters = [
        ("coder_derp_server_accepts_total{", logins),
        ("coder_derp_server_packets_received_total{", logins),
        ("coder_derp_server_packets_sent_total{", logins),
        ("coder_derp_server_packets_dropped_total{", 0.0),
        ("coder_derp_server_bytes_received_total{", logins * PACKET as f64),
        ("coder_derp_server_bytes_sent_total{", logins * PACKET as f64),
        ("coder_derp_server_got_ping_total{", pings),
        ("coder_derp_server_sent_pong_total{", pings),
        ("coder_derp_server_unknown_frames_total{", 0.0),
        ("derpring_edge_accepts_total{", logins),
        ("derpring_edge_logins_total{", logins),
        ("derpring_login_seconds{} count", logins),
        ("derpring_queue_time_seconds{} count", logins),
        ("derpring_sessions_ended_total{", logins),
        ("derpring_sessions_ended_total{reason=\"bad_frame\"}", offences),
        ("derpring_sessions_ended_total{reason=\"peer_reset\"}", resets),
        ("derpring_sessions_ended_total{reason=\"peer_closed\"}", logins - offences - resets),
    ];
    let gauges = [
        "coder_derp_server_connections{",
        "coder_derp_server_home_connections{",
        "coder_derp_server_clients{",
        "coder_derp_server_clients_local{",
        "derpring_worker_sessions{",
        "derpring_worker_queued_packets{",
        "derpring_worker_queued_bytes{",
        "derpring_worker_queue_memory_bytes{",
        "derpring_worker_inbox_depth{",
        "derpring_worker_acquaintances{",
        "derpring_edge_half_open{",
    ];
    let ok: f64 = now.counters.iter().filter(|(name, _)| is_ok_login(name)).map(|(_, value)| value).sum();
    let counters = counters.map(|(name, wanted)| (name.to_owned(), sum(&now.counters, name), wanted));
    let gauges = gauges.map(|name| (name.to_owned(), sum(&now.gauges, name), 0.0));
    let all = counters.into_iter().chain(gauges).chain([("logins that succeeded".to_owned(), ok, logins)]);
    all.filter(|(_, is, wanted)| is != wanted).collect()
}

fn is_ok_login(name: &str) -> bool {
    name.starts_with("derpring_edge_logins_total{") && name.contains("result=\"ok\"")
}

impl std::ops::Add for Done {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            logins: self.logins + other.logins,
            pings: self.pings + other.pings,
            resets: self.resets + other.resets,
            offences: self.offences + other.offences,
        }
    }
}

fn rejoin<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Also by a panic.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
