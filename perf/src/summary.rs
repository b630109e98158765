//! What a run comes to, as Markdown: goals first, then every figure, then what is to be said against it.

use std::fmt::Write as _;

use serde_json::Value;

use crate::config::{Goal, Scenario};
use crate::metric::Metric;
use crate::record::RunInfo;
use crate::sample::{GOOD, LATE, Sample};
use crate::stats::{Spread, ratios};

pub struct Summary<'a> {
    pub info: &'a RunInfo,
    pub samples: &'a [Sample],
    /// Which relays a relay's ratios are taken to.
    pub references: &'a dyn Fn(&str) -> Vec<String>,
    /// Drawings in the same folder, with what they show.
    pub plots: &'a [(String, String)],
}

/// How a relay of ours stands to a goal.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    pub scenario: String,
    pub goal: String,
    pub relay: String,
    /// Nothing was measured that tells, if absent.
    pub measured: Option<Spread>,
    pub met: Option<bool>,
    pub bound: f64,
    pub metric: Metric,
    pub to: Option<String>,
}

impl Standing {
    /// How far it is from a goal; nothing is farther than what was not measured.
    fn distance(&self, goal: &Goal) -> f64 {
        let sign = if goal.at_most.is_some() { 1.0 } else { -1.0 };
        self.measured.map_or(f64::INFINITY, |spread| sign * spread.median)
    }
}

impl Summary<'_> {
    pub fn markdown(&self) -> String {
        let mut out = self.head();
        self.goals(&mut out);
        for (file, title) in self.plots {
            let _ = write!(out, "\n![{title}]({file})\n");
        }
        for scenario in &self.info.scenarios {
            self.scenario(&mut out, scenario);
        }
        self.reservations(&mut out);
        out
    }

    pub fn standings(&self) -> Vec<Standing> {
        let mut out = Vec::new();
        for scenario in &self.info.scenarios {
            for goal in &scenario.goals {
                let ours = self.info.relays.iter().filter(|relay| relay.ours && relay.entry(scenario).is_some());
                let all = ours.map(|relay| self.standing(scenario, goal, &relay.name));
                if goal.best {
                    out.extend(all.min_by(|a, b| a.distance(goal).total_cmp(&b.distance(goal))));
                } else {
                    out.extend(all);
                }
            }
        }
        out
    }

    fn standing(&self, scenario: &Scenario, goal: &Goal, relay: &str) -> Standing {
        let own = self.values(&scenario.name, relay, goal.metric);
        let measured = match (&goal.to, &goal.to_scenario) {
            (Some(to), _) => ratios(&own, &self.values(&scenario.name, to, goal.metric)),
            (_, Some(other)) => ratios(&own, &self.values(other, relay, goal.metric)),
            _ => Spread::of(own.iter().map(|(_, value)| *value)),
        };
        let met = measured.map(|spread| {
            goal.at_most.is_none_or(|most| spread.median <= most)
                && goal.at_least.is_none_or(|least| spread.median >= least)
        });
        Standing {
            scenario: scenario.name.clone(),
            goal: goal.to_string(),
            relay: relay.to_owned(),
            measured,
            met,
            bound: goal.at_most.or(goal.at_least).unwrap_or(f64::NAN),
            metric: goal.metric,
            to: goal.to.clone(),
        }
    }

    fn values(&self, scenario: &str, relay: &str, metric: Metric) -> Vec<(u32, f64)> {
        let of = |sample: &&Sample| sample.scenario == scenario && sample.relay == relay;
        self.samples.iter().filter(of).filter_map(|sample| Some((sample.round, sample.value(metric)?))).collect()
    }

    fn head(&self) -> String {
        let RunInfo { date, commit, machine, rounds, seconds, versions, missing, .. } = self.info;
        let mut out = format!(
            "# Relays side by side\n\n{date}, commit {commit}; {} processors ({}), {} MiB, kernel {}, load {:.2} at \
             the start.\n{rounds} interleaved rounds of {seconds} s. TLS 1.3 AES-128-GCM and 1400 B unless said; the \
             floor is plain TCP. Unless said, relay and generator have a processor each.\n\nMedians over the rounds, \
             in brackets the least and the greatest. Ratios are taken within a round.\n\n",
            machine.processors, machine.processor, machine.memory_mib, machine.kernel, machine.load_at_start
        );
        for (name, version) in versions {
            let _ = writeln!(out, "- {name}: {version}");
        }
        for (name, why) in missing {
            let _ = writeln!(out, "- **{name} is missing from this run**: {why}");
        }
        out
    }

    fn goals(&self, out: &mut String) {
        let standings = self.standings();
        if standings.is_empty() {
            return;
        }
        out.push_str("\n## Goals\n\n| scenario | goal | relay | measured | |\n|---|---|---|---:|---|\n");
        for Standing { scenario, goal, relay, measured, met, .. } in &standings {
            let word = match met {
                Some(true) => "met",
                Some(false) => "**missed**",
                None => "not measured",
            };
            let measured = measured.map_or_else(|| "-".to_owned(), cell);
            let _ = writeln!(out, "| {scenario} | {goal} | {relay} | {measured} | {word} |");
        }
    }

    fn scenario(&self, out: &mut String, scenario: &Scenario) {
        let relays: Vec<&str> =
            self.info.relays.iter().filter(|relay| relay.entry(scenario).is_some()).map(|relay| &*relay.name).collect();
        let _ = write!(out, "\n## {}: {}\n\n`{}`\n\n| |", scenario.name, scenario.shows, scenario.load);
        for relay in &relays {
            let _ = write!(out, " {relay} |");
        }
        let _ = write!(out, "\n|---|{}\n", "---:|".repeat(relays.len()));
        for metric in Metric::ALL {
            self.rows(out, scenario, &relays, metric);
        }
    }

    /// The figure of each relay and, below it, its ratios to each of its references.
    fn rows(&self, out: &mut String, scenario: &Scenario, relays: &[&str], metric: Metric) {
        let values: Vec<_> = relays.iter().map(|relay| self.values(&scenario.name, relay, metric)).collect();
        if values.iter().all(Vec::is_empty) {
            return;
        }
        let unit = if metric.unit().is_empty() { String::new() } else { format!(", {}", metric.unit()) };
        let _ = write!(out, "| {}{unit} |", metric.title());
        for values in &values {
            let spread = Spread::of(values.iter().map(|(_, value)| *value));
            let _ = write!(out, " {} |", spread.map_or_else(|| "-".to_owned(), cell));
        }
        out.push('\n');
        if !metric.compares() {
            return;
        }
        let mut references: Vec<String> = relays.iter().flat_map(|relay| (self.references)(relay)).collect();
        references.sort();
        references.dedup();
        for reference in references {
            let base = self.values(&scenario.name, &reference, metric);
            let cells = relays.iter().zip(&values).map(|(relay, values)| {
                let wanted = (self.references)(relay).contains(&reference);
                wanted.then(|| ratios(values, &base)).flatten().map_or_else(String::new, cell)
            });
            let cells: Vec<String> = cells.collect();
            if cells.iter().any(|cell| !cell.is_empty()) {
                let _ = writeln!(out, "| … to {reference} | {} |", cells.join(" | "));
            }
        }
    }

    fn reservations(&self, out: &mut String) {
        let mut lines = String::new();
        for sample in self.samples {
            for reservation in reservations(sample) {
                let Sample { round, scenario, relay, .. } = sample;
                let _ = writeln!(lines, "- round {round}, {scenario}, {relay}: {reservation}");
            }
        }
        if !lines.is_empty() {
            let _ = write!(out, "\n## Samples with a reservation\n\n{lines}");
        }
    }
}

