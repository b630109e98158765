use serde_json::json;

use super::*;
use crate::config::Relay;
use crate::machine::{Machine, Quiet};

fn scenario(name: &str, goals: &str) -> Scenario {
    toml::from_str(&format!("name = \"{name}\"\nshows = \"what it shows\"\nload = \"--pairs 1\"\ngoals = [{goals}]\n"))
        .unwrap()
}

fn relay(name: &str, ours: bool) -> Relay {
    toml::from_str(&format!("name = \"{name}\"\nprogram = \"p\"\nours = {ours}\ntls = \"t\"\nplain = \"p\"")).unwrap()
}

fn info(scenarios: Vec<Scenario>) -> RunInfo {
    RunInfo {
        date: "2000-01-01".into(),
        commit: "c0ffee".into(),
        machine: Machine::here(),
        rounds: 3,
        seconds: 1.0,
        warmup_s: 1.0,
        relay_cpu: 0,
        load_cpu: 1,
        versions: vec![("uring".into(), "1.0".into())],
        missing: vec![("derper".into(), "no Go".into())],
        relays: vec![relay("uring", true), relay("floor", false)],
        scenarios,
    }
}

fn sample(round: u32, scenario: &str, relay: &str, cpu: f64) -> Sample {
    Sample {
        round,
        scenario: scenario.into(),
        relay: relay.into(),
        status: Some(GOOD),
        error: String::new(),
        before: Quiet { load_average: 0.0, idle: vec![(0, 1.0)] },
        report: Some(json!({ "relay": { "cpu_us_per_packet": cpu } })),
    }
}

fn samples() -> Vec<Sample> {
    let mut out = Vec::new();
    for (round, own, floor, other) in [(1, 1.5, 1.0, 3.0), (2, 28.0, 20.0, 28.0), (3, 1.6, 1.0, 1.6)] {
        out.extend([sample(round, "a", "uring", own), sample(round, "a", "floor", floor)]);
        out.push(sample(round, "b", "uring", other));
    }
    out
}

fn to_floor(relay: &str) -> Vec<String> {
    if relay == "floor" { Vec::new() } else { vec!["floor".to_owned()] }
}

const GOALS: &str = "{ metric = \"cpu-per-packet\", to = \"floor\", at_most = 1.5 }, \
                     { metric = \"cpu-per-packet\", at_most = 1.59 }, \
                     { metric = \"cpu-per-packet\", to_scenario = \"b\", at_least = 1.0 }, \
                     { metric = \"cpu-per-packet\", to_scenario = \"b\", at_least = 1.1 }, \
                     { metric = \"loss\", at_most = 1.0 }";

#[test]
fn goals_are_judged_by_the_median_of_the_rounds() {
    let (info, samples) = (info(vec![scenario("a", GOALS), scenario("b", "")]), samples());
    let summary = Summary { info: &info, samples: &samples, references: &to_floor, plots: &[] };
    let standings = summary.standings();
    assert!(standings.iter().all(|standing| standing.relay == "uring"), "rivals have no goals");
    let ratio = standings[0].measured.unwrap();
    assert_eq!((ratio.median, ratio.least, ratio.greatest), (1.5, 1.4, 1.6));
    let met: Vec<_> = standings.iter().map(|standing| standing.met).collect();
    assert_eq!(met, [Some(true), Some(false), Some(true), Some(false), None]);
}

#[test]
fn the_summary_has_goals_figures_and_who_is_missing() {
    let (info, samples) = (info(vec![scenario("a", GOALS), scenario("b", "")]), samples());
    let plots = [("x.svg".to_owned(), "ratios".to_owned())];
    let text = Summary { info: &info, samples: &samples, references: &to_floor, plots: &plots }.markdown();
    for part in [
        "**derper is missing from this run**: no Go",
        "| a | CPU per packet to floor: at most 1.50 | uring | 1.50 (1.40..1.60) | met |",
        "| a | CPU per packet: at most 1.59 us | uring | 1.60 (1.50..28.00) | **missed** |",
        "| a | loss: at most 1.00 % | uring | - | not measured |",
        "| CPU per packet, us | 1.60 (1.50..28.00) | 1.00 (1.00..20.00) |",
        "| … to floor | 1.50 (1.40..1.60) |  |",
        "![ratios](x.svg)",
    ] {
        assert!(text.contains(part), "{part} is in\n{text}");
    }
    assert!(!text.contains("reservation"), "{text}");
}

#[test]
fn what_is_to_be_said_against_a_sample_is_said() {
    let mut samples = samples();
    samples[0].before.idle = vec![(0, 1.0), (1, 0.4)];
    samples[1].status = Some(LATE);
    samples[1].report = Some(json!({ "verdict": { "notes": ["late by 9 ms", "and busy"] } }));
    samples[2] = Sample { status: None, error: "the relay ended".into(), ..samples[2].clone() };
    let info = info(vec![scenario("a", "")]);
    let text = Summary { info: &info, samples: &samples, references: &to_floor, plots: &[] }.markdown();
    for part in [
        "- round 1, a, uring: processor 1 was only 40 % idle just before",
        "- round 1, a, floor: late by 9 ms; and busy",
        "- round 1, b, uring: the relay ended",
    ] {
        assert!(text.contains(part), "{part} is in\n{text}");
    }
}

#[test]
fn numbers_have_three_digits_or_all_that_are_whole() {
    let cases = [(0.0, "0"), (0.1234, "0.123"), (12.345, "12.35"), (999.6, "1,000"), (1234567.0, "1,234,567")];
    for (value, text) in cases {
        assert_eq!(number(value), text);
    }
    assert_eq!(number(-123456.0), "-123,456");
}

#[test]
fn the_better_backend_is_enough_where_the_goal_says_so() {
    let goals = "{ metric = \"cpu-per-packet\", to = \"floor\", at_most = 1.1, best = true }";
    let mut info = info(vec![scenario("a", goals)]);
    info.relays.push(relay("epoll", true));
    let samples = [sample(1, "a", "uring", 2.0), sample(1, "a", "floor", 1.0), sample(1, "a", "epoll", 1.05)];
    let summary = Summary { info: &info, samples: &samples, references: &to_floor, plots: &[] };
    let standings = summary.standings();
    assert_eq!(standings.len(), 1);
    assert_eq!((&*standings[0].relay, standings[0].met), ("epoll", Some(true)));
    assert!(standings[0].goal.ends_with("at most 1.10 (the better backend)"));
}
