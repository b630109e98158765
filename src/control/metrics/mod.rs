//! What the relay counts, for whoever asks: Prometheus, OpenMetrics, expvar and derper's varz, all from the same cells.
//!
//! ```text
//! cells of workers and edges --> pass --+--> handles of `metrics` --> exporter --+--> Prometheus text
//!   (relaxed loads, once each)          |    sums, seconds, histograms (ours) ---+--> OpenMetrics
//!                                       +--> derper's variables --> expvar JSON, varz
//! ```
//!
//! Whoever counts is never waited for and never waits. Those who ask wait for each other: a pass that began after
//! somebody asked is the answer for all who were waiting then.

mod derper;
pub mod document;
mod expvar;
mod histograms;
mod mean;
mod openmetrics;
pub mod pass;
mod process;
mod prometheus;
pub mod series;
pub mod table;
mod varz;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::control::bootstrap_dns;
use crate::control::reload;
use crate::edge;
use crate::stats::{Cell, DropReason, WorkerStats};
use crate::stun;
use mean::QueueMean;
pub use openmetrics::Format;
use pass::Pass;
pub use process::resident_bytes;
use prometheus::Exporter;

/// Where the figures come from.
pub struct Sources {
    pub workers: Arc<[Arc<WorkerStats>]>,
    pub edges: Arc<[Arc<edge::Stats>]>,
    pub stun: Arc<stun::Stats>,
    /// Chains that wait in the inbox of a worker.
    pub inboxes: Arc<dyn Fn(usize) -> usize + Send + Sync>,
    pub bootstrap_dns: Arc<bootstrap_dns::Table>,
    pub limits: Limits,
    pub build: Build,
    pub reloads: Arc<reload::Counts>,
    pub started: SystemTime,
    /// Resident bytes when the workers had started.
    pub memory_at_start: u64,
}

/// Bounds that usage is compared with.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub max_clients: u64,
    /// Connections that are not logged in, over all edges.
    pub half_open: u64,
    /// Chains that one inbox holds.
    pub inbox_chains: u64,
    /// Bytes of one worker's queues.
    pub queue_memory: u64,
    /// Pairs of a session and a peer it has heard of, per worker.
    pub acquaintances: u64,
    /// File descriptors of the process.
    pub descriptors: u64,
}

/// What runs.
#[derive(Clone, Debug)]
pub struct Build {
    pub version: &'static str,
    /// `io_uring` or `epoll`.
    pub backend: &'static str,
    pub edge_backend: &'static str,
    pub tls: bool,
}

/// Sums that logs and health pages need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    pub connections: u64,
    pub packets_received: u64,
    pub packets_sent: u64,
    /// By [`DropReason`].
    pub packets_dropped: [u64; DropReason::COUNT],
}

/// Reads all cells in one go and says what they were, in several forms.
pub struct Collector {
    sources: Sources,
    /// The one bound that may change while the relay runs.
    max_clients: AtomicU64,
    /// The number of the next question.
    questions: AtomicU64,
    last: Mutex<Last>,
}

/// The newest pass, and what was made of it.
struct Last {
    /// Made when it is first asked for: the library's clock spins for up to 200 ms to know the processor's, which no
    /// client should wait for at a start.
    exporter: Option<Exporter>,
    mean: QueueMean,
    /// Questions with lower numbers had been asked when it began.
    answers_below: u64,
    pass: Arc<Pass>,
    text: Option<Arc<str>>,
}

impl Collector {
    pub fn new(sources: Sources) -> Self {
        let mut mean = QueueMean::new(sources.workers.len());
        let max_clients = AtomicU64::new(sources.limits.max_clients);
        let pass = Arc::new(Pass::read(&sources, &mut mean));
        let last = Last { exporter: None, mean, answers_below: 0, pass, text: None };
        Self { sources, max_clients, questions: AtomicU64::new(0), last: Mutex::new(last) }
    }

    pub fn limit_clients(&self, max: u64) {
        self.max_clients.store(max, Ordering::Relaxed);
    }

    pub fn max_clients(&self) -> u64 {
        self.max_clients.load(Ordering::Relaxed)
    }

    /// The body of `/metrics`: one pass, which everybody who waits for it shares.
    pub fn prometheus(&self, format: Format) -> String {
        let text = self.ask(|last| {
            let Last { exporter, pass, text, .. } = last;
            let exporter = exporter.get_or_insert_with(|| Exporter::new(pass));
            text.get_or_insert_with(|| exporter.render(pass).into()).clone()
        });
        match format {
            Format::Text => text.to_string(),
            Format::OpenMetrics => openmetrics::from_text(&text),
        }
    }

    /// The body of `/debug/vars`.
    pub fn vars_json(&self) -> String {
        expvar::render(&derper::variables(&self.pass()))
    }

    /// The body of `/debug/varz`.
    pub fn varz(&self) -> String {
        let pass = self.pass();
        varz::render(&pass, &derper::variables(&pass))
    }

    /// Without a pass: a few relaxed loads.
    pub fn totals(&self) -> Totals {
        let workers = &self.sources.workers;
        let dropped = |reason: &DropReason| -> u64 {
            workers.iter().flat_map(|w| &w.dropped_packets[*reason as usize]).map(Cell::get).sum()
        };
        Totals {
            connections: workers.iter().map(|w| w.connections.get()).sum(),
            packets_received: workers.iter().map(|w| w.received()).sum(),
            packets_sent: workers.iter().map(|w| w.packets_sent.get()).sum(),
            packets_dropped: std::array::from_fn(|at| dropped(&DropReason::ALL[at])),
        }
    }

    fn pass(&self) -> Arc<Pass> {
        self.ask(|last| last.pass.clone())
    }

    /// What `answer` makes of a pass that began after this was called.
    fn ask<T>(&self, answer: impl FnOnce(&mut Last) -> T) -> T {
        let question = self.questions.fetch_add(1, Ordering::Relaxed);
        // Nothing is left half done in there that the next pass would not do again.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if question >= last.answers_below {
            last.answers_below = self.questions.load(Ordering::Relaxed);
            let mut pass = Pass::read(&self.sources, &mut last.mean);
            pass.limits.max_clients = self.max_clients();
            last.pass = Arc::new(pass);
            last.text = None;
        }
        answer(&mut last)
    }
}

#[cfg(test)]
mod tests;
