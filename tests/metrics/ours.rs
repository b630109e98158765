//! Our own series: names, types, labels, histograms, and that both forms say the same.

use std::collections::BTreeSet;

use derpring::control::metrics::Format;
use derpring::stats::{CloseReason, StunResult};

use crate::ground::{EDGES, WORKERS, ground};
use crate::scrape::{Scrape, Value, read_openmetrics, read_text};

/// Names behind `derpring_worker_`, one number for each worker.
const WORKER: [(&str, &str); 24] = [
    ("sessions", "gauge"),
    ("turns_total", "counter"),
    ("sleeps_total", "counter"),
    ("busy_seconds_total", "counter"),
    ("load_ratio", "gauge"),
    ("packets_from_workers_total", "counter"),
    ("inbox_depth", "gauge"),
    ("inbox_limit", "gauge"),
    ("inbox_full_total", "counter"),
    ("outbox_dropped_packets_total", "counter"),
    ("wakes_sent_total", "counter"),
    ("wakes_received_total", "counter"),
    ("ring_submissions_total", "counter"),
    ("ring_completions_total", "counter"),
    ("receive_buffers_exhausted_total", "counter"),
    ("system_calls_total", "counter"),
    ("queued_packets", "gauge"),
    ("queued_bytes", "gauge"),
    ("queue_memory_bytes", "gauge"),
    ("queue_memory_limit_bytes", "gauge"),
    ("moves_total", "counter"),
    ("batches_total", "counter"),
    ("acquaintances", "gauge"),
    ("acquaintances_limit", "gauge"),
];
/// Names behind `derpring_edge_`, one number for each edge.
const EDGE: [(&str, &str); 4] = [
    ("accepts_total", "counter"),
    ("half_open", "gauge"),
    ("http_requests_total", "counter"),
    ("accept_paused", "gauge"),
];
/// Whole names, one number.
const RELAY: [(&str, &str); 10] = [
    ("derpring_stun_read_errors_total", "counter"),
    ("derpring_clients_limit", "gauge"),
    ("derpring_half_open_limit", "gauge"),
    ("derpring_last_reload_timestamp_seconds", "gauge"),
    ("process_cpu_seconds_total", "counter"),
    ("process_resident_memory_bytes", "gauge"),
    ("process_virtual_memory_bytes", "gauge"),
    ("process_open_fds", "gauge"),
    ("process_max_fds", "gauge"),
    ("process_start_time_seconds", "gauge"),
];
const HISTOGRAMS: [&str; 5] = [
    "derpring_queue_time_seconds",
    "derpring_turn_seconds",
    "derpring_login_seconds",
    "derpring_batch_packets",
    "derpring_record_bytes",
];

fn product(label: &str, count: usize, others: &[String]) -> BTreeSet<String> {
    let all = (0..count).flat_map(|at| others.iter().map(move |other| (at, other)));
    all.map(|(at, other)| sorted(&[format!("{label}=\"{at}\""), other.clone()])).collect()
}

fn sorted(labels: &[String]) -> String {
    let mut labels: Vec<&str> = labels.iter().map(String::as_str).filter(|label| !label.is_empty()).collect();
    labels.sort_unstable();
    labels.join(",")
}

fn values(label: &str, values: &[&str]) -> Vec<String> {
    values.iter().map(|value| format!("{label}=\"{value}\"")).collect()
}

