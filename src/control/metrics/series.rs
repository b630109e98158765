//! What a series is: its name, what it means, and where its numbers come from.

use std::fmt;

use super::histograms::Decimal;
use super::pass::{Distribution, Pass};

/// One name that Prometheus knows, with all label values that it ever has.
pub struct Series {
    pub name: &'static str,
    pub kind: Kind,
    pub unit: Unit,
    /// What it counts, in a line: printed as `# HELP`.
    pub help: &'static str,
    /// What is not obvious about it; may be empty.
    pub meaning: &'static str,
    /// What to do when it moves.
    pub action: &'static str,
    pub source: Source,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Of things: connections, packets, frames.
    Count,
    Bytes,
    Seconds,
    Milliseconds,
    /// Zero to one.
    Ratio,
}

/// Where the numbers come from, and with which labels.
pub enum Source {
    /// One number for the relay.
    Relay(fn(&Pass) -> Number),
    /// For each value of a label.
    RelayBy(Split, fn(&Pass, usize) -> u64),
    /// For each value of one label and each of another.
    RelayByBoth(Split, Split, fn(&Pass, usize, usize) -> u64),
    /// For each worker.
    Worker(fn(&Pass, usize) -> Number),
    WorkerBy(Split, fn(&Pass, usize, usize) -> u64),
    /// For each edge.
    Edge(fn(&Pass, usize) -> Number),
    EdgeBy(Split, fn(&Pass, usize, usize) -> u64),
    /// Always 1; the labels say what runs.
    Build,
    Histogram(Scale, fn(&Pass) -> &Distribution),
}

/// A label with all its values, in the order in which the numbers are asked for.
#[derive(Clone, Copy)]
pub struct Split {
    pub label: &'static str,
    pub count: usize,
    pub values: fn() -> Vec<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    Whole(u64),
    /// To be shown as seconds.
    Nanos(u64),
    Real(f64),
}

impl From<u64> for Number {
    fn from(whole: u64) -> Self {
        Self::Whole(whole)
    }
}

impl From<f64> for Number {
    fn from(real: f64) -> Self {
        Self::Real(real)
    }
}

impl Number {
    /// For gauges, which are real numbers to everybody.
    pub fn real(self) -> f64 {
        match self {
            Self::Whole(n) => n as f64,
            Self::Nanos(n) => n as f64 / 1e9,
            Self::Real(n) => n,
        }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(n) => n.fmt(f),
            Self::Nanos(n) => Decimal::new(*n, 9).fmt(f),
            Self::Real(n) => n.fmt(f),
        }
    }
}

/// What a histogram is recorded in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// As it is shown.
    Unit,
    Microseconds,
    Nanoseconds,
}

/// The labels of one number.
pub type Labels = Vec<(&'static str, String)>;

pub const fn counter(
    name: &'static str,
    unit: Unit,
    help: &'static str,
    meaning: &'static str,
    action: &'static str,
    source: Source,
) -> Series {
    Series { name, kind: Kind::Counter, unit, help, meaning, action, source }
}

pub const fn gauge(
    name: &'static str,
    unit: Unit,
    help: &'static str,
    meaning: &'static str,
    action: &'static str,
    source: Source,
) -> Series {
    Series { name, kind: Kind::Gauge, unit, help, meaning, action, source }
}

pub const fn histogram(
    name: &'static str,
    unit: Unit,
    help: &'static str,
    meaning: &'static str,
    action: &'static str,
    source: Source,
) -> Series {
    Series { name, kind: Kind::Histogram, unit, help, meaning, action, source }
}

impl Series {
    /// Counters of seconds, whose numbers are not whole, and histograms, whose buckets are sums, are more than the
    /// exporter takes.
    pub fn is_ours_to_write(&self) -> bool {
        self.kind == Kind::Histogram || (self.kind == Kind::Counter && self.unit == Unit::Seconds)
    }

    /// The labels of all its numbers, in their order.
    pub fn label_sets(&self, pass: &Pass) -> Vec<Labels> {
        let build = &pass.build;
        match &self.source {
            Source::Relay(_) | Source::Histogram(..) => vec![Vec::new()],
            Source::RelayBy(split, _) => split.sets(&[]),
            Source::RelayByBoth(first, second, _) => first.sets(&[]).iter().flat_map(|set| second.sets(set)).collect(),
            Source::Worker(_) => each("worker", pass.workers.len()),
            Source::WorkerBy(split, _) => {
                each("worker", pass.workers.len()).iter().flat_map(|w| split.sets(w)).collect()
            }
            Source::Edge(_) => each("edge", pass.edges.len()),
            Source::EdgeBy(split, _) => each("edge", pass.edges.len()).iter().flat_map(|e| split.sets(e)).collect(),
            Source::Build => vec![vec![
                ("version", build.version.to_owned()),
                ("backend", build.backend.to_owned()),
                ("edge_backend", build.edge_backend.to_owned()),
            ]],
        }
    }

    /// All its numbers; none for a histogram.
    pub fn numbers(&self, pass: &Pass, mut put: impl FnMut(Number)) {
        let (workers, edges) = (0..pass.workers.len(), 0..pass.edges.len());
        match &self.source {
            Source::Relay(number) => put(number(pass)),
            Source::RelayBy(split, number) => split.each(|at| put(number(pass, at).into())),
            Source::RelayByBoth(first, second, number) => {
                first.each(|one| second.each(|other| put(number(pass, one, other).into())));
            }
            Source::Worker(number) => workers.for_each(|worker| put(number(pass, worker))),
            Source::WorkerBy(split, number) => {
                workers.for_each(|worker| split.each(|at| put(number(pass, worker, at).into())));
            }
            Source::Edge(number) => edges.for_each(|edge| put(number(pass, edge))),
            Source::EdgeBy(split, number) => {
                edges.for_each(|edge| split.each(|at| put(number(pass, edge, at).into())));
            }
            Source::Build => put(Number::Whole(1)),
            Source::Histogram(..) => {}
        }
    }
}

impl Split {
    fn sets(&self, before: &[(&'static str, String)]) -> Vec<Labels> {
        let with = |value: &str| before.iter().cloned().chain([(self.label, value.to_owned())]).collect();
        (self.values)().into_iter().map(with).collect()
    }

    fn each(&self, put: impl FnMut(usize)) {
        (0..self.count).for_each(put);
    }
}

fn each(label: &'static str, count: usize) -> Vec<Labels> {
    (0..count).map(|at| vec![(label, at.to_string())]).collect()
}
