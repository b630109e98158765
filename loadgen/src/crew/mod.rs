//! Who does the work, and in which steps.
//!
//! Threads share nothing but a clock: each has its own connections, and its part of every rate. They
//! meet between steps, here. Agents on other machines are joined in the same way.

pub mod agent;
pub mod find;
mod local;
mod remote;
mod wire;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::cli::Plan;
use crate::engine::{first, setup};
use crate::error::Error;
use crate::measure::proc::Sample;
use crate::measure::strace::{Strace, Syscalls};
use crate::measure::{At, Outcome, Stats, StepResult};
use local::Threads;
use remote::Agents;

/// Time for every thread to hear of a step before it begins.
const LEAD_TIME: u64 = 2_000_000;

/// Makes the run.
pub fn run(plan: &Plan) -> Result<Outcome, Error> {
    if plan.agents.is_empty() {
        setup::process(plan)?;
    }
    let first_packet_ms = plan.first_packet.then(|| first::packet(plan)).transpose()?;
    let start = At::now(plan.relay_pid, 0)?;
    let outcome = if plan.layout.conns.is_empty() && plan.churn == 0 {
        Outcome::without_load(start)
    } else if plan.agents.is_empty() {
        std::thread::scope(|scope| drive(plan, start, &mut Threads::start(plan, Part::WHOLE, scope)))?
    } else {
        drive(plan, start, &mut Agents::start(plan)?)?
    };
    Ok(Outcome { first_packet_ms, ..outcome })
}

/// Which of several processes this is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Part {
    pub index: usize,
    pub of: usize,
}

impl Part {
    pub const WHOLE: Self = Self { index: 0, of: 1 };
}

/// Those who do the work, wherever they are.
pub trait Crew {
    /// When all are logged in: the times of all logins; where other processes make the load, what they were together
    /// before the first and what they are now.
    fn logged_in(&mut self) -> Result<(Histogram<u64>, Option<[Sample; 2]>), Error>;
    /// A time at which a step may begin.
    fn begin(&self) -> u64;
    fn step(&mut self, step: Step) -> Result<StepResult, Error>;
}

fn drive(plan: &Plan, mut start: At, crew: &mut dyn Crew) -> Result<Outcome, Error> {
    let (logins, others) = crew.logged_in()?;
    let mut logged_in = At::now(plan.relay_pid, crew.begin() - LEAD_TIME)?;
    if let Some(others) = others {
        [start.own, logged_in.own] = others;
    }
    let found = plan.search.map(|search| find::search(plan, search, crew)).transpose()?;
    let rate = found.as_ref().map(|found| found.rate);
    let step = Step { begin: crew.begin(), rate, warmup: nanos(plan.warmup), duration: nanos(plan.duration) };
    let result = crew.step(step)?;
    let mut notes = Vec::new();
    let mut syscalls = None;
    if let (Some(length), Some(pid)) = (plan.strace, plan.relay_pid) {
        match count_syscalls(pid, Step { begin: 0, rate, warmup: 0, duration: nanos(length) }, crew)? {
            Ok(counted) => syscalls = Some(counted),
            Err(why) => notes.push(why),
        }
    }
    Ok(Outcome { first_packet_ms: None, start, logged_in, logins, found, step: result, syscalls, notes })
}

/// Under load, but apart from what is measured. A relay that cannot be traced is no failure.
fn count_syscalls(pid: u32, step: Step, crew: &mut dyn Crew) -> Result<Result<Syscalls, String>, Error> {
    let strace = match Strace::attach(pid) {
        Ok(strace) => strace,
        Err(err) => return Ok(Err(err.to_string())),
    };
    let result = crew.step(Step { begin: crew.begin(), ..step });
    let counted = strace.finish(result.as_ref().map_or(0, |result| result.stats.arrived_of_all));
    result?;
    Ok(counted.map_err(|err| err.to_string()))
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

    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
