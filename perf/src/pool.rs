//! Latency over the rounds of several records: all packets together, and the rounds' ratios.
//!
//! Where a few stalls decide a percentile, that of one round says little, and neither does a median of few: shares of
//! slow packets over all rounds do.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use derpring_loadgen::measure::hdr;
use hdrhistogram::Histogram;

use crate::cli;
use crate::error::Error;
use crate::sample::Sample;
use crate::stats::{Middle, within_rounds};
use crate::summary::number;

/// What counts as slow, in nanoseconds, and its title.
const SLOW: [(u64, &str); 3] = [(100_000, "0.1 ms"), (300_000, "0.3 ms"), (1_000_000, "1 ms")];
const QUANTILES: [(f64, &str); 3] = [(0.5, "p50"), (0.99, "p99"), (0.999, "p99.9")];
/// What ratios are taken to, where it was measured.
const REFERENCES: [&str; 2] = ["derper", "floor"];

/// Latencies by scenario and relay, each by record and round.
pub type Rounds = BTreeMap<(usize, u32), Histogram<u64>>;
type Pool = BTreeMap<String, BTreeMap<String, Rounds>>;

pub fn pool(args: &cli::Pool) -> Result<bool, Error> {
    let mut pool = Pool::new();
    for (record, folder) in args.records.iter().enumerate() {
        add(&mut pool, record, folder)?;
    }
    pool.retain(|scenario, _| args.scenarios.is_empty() || args.scenarios.contains(scenario));
    if pool.is_empty() {
        return Err(Error::Config("these records have no latency of these scenarios".into()));
    }
    for (scenario, relays) in &pool {
        println!("{}", markdown(scenario, relays));
    }
    Ok(true)
}

fn add(pool: &mut Pool, record: usize, folder: &Path) -> Result<(), Error> {
    let path = folder.join("samples.jsonl");
    let text = fs::read_to_string(&path).map_err(Error::file(&path))?;
    for (number, line) in text.lines().enumerate() {
        let wrong = |why: String| Error::Config(format!("{}, line {}: {why}", path.display(), number + 1));
        let sample: Sample = serde_json::from_str(line).map_err(|err| wrong(err.to_string()))?;
        let text = sample.report.as_ref().and_then(|report| report.pointer("/packets/latency_hdr")?.as_str());
        let Some(text) = text.filter(|_| sample.usable()) else {
            continue;
        };
        let latency = hdr::decode(text).ok_or_else(|| wrong("latency_hdr is no histogram".into()))?;
        let relays = pool.entry(sample.scenario).or_default();
        relays.entry(sample.relay).or_default().insert((record, sample.round), latency);
    }
    Ok(())
}

pub fn markdown(scenario: &str, relays: &BTreeMap<String, Rounds>) -> String {
    let mut out = format!("## {scenario}\n\n| |");
    for relay in relays.keys() {
        let _ = write!(out, " {relay} |");
    }
    let _ = write!(out, "\n|---|{}\n", "---:|".repeat(relays.len()));
    let all: Vec<Histogram<u64>> = relays.values().map(together).collect();
    let row = |out: &mut String, title: &str, cells: Vec<String>| {
        let _ = writeln!(out, "| {title} | {} |", cells.join(" | "));
    };
    row(&mut out, "rounds", relays.values().map(|rounds| rounds.len().to_string()).collect());
    row(&mut out, "packets", all.iter().map(|all| number(all.len() as f64)).collect());
    for (bound, title) in SLOW {
        let cells = all.iter().map(|all| number(100.0 * slower(all, bound))).collect();
        row(&mut out, &format!("slower than {title}, %"), cells);
    }
    for (quantile, title) in QUANTILES {
        let us = |all: &Histogram<u64>| number(all.value_at_quantile(quantile) as f64 / 1e3);
        row(&mut out, &format!("{title} of all packets, us"), all.iter().map(us).collect());
    }
    for reference in REFERENCES {
        let Some(base) = relays.get(reference) else {
            continue;
        };
        for (quantile, title) in QUANTILES {
            let base = by_round(base, quantile);
            let ratios = |rounds: &Rounds| Middle::of(within_rounds(&by_round(rounds, quantile), &base));
            let cell = |rounds| ratios(rounds).map_or_else(|| "-".into(), cell);
            row(&mut out, &format!("{title} to {reference}, by round"), relays.values().map(cell).collect());
        }
    }
    out
}

