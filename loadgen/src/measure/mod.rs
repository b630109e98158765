//! What is counted, and the instants between which it is counted.

pub mod hdr;
pub mod plot;
pub mod proc;
pub mod report;
pub mod series;
mod stats;
pub mod strace;
mod table;
pub mod verdict;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::crew::find::Found;
use crate::error::Error;
use crate::traffic::shape::Class;
use proc::{Sample, Thread};
use strace::Syscalls;

pub use stats::{ChurnStats, Stats};

/// Everything a run leaves.
pub struct Outcome {
    pub first_packet_ms: Option<f64>,
    /// Before the first connection, and after the last login.
    pub start: At,
    pub logged_in: At,
    /// Time of each login.
    pub logins: Histogram<u64>,
    pub found: Option<Found>,
    pub step: StepResult,
    pub syscalls: Option<Syscalls>,
    /// What could not be measured, and why.
    pub notes: Vec<String>,
}

impl Outcome {
    pub fn without_load(start: At) -> Self {
        Self {
            first_packet_ms: None,
            logged_in: start.clone(),
            start,
            logins: histogram(),
            found: None,
            step: StepResult::default(),
            syscalls: None,
            notes: Vec::new(),
        }
    }
}

/// What one step leaves, of one thread or of several.
#[derive(Default)]
pub struct StepResult {
    pub totals: Totals,
    pub stats: Stats,
    /// The two instants of measuring.
    pub at: Option<(At, At)>,
    pub seconds: f64,
    /// Share of a processor that the busiest thread used.
    pub busy: f64,
}

impl StepResult {
    pub fn add(&mut self, other: Self) {
        for (sum, more) in self.totals.0.iter_mut().zip(other.totals.0) {
            sum.sent += more.sent;
            sum.arrived += more.arrived;
        }
        self.stats.add(&other.stats);
        self.at = self.at.take().or(other.at);
        self.seconds = self.seconds.max(other.seconds);
        self.busy = self.busy.max(other.busy);
    }
}

/// Measured packets by class.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Totals([Total; CLASSES]);

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Total {
    pub sent: u64,
    pub arrived: u64,
}

impl Totals {
    pub fn add(&mut self, class: Class, sent: u64, arrived: u64) {
        let total = &mut self.0[class as usize];
        total.sent += sent;
        total.arrived += arrived;
    }

    pub fn of(&self, class: Class) -> Total {
        self.0[class as usize]
    }
}

pub const CLASSES: usize = 6;

/// One nanosecond to ten minutes, three digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("bounds and digits are in range")
}

/// Who makes the load and who carries it, at one instant.
#[derive(Clone, Debug)]
pub struct At {
    /// Nanoseconds since the first connection.
    pub time: u64,
    /// This process; with agents, all of theirs.
    pub own: Sample,
    pub relay: Option<Sample>,
    pub relay_threads: Vec<Thread>,
}

impl At {
    pub fn now(relay_pid: Option<u32>, time: u64) -> Result<Self, Error> {
        let failed = |pid: u32| move |source| Error::Process { pid, source };
        let own = std::process::id();
        Ok(Self {
            time,
            own: Sample::of(own).map_err(failed(own))?,
            relay: relay_pid.map(|pid| Sample::of(pid).map_err(failed(pid))).transpose()?,
            relay_threads: match relay_pid {
                Some(pid) => proc::threads(pid).map_err(failed(pid))?,
                None => Vec::new(),
            },
        })
    }
}
