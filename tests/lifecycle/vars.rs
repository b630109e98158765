//! `/debug/vars`: known traffic gives exactly these counts.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::relay_support::frames::*;
use crate::relay_support::ground::on_workers;
use crate::relay_support::*;

/// What depends on the machine or on timing, not on the traffic alone.
const LEFT_OUT: [&str; 6] = [
    "gauge_memstats_sys0",
    "gauge_current_file_descriptors",
    "average_queue_duration_ms",
    "counter_tcp_rtt",
    "counter_buffered_write_frames",
    "version",
];

/// All counters under `derp`: those of `wanted`, and zero for every other.
fn counts_come_to(relay: &Relay, wanted: &Value) {
    let begin = Instant::now();
    loop {
        let vars = relay.vars();
        let all = vars.as_object().unwrap().clone();
        let got: Map<String, Value> = all
            .into_iter()
            .filter(|(name, value)| {
                let zero = *value == json!(0) || value.as_object().is_some_and(|set| set.values().all(|v| *v == 0));
                !LEFT_OUT.contains(&name.as_str()) && !zero
            })
            .collect();
        let got = Value::Object(got);
        if got == *wanted {
            return;
        }
        // Workers publish at the end of a turn; there is no event for it.
        assert!(begin.elapsed() < PATIENCE, "expected the counts on the right\n left: {got:#}\nright: {wanted:#}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn known_traffic_gives_exact_counts(ground: Ground) {
    let relay = Relay::start(ground, &[]);
    counts_come_to(&relay, &json!({}));

    let (mut a, mut b, mut c) = (visit(&relay).log_in(), visit(&relay).log_in(), visit(&relay).log_in());
    // While they are young: later these would be moves.
    a.send(&note_preferred(true));
    b.send(&[note_preferred(true), note_preferred(false)].concat());
    let sizes = [0, 1, 100, 1400, MAX_PACKET];
    for size in sizes {
        a.send_to(&b.public(), &noise(1, size));
        b.expect(&recv_packet(&a.public(), &noise(1, size)));
    }
    for _ in 0..3 {
        b.send_to(&a.public(), &disco(62));
        a.expect(&recv_packet(&b.public(), &disco(62)));
    }
    c.send_to(&c.public(), &noise(2, 50));
    c.expect(&recv_packet(&c.public(), &noise(2, 50)));
    // To nobody: twice data, once disco, which is answered.
    let nobody = Key::fresh().public;
    a.send_to(&nobody, &noise(3, 10));
    a.send_to(&nobody, &noise(3, 20));
    a.send_to(&nobody, &disco(100));
    a.expect(&peer_gone(&nobody, NOT_HERE));
    for _ in 0..4 {
        c.expect_quiet();
    }
    c.send(&[header(0x77, 0), frame(PONG, &[&[0; 8]]), frame(0xee, &[&[1; 5000]])].concat());

    let received = sizes.iter().sum::<usize>() + 3 * 62 + 50;
    let mut wanted = json!({
        "accepts": 3,
        "gauge_clients_total": 3,
        "gauge_clients_local": 3,
        "gauge_current_connections": 3,
        "gauge_current_home_connections": 1,
        "packets_received": 5 + 3 + 1 + 3,
        "bytes_received": received + 10 + 20 + 100,
        "counter_packets_received_kind": { "disco": 3 + 1, "other": 5 + 1 + 2 },
        "packets_sent": 5 + 3 + 1,
        "bytes_sent": received,
        "packets_dropped": 3,
        "counter_packets_dropped_reason": dropped(3),
        "counter_packets_dropped_type": { "disco": 1, "other": 2 },
        "unknown_frames": 3,
        "got_ping": 4,
        "sent_pong": 4,
        "peer_gone_not_here_frames": 1,
    });
    counts_come_to(&relay, &wanted);
    let all = relay.all_vars();
    assert_eq!(all["derp_packets_dropped"]["unknown_dest/other"], 2);
    assert_eq!(all["derp_packets_dropped"]["unknown_dest/disco"], 1);
    assert_eq!(all["derp_bytes_dropped"]["unknown_dest/other"], 30);
    assert_eq!(all["derp_bytes_dropped"]["unknown_dest/disco"], 100);

    // Two connections of one key more, one of them on its way to another node than its ideal one.
    let key = Key::fresh();
    let first = visit(&relay).key(&key).log_in();
    let second = visit(&relay).key(&key).header("Ideal-Node: 9z").log_in();
    set(&mut wanted, "accepts", 5);
    set(&mut wanted, "gauge_clients_total", 4);
    set(&mut wanted, "gauge_clients_local", 4);
    set(&mut wanted, "gauge_current_connections", 5);
    set(&mut wanted, "gauge_current_dup_client_keys", 1);
    set(&mut wanted, "gauge_current_dup_client_conns", 2);
    set(&mut wanted, "counter_total_dup_client_conns", 1);
    set(&mut wanted, "gauge_current_notideal_connections", 1);
    counts_come_to(&relay, &wanted);

    // They leave, and so does the one that another has heard of.
    drop((first, second, b));
    assert_eq!(a.frame().kind, PEER_GONE);
    for name in
        ["gauge_current_dup_client_keys", "gauge_current_dup_client_conns", "gauge_current_notideal_connections"]
    {
        wanted.as_object_mut().unwrap().remove(name);
    }
    set(&mut wanted, "gauge_clients_total", 2);
    set(&mut wanted, "gauge_clients_local", 2);
    set(&mut wanted, "gauge_current_connections", 2);
    set(&mut wanted, "peer_gone_disconnected_frames", 1);
    counts_come_to(&relay, &wanted);

    // Whoever looks does not change it.
    for _ in 0..3 {
        counts_come_to(&relay, &wanted);
    }
}

fn set(wanted: &mut Value, name: &str, count: u64) {
    wanted[name] = count.into();
}

fn dropped(unknown: u64) -> Value {
    json!({
        "unknown_dest": unknown,
        "unknown_dest_on_fwd": 0,
        "gone_disconnected": 0,
        "queue_head": 0,
        "queue_tail": 0,
        "write_error": 0,
        "dup_client": 0,
    })
}

/// A flood that nobody reads: in the end every packet was either sent or dropped, for one reason.
fn every_packet_is_accounted_for(ground: Ground) {
    // The receiver is there until all has been sent: no packet is for nobody.
    let relay = Relay::start(ground, &["--tcp-write-timeout=1m", "--tcp-user-timeout=1m"]);
    let mut receiver = visit(&relay).receive_buffer(16 * 1024).log_in();
    let mut sender = visit(&relay).log_in();
    let packet = send_packet(&receiver.public(), &noise(1, 1000));
    const PACKETS: u64 = 20_000;
    for _ in 0..PACKETS / 100 {
        sender.send(&packet.repeat(100));
    }
    sender.settle();
    // Some has been sent, some waits, some was dropped for what is younger; then it leaves.
    let arrived = receiver.frame().bytes();
    assert_eq!(arrived, recv_packet(&sender.public(), &noise(1, 1000)));
    drop(receiver);
    let begin = Instant::now();
    loop {
        let vars = relay.vars();
        let count = |name: &str| vars[name].as_u64().unwrap();
        let by_reason = vars["counter_packets_dropped_reason"].as_object().unwrap();
        let reasons: u64 = by_reason.values().map(|count| count.as_u64().unwrap()).sum();
        let settled = count("packets_sent") + count("packets_dropped");
        if count("gauge_current_connections") == 1 && settled == PACKETS {
            assert_eq!(count("packets_received"), PACKETS);
            assert_eq!(count("bytes_received"), PACKETS * 1000);
            assert_eq!(count("packets_dropped"), reasons, "{vars:#}");
            assert_eq!(by_reason["unknown_dest"], 0, "{vars:#}");
            assert!(by_reason["queue_head"].as_u64().unwrap() > 0, "a full queue drops its oldest: {vars:#}");
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "expected {PACKETS} packets to be sent or dropped: {vars:#}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Clients by TLS version, while they are there.
fn tls_versions_are_counted(ground: Ground) {
    let relay = Relay::start_tls(ground, &[]);
    let new = visit(&relay).log_in();
    let old = visit(&relay).mode(Mode::Tls12).log_in();
    let newer = visit(&relay).log_in();
    active_versions_come_to(&relay, &json!({ "1.2": 1, "1.3": 2 }));
    drop((old, newer));
    active_versions_come_to(&relay, &json!({ "1.2": 0, "1.3": 1 }));
    drop(new);
    active_versions_come_to(&relay, &json!({ "1.2": 0, "1.3": 0 }));
}

fn active_versions_come_to(relay: &Relay, wanted: &Value) {
    let begin = Instant::now();
    loop {
        let mut wire = Wire::open(relay, Mode::Tls13);
        wire.write(b"GET /debug/vars HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        while wire.read(&mut answer).is_none() {}
        let answer = String::from_utf8(answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("expected an answer: {answer}"));
        let vars: Value = serde_json::from_str(body).unwrap();
        assert!(vars["tls_listener"]["counter_accepted_connections"].as_u64().unwrap() > 0);
        let got = &vars["gauge_derper_tls_active_version"];
        if got == wanted {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "expected {wanted}, got {got}");
        thread::sleep(Duration::from_millis(20));
    }
}

on_workers!(known_traffic_gives_exact_counts, every_packet_is_accounted_for, tls_versions_are_counted);
