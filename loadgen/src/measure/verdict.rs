//! Whether the figures are the relay's or the generator's.

use serde::Serialize;

use super::report::Process;
use super::{Outcome, StepResult};
use crate::cli::{Pace, Plan};
use crate::crew::find::{Found, Limit};

/// Above this share of one processor a thread of the generator has no time left to be on time.
const BUSY: f64 = 0.97;

#[derive(Debug, Serialize)]
pub struct Verdict {
    /// The schedule was not kept: latencies are the generator's, not the relay's.
    pub late: bool,
    pub notes: Vec<String>,
}

impl Verdict {
    pub fn new(plan: &Plan, outcome: &Outcome, relay: Option<&Process>) -> Self {
        let step = &outcome.step;
        let late = lateness(plan, step);
        let mut verdict = Self { late: late.is_some(), notes: late.into_iter().collect() };
        if let Some(Found { limited_by: Limit::Generator, rate, .. }) = &outcome.found {
            verdict.late = true;
            verdict.notes.push(format!(
                "the search ended where the generator was late, not the relay: it may carry more than {rate} per \
                 second (more --threads, or --agents on other machines)"
            ));
        }
        if matches!(plan.pace, Pace::Window(_))
            && is_busy(plan, step)
            && plan.has_measured_load()
            && let Some(relay) = relay
            && relay.cpu_share < BUSY
        {
            verdict.notes.push(format!(
                "the generator used {:.0} % of a processor and the relay {:.0} %: throughput is the \
                 generator's limit, CPU per packet is the relay's",
                100.0 * step.busy,
                100.0 * relay.cpu_share
            ));
        }
        verdict.notes.extend(outcome.notes.iter().cloned());
        verdict
    }
}

/// Why the generator did not keep its schedule, if it had one and did not.
pub fn lateness(plan: &Plan, step: &StepResult) -> Option<String> {
    if !plan.has_measured_load() || !matches!(plan.pace, Pace::Rate(_)) {
        return None;
    }
    let p99_us = step.stats.lateness.value_at_quantile(0.99) as f64 / 1e3;
    let bound_us = plan.max_lateness.as_secs_f64() * 1e6;
    if p99_us > bound_us {
        return Some(format!(
            "the generator was late: p99 of {p99_us:.0} us behind its schedule, \
             {bound_us:.0} us are allowed (--max-lateness)"
        ));
    }
    is_busy(plan, step).then(|| format!("the generator used {:.0} % of a processor: lower --rate", 100.0 * step.busy))
}

/// Whoever spins or floods is always busy; only its lateness tells.
fn is_busy(plan: &Plan, step: &StepResult) -> bool {
    step.busy >= BUSY && !plan.spin && !plan.floods()
}
