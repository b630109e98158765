//! The result, with everything that was measured.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::proc::{Sample, Thread};
use super::series::{SLOT_NS, Slot};
use super::strace::Syscalls;
use super::verdict::Verdict;
use super::{At, Outcome, StepResult, hdr};
use crate::cli::{Cipher, Pace, Plan, Transport, Version};
use crate::crew::find::Found;
use crate::error::Error;
use crate::traffic::shape::{Class, Shape};

#[derive(Debug, Serialize)]
pub struct Report {
    pub version: &'static str,
    pub plan: PlanReport,
    pub logins: Logins,
    pub packets: Option<Packets>,
    /// From the first attempt to connect to the first packet between two clients.
    pub first_packet_ms: Option<f64>,
    pub find_max: Option<Found>,
    pub churn: Option<Churn>,
    pub bulk: Option<Bulk>,
    pub slow: Option<Slow>,
    pub stalled: Option<Stalled>,
    pub disco: Option<Disco>,
    pub frames: Frames,
    pub own: Process,
    pub relay: Option<Process>,
    pub verdict: Verdict,
}

#[derive(Debug, Serialize)]
pub struct PlanReport {
    pub url: String,
    pub tls: Option<&'static str>,
    /// `derp` or `websocket`.
    pub transport: &'static str,
    /// Addresses of the relays.
    pub relays: Vec<SocketAddr>,
    pub pairs: usize,
    pub idle: usize,
    pub window: Option<u64>,
    pub rate: Option<u64>,
    pub burst: u64,
    pub size: usize,
    /// Sizes were mixed: `size` is the longest.
    pub mixed_sizes: bool,
    /// All loads by number; `pairs` and `idle` are in it again.
    pub shape: Shape,
    pub churn: u64,
    pub disco: u64,
    pub warmup_s: f64,
    pub duration_s: f64,
}

#[derive(Debug, Serialize)]
pub struct Logins {
    pub count: usize,
    pub seconds: f64,
    pub per_second: f64,
    pub time: Times,
}

#[derive(Debug, Serialize)]
pub struct Packets {
    /// Seconds between the two instants of measuring.
    pub seconds: f64,
    /// Of the packets sent in the measured time: how many, and how many of them never arrived.
    pub sent: u64,
    pub arrived: u64,
    pub lost: u64,
    pub loss: f64,
    /// Due, but kept back by a full socket until it was too late.
    pub unsent: u64,
    /// Given up because a pair had stopped.
    pub stalled: u64,
    /// Packets that arrived in the measured time.
    pub delivered: u64,
    pub per_second: f64,
    pub gbit_per_second: f64,
    pub latency: Times,
    /// The whole distribution in nanoseconds: HdrHistogram V2, deflated, base64.
    pub latency_hdr: String,
    /// Only with --transit: from the write to arrival in the receiver's kernel.
    pub transit: Option<Times>,
    /// Only with --rate.
    pub lateness: Option<Times>,
    /// Packets sent and arrived in each slot of the measured time.
    pub series: Vec<Slot>,
    pub series_slot_ms: u64,
}

/// Complete logins beside the load, begun in the measured time.
#[derive(Debug, Serialize)]
pub struct Churn {
    pub rate: u64,
    pub started: u64,
    pub done: u64,
    pub failed: u64,
    pub first_failure: Option<String>,
    /// From when the schedule wanted a login begun to its end.
    pub time: Times,
}

/// Packets beside the load that were checked, but not timed.
#[derive(Debug, Serialize)]
pub struct Bulk {
    pub pairs: usize,
    pub window: u64,
    pub sent: u64,
    pub arrived: u64,
    pub lost: u64,
    pub loss: f64,
    /// Packets that arrived in the measured time.
    pub delivered: u64,
    pub per_second: f64,
    pub gbit_per_second: f64,
}

/// Packets to receivers that read slowly; what has not reached them is dropped or still on its way.
#[derive(Debug, Serialize)]
pub struct Slow {
    pub pairs: usize,
    pub read_bytes_per_second: u64,
    pub sent: u64,
    pub delivered: u64,
    /// Receivers that the relay disconnected.
    pub disconnected: u64,
}