#[test]
fn names_types_and_labels_are_these_and_no_others() {
    let ends: Vec<&str> = CloseReason::ALL.iter().map(|reason| reason.as_str()).collect();
    let none = [String::new()];
    let mut wanted: Vec<(String, &str, BTreeSet<String>)> = Vec::new();
    for (name, kind) in WORKER {
        wanted.push((format!("derpring_worker_{name}"), kind, product("worker", WORKERS, &none)));
    }
    for (name, kind) in EDGE {
        wanted.push((format!("derpring_edge_{name}"), kind, product("edge", EDGES, &none)));
    }
    for (name, kind) in RELAY {
        wanted.push((name.to_owned(), kind, none.clone().into()));
    }
    for name in HISTOGRAMS {
        wanted.push((name.to_owned(), "histogram", none.clone().into()));
    }
    let mut counter = |name: &str, labels| wanted.push((name.to_owned(), "counter", labels));
    let routes = product("worker", WORKERS, &values("route", &["local", "worker", "mesh"]));
    counter("derpring_worker_packets_routed_total", routes);
    counter("derpring_edge_handshakes_total", product("edge", EDGES, &values("result", &["ok", "failed"])));
    counter("derpring_edge_tls_handshakes_total", product("edge", EDGES, &values("version", &["1.2", "1.3"])));
    let logins = values("result", &[&["ok"][..], &ends].concat());
    counter("derpring_edge_logins_total", product("edge", EDGES, &logins));
    counter("derpring_sessions_ended_total", values("reason", &ends).into_iter().collect());
    let results: Vec<&str> = StunResult::ALL.iter().map(|result| result.as_str()).collect();
    let stun = ["ipv4", "ipv6"].iter().flat_map(|family| {
        let family = format!("family=\"{family}\"");
        values("result", &results).into_iter().map(move |result| sorted(&[family.clone(), result]))
    });
    counter("derpring_stun_requests_total", stun.collect());
    let reloads = values("result", &["taken_over", "refused"]);
    counter("derpring_reloads_total", reloads.into_iter().collect());
    let build = "backend=\"io_uring\",edge_backend=\"epoll\",version=\"1.2.3\"".to_owned();
    wanted.push(("derpring_build_info".to_owned(), "gauge", [build].into()));

    let ground = ground(true);
    let text = read_text(&ground.collector.prometheus(Format::Text));
    let open = read_openmetrics(&ground.collector.prometheus(Format::OpenMetrics));
    for scrape in [&text, &open] {
        for (name, kind, labels) in &wanted {
            let family = scrape.get(name).unwrap_or_else(|| panic!("{name} is there"));
            assert_eq!(family.kind, *kind, "{name}");
            assert_eq!(&family.samples.keys().cloned().collect::<BTreeSet<_>>(), labels, "{name}");
        }
        let known: BTreeSet<&str> = wanted.iter().map(|(name, ..)| name.as_str()).collect();
        let there: BTreeSet<&str> = scrape.keys().map(String::as_str).filter(|n| !n.starts_with("coder_")).collect();
        assert_eq!(there, known);
    }
}

#[test]
fn each_number_is_that_of_its_cell() {
    let ground = ground(true);
    let (worker, edge) = (&ground.workers[1], &ground.edges[1]);
    worker.connections.set(11);
    worker.busy_ns.add(1_500_000_001);
    worker.load_permille.set(125);
    worker.packets_local.add(5);
    worker.packets_to_workers.add(6);
    worker.queued_bytes.set(u64::from(u32::MAX));
    worker.chunks_in_use.set(2);
    worker.closes[CloseReason::WriteTimeout as usize].add(3);
    ground.workers[2].closes[CloseReason::WriteTimeout as usize].add(1);
    edge.logins.add(8);
    edge.closes[CloseReason::LoginDeadline as usize].add(2);
    edge.handshakes_failed.add(4);
    edge.tls12.add(1);
    ground.stun.requests[StunResult::RateLimited as usize][1].add(21);
    ground.stun.requests[StunResult::Answered as usize][0].add(22);
    ground.stun.read_errors.add(23);

    let scrape = read_text(&ground.collector.prometheus(Format::Text));
    let number = |family: &str, labels: &str| scrape[family].numbers()[labels];
    assert_eq!(number("derpring_worker_sessions", "worker=\"1\""), 11.0);
    assert_eq!(number("derpring_worker_sessions", "worker=\"0\""), 0.0);
    assert_eq!(number("derpring_worker_busy_seconds_total", "worker=\"1\""), 1.500_000_001);
    assert_eq!(number("derpring_worker_load_ratio", "worker=\"1\""), 0.125);
    assert_eq!(number("derpring_worker_packets_routed_total", "route=\"local\",worker=\"1\""), 5.0);
    assert_eq!(number("derpring_worker_packets_routed_total", "route=\"worker\",worker=\"1\""), 6.0);
    assert_eq!(number("derpring_worker_queued_bytes", "worker=\"1\""), f64::from(u32::MAX));
    let chunk = size_of::<derpring::mem::chunk::Chunk>() as f64;
    assert_eq!(number("derpring_worker_queue_memory_bytes", "worker=\"1\""), 2.0 * chunk);
    assert_eq!(number("derpring_worker_inbox_depth", "worker=\"2\""), 14.0);
    assert_eq!(number("derpring_sessions_ended_total", "reason=\"write_timeout\""), 4.0);
    assert_eq!(number("derpring_edge_logins_total", "edge=\"1\",result=\"ok\""), 8.0);
    assert_eq!(number("derpring_edge_logins_total", "edge=\"1\",result=\"login_deadline\""), 2.0);
    assert_eq!(number("derpring_edge_logins_total", "edge=\"0\",result=\"ok\""), 0.0);
    assert_eq!(number("derpring_edge_handshakes_total", "edge=\"1\",result=\"failed\""), 4.0);
    assert_eq!(number("derpring_edge_tls_handshakes_total", "edge=\"1\",version=\"1.2\""), 1.0);
    assert_eq!(number("derpring_stun_requests_total", "family=\"ipv6\",result=\"rate_limited\""), 21.0);
    assert_eq!(number("derpring_stun_requests_total", "family=\"ipv4\",result=\"answered\""), 22.0);
    assert_eq!(number("derpring_stun_read_errors_total", ""), 23.0);
    assert_eq!(number("process_max_fds", ""), 20_000.0);
    assert!(number("process_resident_memory_bytes", "") > 1e6 && number("process_cpu_seconds_total", "") > 0.0);
}

