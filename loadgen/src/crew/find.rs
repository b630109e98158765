//! The search for the largest rate that the relay carries.

use serde::Serialize;

use super::{Crew, Step, nanos};
use crate::cli::{Pace, Plan, Search};
use crate::error::Error;
use crate::measure::StepResult;
use crate::measure::verdict::lateness;
use crate::traffic::shape::Class;

/// More tries than this are never needed: doubling passes any relay, halving any precision.
const MAX_TRIES: usize = 40;
/// The search ends when what failed is within this of what was carried.
const PRECISION: f64 = 0.05;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Found {
    /// The largest rate tried at which loss stayed within the bound and the generator was in time.
    pub rate: u64,
    pub max_loss: f64,
    /// What ended the search.
    pub limited_by: Limit,
    pub tries: Vec<Try>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    Relay,
    Generator,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Try {
    pub rate: u64,
    /// Of the packets that were due: lost, or never sent because the relay took no more.
    pub loss: f64,
    pub p99_us: f64,
    /// None if the rate was carried.
    pub limit: Option<Limit>,
}

/// Doubles the rate until something gives, then halves the distance.
pub fn search(plan: &Plan, search: Search, crew: &mut dyn Crew) -> Result<Found, Error> {
    let Pace::Rate(mut rate) = plan.pace else {
        unreachable!("the plan gives a search a rate to begin with");
    };
    let (mut carried, mut failed): (u64, Option<(u64, Limit)>) = (0, None);
    let mut tries = Vec::new();
    while tries.len() < MAX_TRIES {
        let step = Step {
            begin: crew.begin(),
            rate: Some(rate),
            warmup: nanos(plan.warmup.min(search.step)),
            duration: nanos(search.step),
        };
        let one = judge(plan, search, rate, &crew.step(step)?);
        match one.limit {
            None => carried = rate,
            Some(limit) => failed = Some((rate, limit)),
        }
        tries.push(one);
        let Some(next) = next_rate(carried, failed.map(|(rate, _)| rate)) else {
            break;
        };
        rate = next;
    }
    match failed {
        Some((least, _)) if carried == 0 => Err(Error::NothingCarried { rate: least, max_loss: search.max_loss }),
        Some((_, limited_by)) => Ok(Found { rate: carried, max_loss: search.max_loss, limited_by, tries }),
        None => unreachable!("forty doublings pass every machine"),
    }
}

/// What to try next, or nothing if that would not tell more.
fn next_rate(carried: u64, failed: Option<u64>) -> Option<u64> {
    match failed {
        None => Some(carried.saturating_mul(2)),
        Some(failed) if carried == 0 => (failed > 1).then_some(failed / 2),
        Some(failed) => {
            let close = (failed - carried) as f64 <= PRECISION * failed as f64 || failed - carried <= 1;
            (!close).then_some(carried + (failed - carried) / 2)
        }
    }
}

fn judge(plan: &Plan, search: Search, rate: u64, step: &StepResult) -> Try {
    let of_both = |of: &dyn Fn(Class) -> u64| of(Class::Main) + of(Class::Reply);
    let sent = of_both(&|class| step.totals.of(class).sent);
    let arrived = of_both(&|class| step.totals.of(class).arrived);
    let unsent = step.stats.unsent;
    let loss = (sent - arrived + unsent) as f64 / (sent + unsent).max(1) as f64;
    let limit = if lateness(plan, step).is_some() {
        Some(Limit::Generator)
    } else {
        (loss > search.max_loss || sent == 0).then_some(Limit::Relay)
    };
    Try { rate, loss, p99_us: step.stats.latency.value_at_quantile(0.99) as f64 / 1e3, limit }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rates that are tried when everything up to `capacity` is carried.
    fn tried(start: u64, capacity: u64) -> Vec<u64> {
        let (mut carried, mut failed, mut rates) = (0, None, vec![start]);
        loop {
            let rate = rates[rates.len() - 1];
            if rate <= capacity {
                carried = rate
            } else {
                failed = Some(rate)
            }
            match next_rate(carried, failed) {
                Some(next) => rates.push(next),
                None => return rates,
            }
        }
    }

    #[test]
    fn doubles_then_halves() {
        assert_eq!(tried(1000, 5000), [1000, 2000, 4000, 8000, 6000, 5000, 5500, 5250]);
        assert_eq!(tried(1000, 300), [1000, 500, 250, 375, 312, 281, 296, 304]);
        assert_eq!(tried(4, 0), [4, 2, 1]);
    }
}
