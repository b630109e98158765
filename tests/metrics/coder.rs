//! The series of Coder's relay: exactly these, with exactly these labels, from the start.

use std::collections::BTreeSet;

use derpring::control::metrics::Format;
use derpring::stats::DropReason;

use crate::ground::{Ground, ground};
use crate::scrape::{Scrape, read_openmetrics, read_text};

const REASONS: [&str; 7] = [
    "unknown_dest",
    "unknown_dest_on_fwd",
    "gone_disconnected",
    "queue_head",
    "queue_tail",
    "write_error",
    "dup_client",
];
const KINDS: [&str; 2] = ["disco", "other"];

/// Name behind `coder_derp_server_`, type, label and its values, and the sum after [`traffic`].
type Row = (&'static str, &'static str, Option<(&'static str, &'static [&'static str])>, f64);
const CODER: [Row; 25] = [
    ("accepts_total", "counter", None, 12.0),
    ("bytes_received_total", "counter", None, 50_000.0),
    ("bytes_sent_total", "counter", None, 40_000.0),
    ("packets_received_total", "counter", None, 175.0),
    ("packets_sent_total", "counter", None, 140.0),
    ("packets_dropped_total", "counter", None, 56.0),
    ("packets_forwarded_in_total", "counter", None, 9.0),
    ("packets_forwarded_out_total", "counter", None, 0.0),
    ("home_moves_in_total", "counter", None, 4.0),
    ("home_moves_out_total", "counter", None, 3.0),
    ("got_ping_total", "counter", None, 21.0),
    ("sent_pong_total", "counter", None, 20.0),
    ("peer_gone_disconnected_total", "counter", None, 6.0),
    ("peer_gone_not_here_total", "counter", None, 5.0),
    ("unknown_frames_total", "counter", None, 2.0),
    ("packets_dropped_reason_total", "counter", Some(("reason", &REASONS)), 56.0),
    ("packets_dropped_type_total", "counter", Some(("type", &KINDS)), 56.0),
    ("packets_received_kind_total", "counter", Some(("kind", &KINDS)), 175.0),
    ("connections", "gauge", None, 31.0),
    ("home_connections", "gauge", None, 17.0),
    ("clients", "gauge", None, 29.0),
    ("clients_local", "gauge", None, 29.0),
    ("clients_remote", "gauge", None, 0.0),
    ("watchers", "gauge", None, 1.0),
    ("average_queue_duration_ms", "gauge", None, 12.5),
];

/// What two workers and both edges have counted; the third worker has done nothing.
fn traffic(ground: &Ground) {
    let [a, b, idle] = [0, 1, 2].map(|at| &ground.workers[at]);
    ground.edges[0].derp_accepts.add(10);
    ground.edges[1].derp_accepts.add(2);
    for (cells, bytes) in [(a, 30_000), (b, 20_000)] {
        cells.bytes_received.add(bytes);
        cells.bytes_sent.add(bytes - 5000);
    }
    a.packets_received[0].add(100);
    b.packets_received[1].add(75);
    a.packets_sent.add(100);
    b.packets_sent.add(40);
    for (at, reason) in DropReason::ALL.iter().enumerate() {
        a.drop_packets(*reason, false, at as u64 + 1, 100);
        b.drop_packets(*reason, true, at as u64 + 1, 100);
    }
    a.packets_forwarded_in.add(9);
    b.home_moves_in.add(4);
    a.home_moves_out.add(3);
    b.got_ping.add(21);
    b.sent_pong.add(20);
    a.peer_gone_disconnected.add(6);
    b.peer_gone_not_here.add(5);
    a.unknown_frames.add(2);
    a.connections.add(30);
    b.connections.add(1);
    a.home_connections.add(17);
    // Each worker knows everybody.
    for cells in [a, b, idle] {
        cells.keys.set(29);
    }
    b.watchers.add(1);
    // Milliseconds; and of a worker through which nothing goes, whatever it remembers.
    a.queue_ms.set(12.5_f64.to_bits());
    (0..1000).for_each(|_| a.queue_time.record(12_500));
    idle.queue_ms.set(900.0_f64.to_bits());
}

fn both(ground: &Ground) -> [Scrape; 2] {
    [
        read_text(&ground.collector.prometheus(Format::Text)),
        read_openmetrics(&ground.collector.prometheus(Format::OpenMetrics)),
    ]
}

#[track_caller]
fn check(scrape: &Scrape, sum_of: impl Fn(f64) -> f64) {
    for (name, kind, label, sum) in CODER {
        let name = format!("coder_derp_server_{name}");
        let family = scrape.get(&name).unwrap_or_else(|| panic!("{name} is there"));
        assert_eq!(family.kind, kind, "{name}");
        assert!(family.help.ends_with('.'), "{name} has a help text: {:?}", family.help);
        let wanted: BTreeSet<String> = match label {
            None => [String::new()].into(),
            Some((label, values)) => values.iter().map(|value| format!("{label}=\"{value}\"")).collect(),
        };
        let labels: BTreeSet<String> = family.samples.keys().cloned().collect();
        assert_eq!(labels, wanted, "{name}");
        assert_eq!(family.numbers().values().sum::<f64>(), sum_of(sum), "{name}");
    }
    let theirs: Vec<&String> = scrape.keys().filter(|name| name.starts_with("coder_")).collect();
    assert_eq!(theirs.len(), CODER.len(), "these and no others: {theirs:#?}");
}

#[test]
fn all_are_there_at_zero_before_anything_has_happened() {
    for scrape in both(&ground(true)) {
        check(&scrape, |_| 0.0);
    }
}

#[test]
fn all_say_what_was_counted() {
    let ground = ground(true);
    traffic(&ground);
    for scrape in both(&ground) {
        check(&scrape, |sum| sum);
        let kinds = scrape["coder_derp_server_packets_received_kind_total"].numbers();
        assert_eq!((kinds["kind=\"disco\""], kinds["kind=\"other\""]), (75.0, 100.0));
        let reasons = scrape["coder_derp_server_packets_dropped_reason_total"].numbers();
        for (at, reason) in REASONS.iter().enumerate() {
            assert_eq!(reasons[&*format!("reason=\"{reason}\"")], 2.0 * (at as f64 + 1.0), "{reason}");
        }
    }
}