/// The flood to receivers that never read.
#[derive(Debug, Serialize)]
pub struct Stalled {
    pub pairs: usize,
    /// Bytes of frames that the senders' sockets took in the measured time.
    pub bytes: u64,
    pub bytes_per_second: f64,
    /// Connections of these pairs that the relay ended.
    pub disconnected: u64,
}

#[derive(Debug, Serialize)]
pub struct Disco {
    pub sent: u64,
    pub arrived: u64,
    pub lost: u64,
    pub latency: Times,
}

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Times {
    pub count: u64,
    pub mean_us: f64,
    pub min_us: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
}

#[derive(Debug, Serialize)]
pub struct Frames {
    pub keep_alive: u64,
    pub peer_gone: u64,
    pub health: u64,
    pub restarting: u64,
    pub unknown: u64,
}

#[derive(Debug, Serialize)]
pub struct Process {
    /// User and system time in the measured time.
    pub cpu_s: f64,
    /// The same as a share of one processor.
    pub cpu_share: f64,
    pub cpu_us_per_packet: Option<f64>,
    /// User and system time from the first connection to the last login, per login.
    pub cpu_us_per_login: f64,
    pub voluntary_switches: u64,
    pub involuntary_switches: u64,
    /// Before the first connection, after the last login, at the end of the measured time.
    pub rss_start: u64,
    pub rss_logged_in: u64,
    pub rss_end: u64,
    pub rss_peak: u64,
    pub rss_bytes_per_connection: f64,
    /// Time of each thread in the measured time, busiest first. Only of the relay.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub threads: Vec<ThreadTime>,
    /// With --strace, of the relay: counted behind the measured time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syscalls: Option<Syscalls>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syscalls_per_packet: Option<f64>,
}

#[derive(Debug, Serialize)]
pub struct ThreadTime {
    pub name: String,
    pub cpu_s: f64,
}

impl Report {
    pub fn new(plan: &Plan, outcome: &Outcome) -> Self {
        let step = &outcome.step;
        let packets = (plan.has_measured_load() && step.at.is_some()).then(|| Packets::new(plan, step));
        let own = process(plan, outcome, |at| Some(at.own)).expect("the own process is always measured");
        let relay = process(plan, outcome, |at| at.relay).map(|relay| Process {
            threads: step.at.as_ref().map_or(Vec::new(), thread_times),
            syscalls: outcome.syscalls.clone(),
            syscalls_per_packet: outcome.syscalls.as_ref().and_then(Syscalls::per_packet),
            ..relay
        });
        let stats = &step.stats;
        let seconds = outcome.logged_in.time as f64 / 1e9;
        let connections = plan.layout.conns.len();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            plan: PlanReport::new(plan),
            logins: Logins {
                count: connections,
                seconds,
                per_second: connections as f64 / seconds.max(1e-9),
                time: Times::new(&outcome.logins),
            },
            verdict: Verdict::new(plan, outcome, relay.as_ref()),
            packets,
            first_packet_ms: outcome.first_packet_ms,
            find_max: outcome.found.clone(),
            churn: (plan.churn > 0).then(|| Churn::new(plan, step)),
            bulk: (plan.shape.bulk > 0).then(|| Bulk::new(plan, step)),
            slow: (plan.shape.slow > 0).then(|| Slow::new(plan, step)),
            stalled: (plan.shape.stalled > 0).then(|| Stalled::new(plan, step)),
            disco: (plan.disco > 0).then(|| Disco::new(step)),
            frames: Frames {
                keep_alive: stats.keep_alives,
                peer_gone: stats.peers_gone,
                health: stats.health,
                restarting: stats.restarting,
                unknown: stats.unknown_frames,
            },
            own,
            relay,
        }
    }

    pub fn write_json(&self, path: &Path) -> Result<(), Error> {
        let mut text = serde_json::to_string_pretty(self).expect("a report has no map keys to fail on");
        text.push('\n');
        fs::write(path, text).map_err(|source| Error::File { path: path.into(), source })
    }
}

