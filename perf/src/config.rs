//! Scenarios and relays as their TOML files have them, checked against each other. Unknown keys are refused.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::metric::Metric;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScenarioFile {
    scenario: Vec<Scenario>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RelayFile {
    relay: Vec<Relay>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    pub name: String,
    /// What a figure from it tells, for people.
    pub shows: String,
    /// Flags of the load generator.
    pub load: String,
    #[serde(default = "yes")]
    pub tls: bool,
    #[serde(default = "one")]
    pub workers: u16,
    /// Relay on one processor and generator on another; else both on both.
    #[serde(default = "yes")]
    pub pinned: bool,
    /// Relay and generator start together.
    #[serde(default)]
    pub from_start: bool,
    /// The relay has run before, and finds what it left on disk.
    #[serde(default)]
    pub again: bool,
    /// Part of `--quick`.
    #[serde(default)]
    pub quick: bool,
    /// Instead of the run's own.
    pub seconds: Option<f64>,
    pub warmup_s: Option<f64>,
    /// These relays only.
    pub only: Option<Vec<String>>,
    /// Beside the others, of those that take part only where they are named.
    #[serde(default)]
    pub also: Vec<String>,
    /// For the relay, beside its own.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Scrapes of the relay's metrics in each second, meanwhile.
    #[serde(default)]
    pub scrapes: u32,
    #[serde(default)]
    pub goals: Vec<Goal>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Goal {
    pub metric: Metric,
    /// Of the ratio to this relay.
    pub to: Option<String>,
    /// Of the ratio to the same relay in this scenario.
    pub to_scenario: Option<String>,
    pub at_most: Option<f64>,
    pub at_least: Option<f64>,
    /// Enough if the better of our relays meets it.
    #[serde(default)]
    pub best: bool,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Relay {
    pub name: String,
    /// Which of the lab's programs it is.
    pub program: String,
    /// Held to the goals.
    #[serde(default)]
    pub ours: bool,
    /// How to install the program when it is missing.
    pub go: Option<GoPackage>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    pub tls: Option<String>,
    pub plain: Option<String>,
    /// Takes part in scenarios of TLS, in plain TCP.
    #[serde(default)]
    pub tls_is_plain: bool,
    /// Takes part only in scenarios that name it in `also`.
    #[serde(default)]
    pub when_named: bool,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct GoPackage {
    pub package: String,
    pub version: String,
}

/// How a relay takes part in a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    pub command: &'a str,
    pub tls: bool,
}

impl Scenario {
    pub fn load_flags(&self) -> Vec<String> {
        self.load.split_whitespace().map(str::to_owned).collect()
    }
}

impl Relay {
    pub fn entry(&self, scenario: &Scenario) -> Option<Entry<'_>> {
        if scenario.only.as_ref().is_some_and(|only| !only.contains(&self.name)) {
            return None;
        }
        if self.when_named && !scenario.also.contains(&self.name) {
            return None;
        }
        let tls = scenario.tls && !self.tls_is_plain;
        let command = if tls { &self.tls } else { &self.plain };
        command.as_deref().map(|command| Entry { command, tls })
    }
}

pub fn scenarios(path: &Path) -> Result<Vec<Scenario>, Error> {
    let file: ScenarioFile = read(path)?;
    check_scenarios(&file.scenario).map_err(|what| Error::Config(format!("{}: {what}", path.display())))?;
    Ok(file.scenario)
}

pub fn relays(path: &Path) -> Result<Vec<Relay>, Error> {
    let file: RelayFile = read(path)?;
    let names = file.relay.iter().map(|relay| &relay.name);
    check_names(names).map_err(|what| Error::Config(format!("{}: {what}", path.display())))?;
    for relay in &file.relay {
        if relay.tls.is_none() && relay.plain.is_none() {
            let what = format!("{}: relay {} needs `tls`, `plain` or both", path.display(), relay.name);
            return Err(Error::Config(what));
        }
    }
    Ok(file.relay)
}

pub fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, Error> {
    let text = fs::read_to_string(path).map_err(Error::file(path))?;
    toml::from_str(&text).map_err(|source| Error::Toml { path: path.into(), source: Box::new(source) })
}

/// Those that `names` asks for, all if it asks for none. A goal that is a ratio to a scenario brings that one along.
pub fn choose(all: Vec<Scenario>, names: &[String], quick: bool) -> Result<Vec<Scenario>, Error> {
    if let Some(unknown) = names.iter().find(|name| all.iter().all(|s| s.name != **name)) {
        let known: Vec<&str> = all.iter().map(|s| &*s.name).collect();
        return Err(Error::Config(format!("there is no scenario {unknown}; there are {}", known.join(", "))));
    }
    let asked = |s: &Scenario| if names.is_empty() { s.quick || !quick } else { names.contains(&s.name) };
    let needed: Vec<String> = all
        .iter()
        .filter(|s| asked(s))
        .flat_map(|s| &s.goals)
        .cloned()
        .collect::<Vec<Goal>>()
        .into_iter()
        .filter_map(|goal| goal.to_scenario)
        .collect();
    Ok(all.into_iter().filter(|s| asked(s) || needed.contains(&s.name)).collect())
}

fn check_scenarios(scenarios: &[Scenario]) -> Result<(), String> {
    check_names(scenarios.iter().map(|s| &s.name))?;
    for Scenario { name, workers, goals, .. } in scenarios {
        if *workers == 0 {
            return Err(format!("scenario {name} has no workers"));
        }
        for goal in goals {
            if goal.at_most.is_some() == goal.at_least.is_some() {
                return Err(format!("a goal of scenario {name} needs `at_most` or `at_least`"));
            }
            if goal.to.is_some() && goal.to_scenario.is_some() {
                return Err(format!("a goal of scenario {name} has both `to` and `to_scenario`"));
            }
            if let Some(other) = &goal.to_scenario
                && scenarios.iter().all(|s| s.name != *other)
            {
                return Err(format!("a goal of scenario {name} is a ratio to {other}, which is not there"));
            }
        }
    }
    Ok(())
}

fn check_names<'a>(names: impl Iterator<Item = &'a String>) -> Result<(), String> {
    let mut seen = Vec::new();
    for name in names {
        if seen.contains(&name) {
            return Err(format!("{name} is there twice"));
        }
        seen.push(name);
    }
    Ok(())
}

