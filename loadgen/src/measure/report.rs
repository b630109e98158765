//! The result, with everything that was measured.

use std::fs;
use std::path::Path;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::proc::Sample;
use super::{At, Outcome};
use crate::cli::{Cipher, Pace, Plan, Version};
use crate::error::Error;

/// Above this share of one processor the generator has no time left to be on time.
const BUSY: f64 = 0.97;

#[derive(Debug, Serialize)]
pub struct Report {
    pub version: &'static str,
    pub plan: PlanReport,
    pub logins: Logins,
    pub packets: Option<Packets>,
    pub frames: Frames,
    pub own: Process,
    pub relay: Option<Process>,
    pub verdict: Verdict,
}

#[derive(Debug, Serialize)]
pub struct PlanReport {
    pub url: String,
    pub tls: Option<&'static str>,
    pub pairs: usize,
    pub idle: usize,
    pub window: Option<u64>,
    pub rate: Option<u64>,
    pub burst: u64,
    pub size: usize,
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
    /// Only with --rate.
    pub lateness: Option<Times>,
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
}

#[derive(Debug, Serialize)]
pub struct Verdict {
    /// The schedule was not kept: latencies are the generator's, not the relay's.
    pub late: bool,
    pub notes: Vec<String>,
}

impl Report {
    pub fn new(plan: &Plan, outcome: &Outcome) -> Self {
        let packets = (plan.pairs > 0).then(|| Packets::new(plan, outcome));
        let instants = &outcome.instants;
        let process = |of: fn(&At) -> Option<Sample>| {
            Some(Process::new(
                [of(&instants.start)?, of(&instants.logged_in)?, of(&instants.from)?, of(&instants.to)?],
                instants.to.time - instants.from.time,
                outcome.stats.delivered,
                plan.connections(),
            ))
        };
        let own = process(|at| Some(at.own)).expect("the own process is always measured");
        let relay = process(|at| at.relay);
        let stats = &outcome.stats;
        let seconds = instants.logged_in.time as f64 / 1e9;
        Self {
            version: env!("CARGO_PKG_VERSION"),
            plan: PlanReport::new(plan),
            logins: Logins {
                count: plan.connections(),
                seconds,
                per_second: plan.connections() as f64 / seconds,
                time: Times::new(&stats.logins),
            },
            verdict: Verdict::new(plan, packets.as_ref(), &own, relay.as_ref()),
            packets,
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

impl PlanReport {
    fn new(plan: &Plan) -> Self {
        let (window, rate) = match plan.pace {
            Pace::Window(window) => (Some(window), None),
            Pace::Rate(rate) => (None, Some(rate)),
        };
        Self {
            url: plan.url.clone(),
            tls: plan.target.tls.as_ref().map(|tls| tls_name(tls.version, tls.cipher)),
            pairs: plan.pairs,
            idle: plan.idle,
            window: window.filter(|_| plan.pairs > 0),
            rate: rate.filter(|_| plan.pairs > 0),
            burst: plan.burst,
            size: plan.size,
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
    fn new(plan: &Plan, outcome: &Outcome) -> Self {
        let stats = &outcome.stats;
        let seconds = (outcome.instants.to.time - outcome.instants.from.time) as f64 / 1e9;
        let lost = outcome.totals.sent - outcome.totals.arrived;
        Self {
            seconds,
            sent: outcome.totals.sent,
            arrived: outcome.totals.arrived,
            lost,
            loss: lost as f64 / outcome.totals.sent.max(1) as f64,
            unsent: stats.unsent,
            stalled: stats.stalled,
            delivered: stats.delivered,
            per_second: stats.delivered as f64 / seconds,
            gbit_per_second: stats.delivered_bytes as f64 * 8.0 / seconds / 1e9,
            latency: Times::new(&stats.latency),
            lateness: matches!(plan.pace, Pace::Rate(_)).then(|| Times::new(&stats.lateness)),
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
            cpu_us_per_login: (logged_in.cpu_ns - start.cpu_ns) as f64 / 1e3 / connections as f64,
            // A thread that ended takes its switches along.
            voluntary_switches: to.voluntary_switches.saturating_sub(from.voluntary_switches),
            involuntary_switches: to.involuntary_switches.saturating_sub(from.involuntary_switches),
            rss_start: start.rss_bytes,
            rss_logged_in: logged_in.rss_bytes,
            rss_end: to.rss_bytes,
            rss_peak: to.peak_rss_bytes,
            rss_bytes_per_connection: grown as f64 / connections as f64,
        }
    }
}

impl Verdict {
    fn new(plan: &Plan, packets: Option<&Packets>, own: &Process, relay: Option<&Process>) -> Self {
        let mut notes = Vec::new();
        let mut late = false;
        // Whoever spins is always busy; only its lateness tells.
        let busy = own.cpu_share >= BUSY && !plan.spin;
        if let Some(lateness) = packets.and_then(|packets| packets.lateness) {
            let bound_us = plan.max_lateness.as_secs_f64() * 1e6;
            if lateness.p99_us > bound_us {
                late = true;
                notes.push(format!(
                    "the generator was late: p99 of {:.0} us behind its schedule, \
                     {bound_us:.0} us are allowed (--max-lateness)",
                    lateness.p99_us
                ));
            }
            if busy {
                late = true;
                notes.push(format!("the generator used {:.0} % of a processor: lower --rate", 100.0 * own.cpu_share));
            }
        } else if busy
            && let Some(relay) = relay
            && relay.cpu_share < BUSY
            && plan.pairs > 0
        {
            notes.push(format!(
                "the generator used {:.0} % of a processor and the relay {:.0} %: throughput is the \
                 generator's limit, CPU per packet is the relay's",
                100.0 * own.cpu_share,
                100.0 * relay.cpu_share
            ));
        }
        Self { late, notes }
    }
}