fn by_round(rounds: &Rounds, quantile: f64) -> Vec<((usize, u32), f64)> {
    rounds.iter().map(|(round, latency)| (*round, latency.value_at_quantile(quantile) as f64)).collect()
}

fn together(rounds: &Rounds) -> Histogram<u64> {
    let mut rounds = rounds.values();
    let mut all = rounds.next().expect("a relay is here for its first round").clone();
    for round in rounds {
        all.add(round).expect("all histograms have the same bounds");
    }
    all
}

fn slower(all: &Histogram<u64>, bound: u64) -> f64 {
    let slow = all.iter_recorded().filter(|at| at.value_iterated_to() > bound).map(|at| at.count_at_value());
    slow.sum::<u64>() as f64 / all.len().max(1) as f64
}

fn cell(middle: Middle) -> String {
    format!("{} ({}..{})", number(middle.median), number(middle.low), number(middle.high))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A record of these samples: round, relay, status, and latencies in microseconds.
    fn record(samples: &[(u32, &str, i32, &[u64])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let lines = samples.iter().map(|(round, relay, status, latencies)| {
            let mut latency = derpring_loadgen::measure::histogram();
            latencies.iter().for_each(|us| latency.record(1_000 * us).unwrap());
            let report = json!({ "packets": { "latency_hdr": hdr::encode(&latency) } });
            let before = json!({ "load_average": 0.1, "idle": [] });
            json!({ "round": round, "scenario": "load", "relay": relay, "status": status, "error": "", "before": before,
                "report": report })
        });
        let text: String = lines.map(|line| format!("{line}\n")).collect();
        fs::write(folder.path().join("samples.jsonl"), text).unwrap();
        folder
    }

    #[test]
    fn packets_of_all_records_are_one_crowd_and_rounds_stay_apart() {
        let one = record(&[(1, "uring", 0, &[10, 20, 2_000]), (1, "floor", 0, &[10]), (2, "uring", 2, &[9_000])]);
        let other = record(&[(1, "uring", 3, &[50]), (1, "floor", 0, &[25]), (2, "floor", 0, &[7])]);
        let mut pool = Pool::new();
        for (at, folder) in [&one, &other].iter().enumerate() {
            add(&mut pool, at, folder.path()).unwrap();
        }
        let text = markdown("load", &pool["load"]);
        for line in [
            "| | floor | uring |",
            "| rounds | 3 | 2 |",
            "| packets | 3.00 | 4.00 |",
            "| slower than 0.3 ms, % | 0 | 25.00 |",
            "| p50 of all packets, us | 10.01 | 20.02 |",
            "| p50 to floor, by round | 1.00 (1.00..1.00) | 2.00 (2.00..2.00) |",
        ] {
            assert!(text.contains(line), "{line} is missing from\n{text}");
        }
        assert!(!text.contains("derper"), "{text}");
    }

    #[test]
    fn what_is_no_record_is_refused_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let line = |status: &str, report: &str| {
            let before = r#""before":{"load_average":0.1,"idle":[]}"#;
            format!(
                r#"{{"round":1,"scenario":"a","relay":"b","status":{status},"error":"",{before},"report":{report}}}"#
            )
        };
        let mut pool = Pool::new();
        assert!(matches!(add(&mut pool, 0, folder.path()), Err(Error::File { .. })));
        for (text, why) in [
            ("{}\n", "line 1: missing field"),
            ("\n", "line 1: EOF"),
            (&line("0", r#"{"packets":{"latency_hdr":"x"}}"#), "line 1: latency_hdr is no histogram"),
        ] {
            fs::write(folder.path().join("samples.jsonl"), text).unwrap();
            let err = add(&mut pool, 0, folder.path()).unwrap_err().to_string();
            assert!(err.contains(why), "{err}");
        }
        fs::write(folder.path().join("samples.jsonl"), line("null", "null")).unwrap();
        add(&mut pool, 0, folder.path()).unwrap();
        assert!(pool.is_empty());
    }
}