fn process(plan: &Plan, outcome: &Outcome, of: fn(&At) -> Option<Sample>) -> Option<Process> {
    let (from, to) = outcome.step.at.as_ref().map_or((&outcome.logged_in, &outcome.logged_in), |(a, b)| (a, b));
    Some(Process::new(
        [of(&outcome.start)?, of(&outcome.logged_in)?, of(from)?, of(to)?],
        to.time - from.time,
        outcome.step.stats.delivered_of_all(),
        plan.layout.conns.len(),
    ))
}

/// Threads that began in the measured time began at zero; those that ended in it are not known.
fn thread_times((from, to): &(At, At)) -> Vec<ThreadTime> {
    let before =
        |thread: &Thread| from.relay_threads.iter().find(|other| other.id == thread.id).map_or(0, |other| other.cpu_ns);
    let time = |thread: &Thread| ThreadTime {
        name: thread.name.clone(),
        cpu_s: thread.cpu_ns.saturating_sub(before(thread)) as f64 / 1e9,
    };
    let mut times: Vec<ThreadTime> = to.relay_threads.iter().map(time).collect();
    times.sort_by(|a, b| b.cpu_s.total_cmp(&a.cpu_s).then_with(|| a.name.cmp(&b.name)));
    times
}

impl PlanReport {
    fn new(plan: &Plan) -> Self {
        let (window, rate) = match plan.pace {
            Pace::Window(window) => (Some(window), None),
            Pace::Rate(rate) => (None, Some(rate)),
        };
        Self {
            url: plan.url.clone(),
            tls: plan.targets[0].tls.as_ref().map(|tls| tls_name(tls.version, tls.cipher)),
            transport: match plan.transport {
                Transport::Derp => "derp",
                Transport::Websocket => "websocket",
            },
            relays: plan.targets.iter().map(|target| target.addr).collect(),
            pairs: plan.shape.pairs,
            idle: plan.shape.idle,
            window: window.filter(|_| plan.has_measured_load()),
            rate: rate.filter(|_| plan.has_measured_load()),
            burst: plan.burst,
            size: plan.sizes.longest(),
            mixed_sizes: plan.mixed,
            shape: plan.shape.clone(),
            churn: plan.churn,
            disco: plan.disco,
            warmup_s: plan.warmup.as_secs_f64(),
            duration_s: plan.duration.as_secs_f64(),
        }
    }
}

fn tls_name(version: Version, cipher: Cipher) -> &'static str {
    match (version, cipher) {
        (Version::V12, Cipher::Aes128) => "TLS 1.2 AES-128-GCM",
        (Version::V12, Cipher::Aes256) => "TLS 1.2 AES-256-GCM",
        (Version::V12, Cipher::Chacha20) => "TLS 1.2 ChaCha20-Poly1305",
        (Version::V13, Cipher::Aes128) => "TLS 1.3 AES-128-GCM",
        (Version::V13, Cipher::Aes256) => "TLS 1.3 AES-256-GCM",
        (Version::V13, Cipher::Chacha20) => "TLS 1.3 ChaCha20-Poly1305",
    }
}

impl Packets {
    fn new(plan: &Plan, step: &StepResult) -> Self {
        let stats = &step.stats;
        let seconds = step.seconds;
        let of_both = |of: &dyn Fn(Class) -> u64| of(Class::Main) + of(Class::Reply);
        let sent = of_both(&|class| step.totals.of(class).sent);
        let arrived = of_both(&|class| step.totals.of(class).arrived);
        let delivered = of_both(&|class| stats.delivered(class));
        let bytes = of_both(&|class| stats.delivered_bytes(class));
        Self {
            seconds,
            sent,
            arrived,
            lost: sent - arrived,
            loss: (sent - arrived) as f64 / sent.max(1) as f64,
            unsent: stats.unsent,
            stalled: stats.stalled,
            delivered,
            per_second: delivered as f64 / seconds,
            gbit_per_second: bytes as f64 * 8.0 / seconds / 1e9,
            latency: Times::new(&stats.latency),
            latency_hdr: hdr::encode(&stats.latency),
            transit: plan.transit.then(|| Times::new(&stats.transit)),
            lateness: matches!(plan.pace, Pace::Rate(_)).then(|| Times::new(&stats.lateness)),
            series: stats.series.slots().to_vec(),
            series_slot_ms: SLOT_NS / 1_000_000,
        }
    }
}

