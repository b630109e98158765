//! One sample: a relay, freshly started, under one load.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::certificate::HOST;
use crate::config::{Entry, Relay, Scenario};
use crate::error::Error;
use crate::machine::Quiet;
use crate::metric::Metric;
use crate::programs::Programs;
use crate::running::{self, Launch, Running};
use crate::scraper::Scraper;

/// Exit statuses of the generator whose figures hold: complete, and complete but late.
pub const GOOD: i32 = 0;
pub const LATE: i32 = 3;

/// A line of a record's `samples.jsonl`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Sample {
    pub round: u32,
    pub scenario: String,
    pub relay: String,
    /// Exit status of the generator; absent when the relay did not run.
    pub status: Option<i32>,
    pub error: String,
    /// The records of 2026-11-21 have none.
    #[serde(default)]
    pub before: Quiet,
    /// All that the generator reports.
    pub report: Option<Value>,
}

impl Sample {
    pub fn value(&self, metric: Metric) -> Option<f64> {
        self.usable().then(|| metric.of(self.report.as_ref()?))?
    }

    /// A relay that delivered something wrong has no figures.
    pub fn usable(&self) -> bool {
        matches!(self.status, Some(GOOD | LATE))
    }
}

/// Everything that stays the same over the samples of a run.
pub struct Bench {
    pub programs: Programs,
    pub certs: PathBuf,
    pub pin: String,
    pub logs: PathBuf,
    pub work: PathBuf,
    pub relay_cpu: usize,
    pub load_cpu: usize,
    pub seconds: f64,
    pub warmup_s: f64,
    /// How long the processors are watched before each sample.
    pub look: Duration,
    /// Measure on a busy machine too.
    pub anyway: bool,
}

impl Bench {
    pub fn sample(&self, round: u32, scenario: &Scenario, relay: &Relay, entry: Entry<'_>) -> Result<Sample, Error> {
        let before = Quiet::wait(&[self.relay_cpu, self.load_cpu], self.look, self.anyway)?;
        let (status, error, report) = match self.measure(scenario, relay, entry) {
            Ok(measured) => measured,
            // One relay that fails is a finding; the others are measured all the same.
            Err(err) => (None, err.to_string(), None),
        };
        let (scenario, relay) = (scenario.name.clone(), relay.name.clone());
        Ok(Sample { round, scenario, relay, status, error, before, report })
    }

    fn measure(
        &self,
        scenario: &Scenario,
        relay: &Relay,
        entry: Entry<'_>,
    ) -> Result<(Option<i32>, String, Option<Value>), Error> {
        let launch = self.launch(scenario, relay, entry)?;
        let folder = running::folder()?;
        if scenario.again {
            Running::start_in(&folder, &launch)?.wait_until_up()?;
        }
        let started = Instant::now();
        let mut running = Running::start_in(&folder, &launch)?;
        if !scenario.from_start {
            running.wait_until_up()?;
        }
        let path = self.work.join("report.json");
        let _ = fs::remove_file(&path);
        let mut command = self.load(scenario, entry, &running, &path)?;
        let scrapes = (scenario.scrapes > 0).then(|| Scraper::start(running.admin(), scenario.scrapes));
        let ahead = started.elapsed();
        let output = command.output().map_err(|source| Error::Start {
            program: "derpring-loadgen".into(),
            source,
            advice: "is it there, and is taskset of util-linux installed?",
        })?;
        running.check()?;
        scrapes.map_or(Ok(()), Scraper::stop)?;
        let text = fs::read_to_string(&path).ok();
        let mut report: Option<Value> = match text.map(|text| serde_json::from_str(&text)) {
            Some(Ok(report)) => Some(report),
            Some(Err(err)) => return Err(Error::Output("the generator's report", err.to_string())),
            None => None,
        };
        if scenario.from_start {
            count_from_start(&mut report, ahead);
        }
        let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Ok((output.status.code(), error, report))
    }

    pub fn launch<'a>(&'a self, scenario: &Scenario, relay: &'a Relay, entry: Entry<'a>) -> Result<Launch<'a>, Error> {
        Ok(Launch {
            program: self.programs.need(&relay.program)?,
            entry,
            env: relay.env.clone().into_iter().chain(scenario.env.clone()).collect(),
            workers: scenario.workers,
            certs: &self.certs,
            log: &self.logs,
            cpus: if scenario.pinned { vec![self.relay_cpu] } else { vec![self.relay_cpu, self.load_cpu] },
        })
    }

    /// The generator, ready to start.
    pub fn load(
        &self,
        scenario: &Scenario,
        entry: Entry<'_>,
        relay: &Running,
        report: &Path,
    ) -> Result<Command, Error> {
        let program = self.programs.need("loadgen")?;
        let cpus = if scenario.pinned { vec![] } else { vec![self.relay_cpu, self.load_cpu] };
        let mut command = running::pinned(&cpus, program);
        let scheme = if entry.tls { "https" } else { "http" };
        command.args(["--url", &format!("{scheme}://{}/derp", relay.address)]);
        if entry.tls {
            command.args(["--server-name", HOST, "--pin", &self.pin]);
        }
        let seconds = scenario.seconds.map_or(self.seconds, |own| own.min(self.seconds));
        command.args(["--duration", &format!("{seconds}s")]);
        command.args(["--warmup", &format!("{}s", scenario.warmup_s.unwrap_or(self.warmup_s))]);
        command.args(["--relay-pid", &relay.pid().to_string()]).arg("--json").arg(report);
        if scenario.pinned {
            command.args(["--cpu", &self.load_cpu.to_string()]);
        }
        command.args(scenario.load_flags());
        Ok(command)
    }
}

/// The generator counts from its first attempt to connect: what passed before it was started comes on top.
fn count_from_start(report: &mut Option<Value>, ahead: Duration) {
    if let Some(report) = report
        && let Some(first) = Metric::FirstPacket.of(report)
    {
        report["first_packet_ms"] = json!(first + 1e3 * ahead.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_packet_counts_from_the_relays_start() {
        let mut report = Some(json!({ "first_packet_ms": 10.0 }));
        count_from_start(&mut report, Duration::from_millis(5));
        assert_eq!(Metric::FirstPacket.of(report.as_ref().unwrap()), Some(15.0));
        let mut without = Some(json!({}));
        count_from_start(&mut without, Duration::from_millis(5));
        assert_eq!(without, Some(json!({})));
    }

    #[test]
    fn a_wrong_packet_leaves_no_figures() {
        let before = Quiet { load_average: 0.0, idle: Vec::new() };
        let report = Some(json!({ "packets": { "loss": 0.5 } }));
        let (scenario, relay, error) = Default::default();
        let mut sample = Sample { round: 1, scenario, relay, status: Some(GOOD), error, before, report };
        assert_eq!(sample.value(Metric::Loss), Some(50.0));
        sample.status = Some(LATE);
        assert_eq!(sample.value(Metric::Loss), Some(50.0));
        sample.status = Some(2);
        assert_eq!(sample.value(Metric::Loss), None);
    }
}
