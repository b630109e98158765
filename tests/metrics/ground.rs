//! A relay's counters without a relay, and a collector over them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use derpring::control::metrics::{Build, Collector, Limits, Sources};
use derpring::edge;
use derpring::stats::WorkerStats;
use derpring::stun;

pub const WORKERS: usize = 3;
pub const EDGES: usize = 2;
/// How long it seems to run.
pub const UPTIME: Duration = Duration::from_secs(3600);
pub const MEMORY_AT_START: u64 = 12_345_678;

pub struct Ground {
    pub workers: Arc<[Arc<WorkerStats>]>,
    pub edges: Arc<[Arc<edge::Stats>]>,
    pub stun: Arc<stun::Stats>,
    pub collector: Collector,
}

pub fn ground(tls: bool) -> Ground {
    let workers: Arc<[Arc<WorkerStats>]> = (0..WORKERS).map(|_| Arc::default()).collect();
    let edges: Arc<[Arc<edge::Stats>]> = (0..EDGES).map(|_| Arc::default()).collect();
    let stun: Arc<stun::Stats> = Arc::default();
    let collector = Collector::new(Sources {
        workers: workers.clone(),
        edges: edges.clone(),
        stun: stun.clone(),
        inboxes: Arc::new(|worker| 7 * worker),
        bootstrap_dns: derpring::control::bootstrap_dns::Table::empty(),
        limits: Limits {
            max_clients: 5000,
            half_open: 4096,
            inbox_chains: 1024,
            queue_memory: 64 << 20,
            acquaintances: 4_194_304,
            descriptors: 20_000,
        },
        build: Build { version: "1.2.3", backend: "io_uring", edge_backend: "epoll", tls },
        reloads: Arc::default(),
        started: SystemTime::now() - UPTIME,
        memory_at_start: MEMORY_AT_START,
    });
    Ground { workers, edges, stun, collector }
}