/// What is to be said against a sample.
pub fn reservations(sample: &Sample) -> Vec<String> {
    let mut out = Vec::new();
    if let Some((cpu, share)) = sample.before.busy() {
        out.push(format!("processor {cpu} was only {:.0} % idle just before", 100.0 * share));
    }
    // All of it is in samples.jsonl.
    let said = || sample.error.lines().next().unwrap_or_default().to_owned();
    match sample.status {
        Some(GOOD) => {}
        // The generator says by how much, and that latencies are its own then.
        Some(LATE) => out.push(notes(sample)),
        Some(2) => out.push(format!("the relay delivered something wrong: no figures. {}", said())),
        Some(other) => out.push(format!("the generator gave up with status {other}: {}", said())),
        None => out.push(said()),
    }
    out
}

fn notes(sample: &Sample) -> String {
    let notes = sample.report.as_ref().and_then(|report| report.pointer("/verdict/notes")?.as_array());
    let notes: Vec<&str> = notes.into_iter().flatten().filter_map(Value::as_str).collect();
    if notes.is_empty() { "the generator was late: latencies are its own".to_owned() } else { notes.join("; ") }
}

/// One line per sample, as the run goes on.
pub fn line(sample: &Sample) -> String {
    let Sample { round, scenario, relay, .. } = sample;
    let shown = Metric::ALL
        .iter()
        .filter_map(|metric| Some(format!("{} {} {}", metric.title(), number(sample.value(*metric)?), metric.unit())));
    let mut parts: Vec<String> = shown.take(5).collect();
    parts.extend(reservations(sample).into_iter().map(|text| format!("({text})")));
    format!("round {round}  {scenario:<18} {relay:<10} {}", parts.join("  "))
}

impl std::fmt::Display for Goal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.metric.title())?;
        let unit = match (&self.to, &self.to_scenario) {
            (Some(other), _) | (_, Some(other)) => {
                write!(f, " to {other}")?;
                ""
            }
            _ => self.metric.unit(),
        };
        let space = if unit.is_empty() { "" } else { " " };
        match (self.at_most, self.at_least) {
            (Some(bound), _) => write!(f, ": at most {}{space}{unit}", number(bound)),
            (_, Some(bound)) => write!(f, ": at least {}{space}{unit}", number(bound)),
            _ => Ok(()),
        }?;
        f.write_str(if self.best { " (the better backend)" } else { "" })
    }
}

fn cell(spread: Spread) -> String {
    let Spread { median, least, greatest, .. } = spread;
    format!("{} ({}..{})", number(median), number(least), number(greatest))
}

/// Three digits, or more where they are whole.
pub fn number(x: f64) -> String {
    if x == 0.0 || x.abs() >= 100.0 {
        let digits = format!("{x:.0}");
        let start = usize::from(digits.starts_with('-'));
        let mut out = String::new();
        for (at, digit) in digits.char_indices() {
            if at > start && (digits.len() - at).is_multiple_of(3) {
                out.push(',');
            }
            out.push(digit);
        }
        out
    } else if x.abs() >= 1.0 {
        format!("{x:.2}")
    } else {
        format!("{x:.3}")
    }
}

#[cfg(test)]
mod tests;