#[test]
fn histograms_are_sums_over_workers_with_exact_bounds() {
    let ground = ground(true);
    // Two microseconds, one second and a quarter, and what is above all bounds.
    ground.workers[0].queue_time.record(2);
    ground.workers[1].queue_time.record(1_250_000);
    ground.workers[2].queue_time.record(60_000_000);
    ground.workers[0].record_bytes.record(1400);
    ground.workers[2].record_bytes.record(1400);
    ground.edges[0].login_time.record(3000);
    let check = |scrape: &Scrape| {
        for name in HISTOGRAMS {
            let Value::Histogram { buckets, count, .. } = &scrape[name].samples[""] else { panic!("{name}") };
            assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{name}: bounds and counts rise");
            assert_eq!(buckets.last(), Some(&(f64::INFINITY, *count as f64)), "{name}");
        }
        let Value::Histogram { buckets, sum, count } = &scrape["derpring_queue_time_seconds"].samples[""] else {
            unreachable!("it is a histogram");
        };
        assert_eq!((*sum, *count, buckets.len()), (61.250_002, 3, 25));
        let up_to = |bound: f64| buckets.iter().find(|(of, _)| *of == bound).map(|(_, values)| *values);
        assert_eq!([0.000_001, 0.000_002, 1.048_576, 2.097_152, 8.388_608].map(up_to), [0., 1., 1., 2., 2.].map(Some));
        let Value::Histogram { buckets, sum, .. } = &scrape["derpring_record_bytes"].samples[""] else {
            unreachable!("it is a histogram");
        };
        let rises = buckets.iter().find(|(_, values)| *values > 0.0);
        assert_eq!((rises, *sum), (Some(&(2048.0, 2.0)), 2800.0));
        let Value::Histogram { sum, count, .. } = scrape["derpring_login_seconds"].samples[""] else {
            unreachable!("it is a histogram");
        };
        assert_eq!((sum, count), (0.003, 1));
    };
    check(&read_text(&ground.collector.prometheus(Format::Text)));
    check(&read_openmetrics(&ground.collector.prometheus(Format::OpenMetrics)));
}

#[test]
fn both_forms_say_the_same() {
    let ground = ground(true);
    for (at, cells) in ground.workers.iter().enumerate() {
        let at = at as u64 + 1;
        cells.packets_received[0].add(1000 * at);
        cells.turn_time.record(5000 * at);
        cells.busy_ns.add(123_456_789 * at);
        cells.queue_ms.set(0.1_f64.to_bits());
        cells.queue_time.record(100);
    }
    let without_process = |mut scrape: Scrape| {
        // These do not stand still between two scrapes.
        scrape.retain(|name, _| !name.starts_with("process_"));
        scrape
    };
    let text = without_process(read_text(&ground.collector.prometheus(Format::Text)));
    let open = without_process(read_openmetrics(&ground.collector.prometheus(Format::OpenMetrics)));
    assert_eq!(text, open);
}
