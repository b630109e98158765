//! What a run of `stun` says.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::{Args, Load};
use crate::error::Error;
use crate::measure::proc::Sample;

#[derive(Debug, Serialize)]
pub struct Report {
    rate: u64,
    burst: u64,
    sources: u16,
    seconds: f64,
    sent: u64,
    answered: u64,
    lost: u64,
    /// Of those lost, what a full socket on this side did not take.
    refused: u64,
    latency_us: Latency,
    relay: Option<Relay>,
    /// More than 1 % of the requests left too late for the schedule.
    pub late: bool,
}

#[derive(Debug, Serialize)]
struct Latency {
    p50: f64,
    p99: f64,
    max: f64,
}

#[derive(Debug, Serialize)]
struct Relay {
    cpu_seconds: f64,
    cpu_us_per_answer: Option<f64>,
    voluntary_switches: u64,
    rss_bytes: u64,
}

impl Report {
    pub(super) fn new(args: &Args, load: &Load, took: Duration, samples: Option<(Sample, Sample)>) -> Self {
        let us = |ns: u64| ns as f64 / 1e3;
        let relay = samples.map(|(before, after)| {
            let cpu_ns = (after.cpu_ns - before.cpu_ns) as f64;
            Relay {
                cpu_seconds: cpu_ns / 1e9,
                cpu_us_per_answer: (load.answered > 0).then(|| cpu_ns / 1e3 / load.answered as f64),
                voluntary_switches: after.voluntary_switches.saturating_sub(before.voluntary_switches),
                rss_bytes: after.rss_bytes,
            }
        });
        Self {
            rate: args.rate,
            burst: args.burst,
            sources: args.sources,
            seconds: took.as_secs_f64(),
            sent: load.sent,
            answered: load.answered,
            lost: load.lost(),
            refused: load.refused,
            latency_us: Latency {
                p50: us(load.latency.value_at_quantile(0.5)),
                p99: us(load.latency.value_at_quantile(0.99)),
                max: us(load.latency.max()),
            },
            relay,
            late: load.late * 100 > load.sent,
        }
    }

    pub fn write_json(&self, path: &Path) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(self).expect("numbers can be written");
        std::fs::write(path, text).map_err(|source| Error::File { path: path.to_owned(), source })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, answered, lost, seconds, latency_us: Latency { p50, p99, max }, .. } = self;
        writeln!(f, "requests   {sent} sent, {answered} answered, {lost} lost in {seconds:.2} s")?;
        writeln!(f, "latency    p50 {p50:.0} us, p99 {p99:.0} us, max {max:.0} us")?;
        if let Some(relay) = &self.relay {
            write!(f, "server     {:.2} s of CPU", relay.cpu_seconds)?;
            if let Some(cost) = relay.cpu_us_per_answer {
                write!(f, ", {cost:.2} us per answer")?;
            }
            writeln!(f)?;
        }
        if self.late {
            writeln!(f, "the generator was late: these are not the server's figures")?;
        }
        Ok(())
    }
}
