//! `/debug/clients` against clients and traffic that are known.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::http::*;
use crate::relay_support::frames::*;
use crate::relay_support::ground::on_workers;
use crate::relay_support::*;

fn key(client: &Client) -> String {
    format!("nodekey:{}", hex(&client.public()))
}

fn row(relay: &Relay, client: &Client) -> Value {
    let page = get(admin(relay), &format!("/debug/clients?key={}", key(client))).json();
    assert_eq!((&page["matched"], &page["missing_workers"]), (&json!(1), &json!([])), "{page:#}");
    page["clients"][0].clone()
}

fn rows_say_what_clients_did(ground: Ground) {
    let relay = start_on(ground, &["--cert-mode=self-signed"]);
    let mut a = visit(&relay).mode(Mode::Tls12).log_in();
    let mut b = visit(&relay).mode(Mode::Tls13).header("Ideal-Node: 9z").log_in();
    for _ in 0..5 {
        a.send_to(&b.public(), &noise(1, 1000));
        b.expect(&recv_packet(&a.public(), &noise(1, 1000)));
    }
    b.send_to(&a.public(), &noise(2, 300));
    a.expect(&recv_packet(&b.public(), &noise(2, 300)));
    for _ in 0..3 {
        a.send_to(&Key::fresh().public, &noise(3, 10));
    }
    b.send(&note_preferred(true));
    a.expect_quiet();
    b.expect_quiet();

    let (one, other) = (row(&relay, &a), row(&relay, &b));
    assert_eq!(one["key"], key(&a));
    assert_eq!(one["address"], a.wire.socket.local_addr().unwrap().to_string());
    let flags =
        |row: &Value| ["home", "mesh", "prober", "not_ideal", "shared"].map(|name| row[name].as_bool().unwrap());
    assert_eq!((flags(&one), flags(&other)), ([false; 5], [true, false, false, true, false]));
    assert_eq!((&one["tls"], &other["tls"], &one["transport"]), (&json!("1.2"), &json!("1.3"), &json!("derp")));
    let moved = |row: &Value| ["packets_in", "bytes_in", "packets_out", "bytes_out"].map(|n| row[n].as_u64().unwrap());
    assert_eq!(moved(&one), [5 + 3, 5000 + 30, 1, 300]);
    assert_eq!(moved(&other), [1, 300, 5, 5000]);
    assert_eq!((&one["drops"]["unknown_dest"], &other["drops"]["unknown_dest"]), (&json!(3), &json!(0)));
    assert_eq!((&one["queued_packets"], &one["queued_bytes"]), (&json!(0), &json!(0)));
    assert!(one["worker"].as_u64().unwrap() < ground.workers as u64);
    let age = one["connected_seconds"].as_f64().unwrap();
    assert!(age > 0.0 && age < 120.0 && one["idle_seconds"].as_f64().unwrap() <= age, "{one:#}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((now - age - one["since"].as_f64().unwrap()).abs() < 30.0, "{one:#}");

    // Two connections with one key have a row each.
    let first = visit(&relay).mode(Mode::Tls13).log_in();
    let second = visit(&relay).mode(Mode::Tls13).key(&first.key).log_in();
    let page = get(admin(&relay), &format!("/debug/clients?key={}", key(&second))).json();
    assert_eq!(page["matched"], 2, "{page:#}");
    assert!(page["clients"].as_array().unwrap().iter().all(|row| row["shared"] == true), "{page:#}");
    drop((first, second));
    comes_to(&relay, 2);
    assert_eq!(get(admin(&relay), "/debug/check").body, "derp okay\n");
}

/// Until so many are connected.
fn comes_to(relay: &Relay, clients: usize) {
    let begin = Instant::now();
    loop {
        let page = get(admin(relay), "/debug/clients?limit=1").json();
        if page["connected"] == clients {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "expected {clients} clients: {page:#}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// What waits for a client that does not read is seen, and how long it has.
fn a_client_that_does_not_read_is_seen(ground: Ground) {
    let room = ["--queue-packets=65536", "--queue-bytes=256MiB"];
    // It is there until it has been seen.
    let time = ["--tcp-write-timeout=1m", "--tcp-user-timeout=1m"];
    let relay = start_on(ground, &[room, time].concat());
    let receiver = visit(&relay).receive_buffer(16 * 1024).log_in();
    let mut sender = visit(&relay).log_in();
    let packet = send_packet(&receiver.public(), &noise(1, 2000));
    for _ in 0..80 {
        sender.send(&packet.repeat(50));
    }
    sender.expect_quiet();
    let begin = Instant::now();
    loop {
        let page = get(admin(&relay), "/debug/clients?sort=queued_bytes&order=desc&limit=1").json();
        let row = &page["clients"][0];
        if row["queued_bytes"].as_u64() > Some(100_000) && row["queue_seconds"].as_f64() > Some(0.1) {
            assert_eq!(row["key"], key(&receiver), "{page:#}");
            assert!(row["queued_packets"].as_u64() > Some(50), "{row:#}");
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "expected a queue: {page:#}");
    }
}

on_workers!(rows_say_what_clients_did, a_client_that_does_not_read_is_seen);

const CROWD: usize = 2000;

/// Everybody stands on exactly one of the pages; meanwhile a pair goes on talking.
#[test]
fn thousands_are_listed_while_others_talk() {
    once("thousands_are_listed_while_others_talk", || {
        room_for(CROWD as u64 + 500);
        let relay = start_on(Ground { backend: "epoll", workers: 3 }, &[]);
        let to = admin(&relay);
        let crowd: Vec<Client> = thread::scope(|scope| {
            let parts: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..CROWD / 4).map(|_| visit(&relay).log_in()).collect::<Vec<_>>()))
                .collect();
            parts.into_iter().flat_map(|part| part.join().unwrap()).collect()
        });
        let (mut a, mut b) = (visit(&relay).log_in(), visit(&relay).log_in());
        let mut talk = |times: u64| {
            for n in 0..times {
                a.send_to(&b.public(), &noise(n, 500));
                b.expect(&recv_packet(&a.public(), &noise(n, 500)));
            }
        };
        talk(10);
        let mut seen = Vec::new();
        for offset in (0..).step_by(300) {
            let path = format!("/debug/clients?sort=packets_in&limit=300&offset={offset}");
            let page = get(to, &path).json();
            assert_eq!((&page["connected"], &page["missing_workers"]), (&json!(CROWD + 2), &json!([])));
            let rows = page["clients"].as_array().unwrap();
            if rows.is_empty() {
                break;
            }
            seen.extend(rows.iter().map(|row| row["key"].as_str().unwrap().to_owned()));
            talk(5);
        }
        let mut wanted: Vec<String> = crowd.iter().map(key).collect();
        wanted.extend([key(&a), key(&b)]);
        seen.sort();
        wanted.sort();
        assert_eq!(seen, wanted);

        let html = ask(to, "GET", "/debug/clients?limit=10000", &["Accept: text/html"], "");
        assert_eq!(html.body.matches("\n<tr><td>nodekey:").count(), CROWD + 2);
        let whole = get(to, "/debug/clients?limit=10000").json();
        assert_eq!(whole["clients"].as_array().unwrap().len(), CROWD + 2);
        for page in ["/metrics", "/debug/vars", "/debug/varz", "/debug/", "/healthz"] {
            assert_eq!(get(to, page).status, 200, "{page}");
        }
        let check = get(to, "/debug/check");
        assert_eq!((check.status, &*check.body), (200, "derp okay\n"));
        drop(crowd);
        comes_to(&relay, 2);
        assert_eq!(get(to, "/debug/check").body, "derp okay\n");
    });
}

/// Descriptors of this process: every client costs one here, too.
fn room_for(descriptors: u64) {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    assert!(maximum.is_none_or(|most| most >= descriptors), "{descriptors} descriptors are needed for this test");
}