fn yes() -> bool {
    true
}

fn one() -> u16 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = "[[scenario]]\nname = \"a\"\nshows = \"x\"\nload = \"--pairs 1\"\n";

    fn parse(text: &str) -> Result<Vec<Scenario>, String> {
        let file: ScenarioFile = toml::from_str(text).map_err(|err| err.to_string())?;
        check_scenarios(&file.scenario)?;
        Ok(file.scenario)
    }

    #[test]
    fn the_files_of_the_lab_are_read() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR"));
        let scenarios = scenarios(&dir.join("scenarios.toml")).unwrap();
        let relays = relays(&dir.join("rivals.toml")).unwrap();
        for scenario in &scenarios {
            let known = |name: &String| relays.iter().any(|relay| relay.name == *name);
            assert!(scenario.only.iter().flatten().chain(&scenario.also).all(known), "{}", scenario.name);
            for goal in &scenario.goals {
                let reference = goal
                    .to
                    .iter()
                    .all(|to| relays.iter().any(|relay| relay.name == *to && relay.entry(scenario).is_some()));
                assert!(reference, "the goals of {} are ratios to relays that take part", scenario.name);
            }
        }
    }

    #[test]
    fn unknown_keys_are_refused_by_name() {
        assert!(parse(MINIMAL).is_ok());
        let err = parse(&format!("{MINIMAL}lod = 1\n")).unwrap_err();
        assert!(err.contains("unknown field `lod`"), "{err}");
        let err = parse(&format!("{MINIMAL}goals = [{{ metric = \"loss\", at_mots = 1.0 }}]\n")).unwrap_err();
        assert!(err.contains("unknown field `at_mots`"), "{err}");
        let err = parse(&format!("{MINIMAL}goals = [{{ metric = \"speed\", at_most = 1.0 }}]\n")).unwrap_err();
        assert!(err.contains("unknown variant `speed`"), "{err}");
    }

    #[test]
    fn goals_that_say_too_little_or_too_much_are_refused() {
        for goal in [
            "metric = \"loss\"",
            "metric = \"loss\", at_most = 1.0, at_least = 0.0",
            "metric = \"loss\", at_most = 1.0, to = \"derper\", to_scenario = \"a\"",
            "metric = \"loss\", at_most = 1.0, to_scenario = \"b\"",
        ] {
            assert!(parse(&format!("{MINIMAL}goals = [{{ {goal} }}]\n")).is_err(), "{goal}");
        }
        assert!(parse(&format!("{MINIMAL}{MINIMAL}")).unwrap_err().contains("twice"));
    }

    #[test]
    fn who_takes_part_and_how() {
        let relay = |text: &str| toml::from_str::<Relay>(text).unwrap();
        let floor = relay("name = \"floor\"\nprogram = \"floor\"\ntls_is_plain = true\nplain = \"p\"");
        let derper = relay("name = \"derper\"\nprogram = \"derper\"\ntls = \"t\"");
        let tls = parse(MINIMAL).unwrap().remove(0);
        let plain = Scenario { tls: false, ..tls.clone() };
        assert_eq!(floor.entry(&tls), Some(Entry { command: "p", tls: false }));
        assert_eq!(floor.entry(&plain), Some(Entry { command: "p", tls: false }));
        assert_eq!(derper.entry(&tls), Some(Entry { command: "t", tls: true }));
        assert_eq!(derper.entry(&plain), None);
        let named = Relay { when_named: true, ..floor.clone() };
        assert_eq!(named.entry(&tls), None);
        assert!(named.entry(&Scenario { also: vec!["floor".into()], ..tls.clone() }).is_some());
        assert_eq!(derper.entry(&Scenario { only: Some(vec!["floor".into()]), ..tls }), None);
    }

    #[test]
    fn a_choice_brings_what_its_goals_refer_to() {
        let text = format!(
            "{MINIMAL}[[scenario]]\nname = \"b\"\nshows = \"x\"\nload = \"\"\nquick = true\n\
             goals = [{{ metric = \"loss\", at_most = 1.0, to_scenario = \"a\" }}]\n\
             [[scenario]]\nname = \"c\"\nshows = \"x\"\nload = \"\"\n"
        );
        let names = |names: &[&str], quick| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            choose(parse(&text).unwrap(), &names, quick).map(|s| s.into_iter().map(|s| s.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&[], false).unwrap(), ["a", "b", "c"]);
        assert_eq!(names(&[], true).unwrap(), ["a", "b"]);
        assert_eq!(names(&["c"], true).unwrap(), ["c"]);
        assert!(names(&["d"], false).unwrap_err().to_string().contains("no scenario d; there are a, b, c"));
    }
}
