//! Who does the work, and in which steps.
//!
//! Threads share nothing but a clock: each has its own connections, and its part of every rate. They
//! meet between steps, here.

mod local;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::cli::Plan;
use crate::engine::{first, setup};
use crate::error::Error;
use crate::measure::{At, Outcome, Stats, StepResult};
use local::Threads;

/// Time for every thread to hear of a step before it begins.
const LEAD_TIME: u64 = 2_000_000;

/// Makes the run.
pub fn run(plan: &Plan) -> Result<Outcome, Error> {
    setup::process(plan)?;
    let first_packet_ms = plan.first_packet.then(|| first::packet(plan)).transpose()?;
    let start = At::now(plan.relay_pid, 0)?;
    if plan.layout.conns.is_empty() && plan.churn == 0 {
        return Ok(Outcome::without_load(first_packet_ms, start));
    }
    std::thread::scope(|scope| {
        let mut threads = Threads::start(plan, scope);
        let logins = threads.logged_in()?;
        let logged_in = At::now(plan.relay_pid, threads.now())?;
        let step = Step {
            begin: threads.now() + LEAD_TIME,
            rate: None,
            warmup: nanos(plan.warmup),
            duration: nanos(plan.duration),
        };
        let result = threads.step(step)?;
        Ok(Outcome { first_packet_ms, start, logged_in, logins, step: result })
    })
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A stretch of load, measured on its own.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Step {
    /// When the warm-up begins, on the clock that all threads share.
    pub begin: u64,
    /// In place of the plan's rate.
    pub rate: Option<u64>,
    pub warmup: u64,
    pub duration: u64,
}

/// To a thread.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Command {
    Step(Step),
    Finish,
}

/// From a thread.
pub enum Event {
    LoggedIn(Histogram<u64>),
    Stepped(Box<StepResult>),
}

/// What a thread shows while it works.
#[derive(Debug, Default)]
pub struct Live {
    up: AtomicU64,
    sent: AtomicU64,
    arrived: AtomicU64,
    /// Another thread has failed.
    stop: AtomicBool,
}

impl Live {
    pub fn show(&self, up: usize, stats: &Stats) {
        self.up.store(up as u64, Ordering::Relaxed);
        self.sent.store(stats.sent_in_all, Ordering::Relaxed);
        self.arrived.store(stats.arrived_in_all, Ordering::Relaxed);
    }

    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