impl Churn {
    fn new(plan: &Plan, step: &StepResult) -> Self {
        let churn = &step.stats.churn;
        Self {
            rate: plan.churn,
            started: churn.started,
            done: churn.times.len(),
            failed: churn.failed,
            first_failure: churn.first_failure.clone(),
            time: Times::new(&churn.times),
        }
    }
}

impl Bulk {
    fn new(plan: &Plan, step: &StepResult) -> Self {
        let total = step.totals.of(Class::Bulk);
        let delivered = step.stats.delivered(Class::Bulk);
        Self {
            pairs: plan.shape.bulk,
            window: plan.slow.bulk_window,
            sent: total.sent,
            arrived: total.arrived,
            lost: total.sent - total.arrived,
            loss: (total.sent - total.arrived) as f64 / total.sent.max(1) as f64,
            delivered,
            per_second: delivered as f64 / step.seconds,
            gbit_per_second: step.stats.delivered_bytes(Class::Bulk) as f64 * 8.0 / step.seconds / 1e9,
        }
    }
}

impl Slow {
    fn new(plan: &Plan, step: &StepResult) -> Self {
        Self {
            pairs: plan.shape.slow,
            read_bytes_per_second: plan.slow.read,
            sent: step.totals.of(Class::Slow).sent,
            delivered: step.stats.delivered(Class::Slow),
            disconnected: step.stats.slow_disconnected,
        }
    }
}

impl Stalled {
    fn new(plan: &Plan, step: &StepResult) -> Self {
        Self {
            pairs: plan.shape.stalled,
            bytes: step.stats.stalled_bytes,
            bytes_per_second: step.stats.stalled_bytes as f64 / step.seconds,
            disconnected: step.stats.stalled_disconnected,
        }
    }
}

impl Disco {
    fn new(step: &StepResult) -> Self {
        let total = step.totals.of(Class::Disco);
        Self {
            sent: total.sent,
            arrived: total.arrived,
            lost: total.sent - total.arrived,
            latency: Times::new(&step.stats.disco_latency),
        }
    }
}

impl Times {
    fn new(histogram: &Histogram<u64>) -> Self {
        let us = |ns: u64| ns as f64 / 1e3;
        Self {
            count: histogram.len(),
            mean_us: histogram.mean() / 1e3,
            min_us: us(histogram.min()),
            p50_us: us(histogram.value_at_quantile(0.5)),
            p90_us: us(histogram.value_at_quantile(0.9)),
            p99_us: us(histogram.value_at_quantile(0.99)),
            p999_us: us(histogram.value_at_quantile(0.999)),
            max_us: us(histogram.max()),
        }
    }
}

impl Process {
    fn new([start, logged_in, from, to]: [Sample; 4], measured_ns: u64, delivered: u64, connections: usize) -> Self {
        let cpu_ns = (to.cpu_ns - from.cpu_ns) as f64;
        let grown = to.rss_bytes.saturating_sub(start.rss_bytes);
        Self {
            cpu_s: cpu_ns / 1e9,
            cpu_share: cpu_ns / measured_ns.max(1) as f64,
            cpu_us_per_packet: (delivered > 0).then(|| cpu_ns / 1e3 / delivered as f64),
            cpu_us_per_login: (logged_in.cpu_ns - start.cpu_ns) as f64 / 1e3 / connections.max(1) as f64,
            // A thread that ended takes its switches along.
            voluntary_switches: to.voluntary_switches.saturating_sub(from.voluntary_switches),
            involuntary_switches: to.involuntary_switches.saturating_sub(from.involuntary_switches),
            rss_start: start.rss_bytes,
            rss_logged_in: logged_in.rss_bytes,
            rss_end: to.rss_bytes,
            rss_peak: to.peak_rss_bytes,
            rss_bytes_per_connection: grown as f64 / connections.max(1) as f64,
            threads: Vec::new(),
            syscalls: None,
            syscalls_per_packet: None,
        }
    }
}
