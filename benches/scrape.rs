//! What a scrape costs: one pass over the counters of 16 workers and 4 edges, and the body in each form.
//!
//! Counters do not grow with clients, they only have more digits; the process that is measured has as many file
//! descriptors as one with 10,000 clients, because it is asked for their number.

use std::fs::File;
use std::hint::black_box;
use std::sync::Arc;
use std::time::SystemTime;

use criterion::{Criterion, criterion_group, criterion_main};
use derpring::control::metrics::{Build, Collector, Format, Limits, Sources};
use derpring::edge;
use derpring::stats::{CloseReason, DropReason, WorkerStats};

const WORKERS: usize = 16;
const EDGES: usize = 4;
const CLIENTS: u64 = 10_000;
/// Of each client since the start: an hour at 100 a second.
const PACKETS: u64 = 360_000;

criterion_main!(benches);
criterion_group!(benches, scrape);

fn scrape(c: &mut Criterion) {
    let descriptors = descriptors();
    let collector = collector();
    let sessions: u64 =
        (0..WORKERS).map(|w| number(&collector, &format!("derpring_worker_sessions{{worker=\"{w}\"}}"))).sum();
    assert_eq!(sessions, CLIENTS);
    assert_eq!(number(&collector, "coder_derp_server_packets_received_total"), CLIENTS * PACKETS);
    assert!(number(&collector, "process_open_fds") >= descriptors.len() as u64);

    let mut group = c.benchmark_group("scrape");
    group.bench_function("Prometheus text", |b| b.iter(|| black_box(collector.prometheus(Format::Text)).len()));
    group.bench_function("OpenMetrics", |b| b.iter(|| black_box(collector.prometheus(Format::OpenMetrics)).len()));
    group.bench_function("expvar JSON", |b| b.iter(|| black_box(collector.vars_json()).len()));
    group.bench_function("varz", |b| b.iter(|| black_box(collector.varz()).len()));
    group.finish();
}

fn number(collector: &Collector, series: &str) -> u64 {
    let body = collector.prometheus(Format::Text);
    let line = body.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{series} is in\n{body}"))
}

/// As many as the limit allows, up to one for each client.
fn descriptors() -> Vec<File> {
    let mut files = Vec::new();
    while files.len() < CLIENTS as usize
        && let Ok(file) = File::open("/dev/null")
    {
        files.push(file);
    }
    // Room for what a scrape opens.
    files.truncate(files.len().saturating_sub(16));
    files
}

fn collector() -> Collector {
    let workers: Arc<[Arc<WorkerStats>]> = (0..WORKERS).map(|_| Arc::default()).collect();
    let edges: Arc<[Arc<edge::Stats>]> = (0..EDGES).map(|_| Arc::default()).collect();
    workers.iter().for_each(|cells| work(cells));
    for cells in edges.iter() {
        cells.accepts.add(CLIENTS);
        cells.logins.add(CLIENTS);
        cells.login_time.record(3000);
    }
    Collector::new(Sources {
        workers,
        edges,
        stun: Arc::default(),
        inboxes: Arc::new(|_| 3),
        bootstrap_dns: derpring::control::bootstrap_dns::Table::empty(),
        limits: Limits {
            max_clients: CLIENTS,
            half_open: 4096,
            inbox_chains: 1024,
            queue_memory: 1 << 30,
            acquaintances: 4 << 20,
            descriptors: 2 * CLIENTS,
        },
        build: Build { version: "1.2.3", backend: "io_uring", edge_backend: "io_uring", tls: true },
        reloads: Arc::default(),
        started: SystemTime::now(),
        memory_at_start: 10 << 20,
    })
}

/// One worker's share of the clients.
fn work(cells: &WorkerStats) {
    let clients = CLIENTS / WORKERS as u64;
    let packets = clients * PACKETS;
    cells.connections.set(clients);
    cells.keys.set(CLIENTS);
    cells.packets_received[0].add(packets);
    cells.bytes_received.add(packets * 1000);
    cells.packets_sent.add(packets);
    cells.bytes_sent.add(packets * 1000);
    cells.packets_local.add(packets / 2);
    cells.packets_to_workers.add(packets / 2);
    cells.turns.add(packets / 8);
    cells.busy_ns.add(packets * 1234);
    cells.queue_ms.set(0.123_456_789_f64.to_bits());
    cells.closes[CloseReason::PeerClosed as usize].add(clients);
    for reason in DropReason::ALL {
        cells.drop_packets(*reason, false, packets / 1000, packets);
    }
    for value in 0..100_000 {
        cells.queue_time.record(value);
        cells.turn_time.record(value * 10);
        cells.batch_packets.record(value % 3000);
        cells.record_bytes.record(value % 16_384);
    }
}
