//! Interleaved rounds: a round takes every scenario, and in it every relay in turn, each freshly started. What the
//! machine does over time meets all of them alike.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;

use crate::cli::{Measuring, Run};
use crate::config::{self, Relay, Scenario};
use crate::error::Error;
use crate::machine::{Machine, Quiet, version};
use crate::metric::Metric;
use crate::plot::{self, Row};
use crate::programs::{Programs, workspace};
use crate::record::{self, Record, RunInfo};
use crate::sample::{Bench, Sample};
use crate::summary::{self, Summary};
use crate::{certificate, flame};

pub fn run(args: &Run) -> Result<bool, Error> {
    let perf = workspace().join("perf");
    let scenarios = config::scenarios(&perf.join("scenarios.toml"))?;
    let scenarios = config::choose(scenarios, &args.scenarios, args.measuring.quick)?;
    let relays = config::relays(&perf.join("rivals.toml"))?;
    let binaries = &args.binaries;
    let mut programs = Programs::ours(&[
        ("derpring", binaries.relay_bin.as_ref()),
        ("loadgen", binaries.loadgen_bin.as_ref()),
        ("floor", binaries.floor_bin.as_ref()),
    ])?;
    let missing = programs.add_rivals(&relays, &args.rivals)?;
    let relays: Vec<Relay> = relays.into_iter().filter(|r| missing.iter().all(|(name, _)| *name != r.name)).collect();
    let folder = args.record.out.clone().unwrap_or_else(|| record::folder(args.record.machine.as_deref()));
    let references = |relay: &str| {
        let all = ["derper", "floor"].into_iter().filter(|reference| *reference != relay);
        all.map(str::to_owned).collect()
    };
    let table =
        Table { measuring: &args.measuring, scenarios, relays, missing, references: &references, builds: Vec::new() };
    let flame = args.flame;
    measure(table, programs, &folder, flame)
}

/// What is measured, and how it is held against each other.
pub struct Table<'a> {
    pub measuring: &'a Measuring,
    pub scenarios: Vec<Scenario>,
    pub relays: Vec<Relay>,
    pub missing: Vec<(String, String)>,
    pub references: &'a dyn Fn(&str) -> Vec<String>,
    /// What a program's version does not say, by the program's name.
    pub builds: Vec<(String, String)>,
}

/// Returns whether every sample has figures.
pub fn measure(table: Table<'_>, programs: Programs, folder: &Path, flame: bool) -> Result<bool, Error> {
    raise_file_limit();
    for (name, why) in &table.missing {
        eprintln!("\n*** {name} IS MISSING FROM THIS RUN: {why}\n");
    }
    let work = TempDir::new().map_err(Error::file("the folder for temporary files"))?;
    let mut bench = bench(table.measuring, programs, work.path())?;
    refuse_when_busy(&bench)?;
    let info = info(&table, &bench);
    let mut record = Record::new(folder)?;
    record.write_info(&info)?;
    let mut samples = Vec::new();
    // A run that stops half-way has a summary of what there is.
    let done = rounds(&mut bench, &info, &mut record, &mut samples);
    let mut plots = draw(&record, &info, &samples, table.references)?;
    if flame && done.is_ok() {
        plots.extend(flame::all(&bench, &info, &record)?);
    }
    let text = Summary { info: &info, samples: &samples, references: table.references, plots: &plots }.markdown();
    record.write("summary.md", &text)?;
    println!("\n{text}\nwritten to {}", record.folder.display());
    done?;
    Ok(samples.iter().all(Sample::usable))
}

/// Each round begins with another relay: whoever always came behind the same one would inherit what that leaves of the
/// machine. With one order for all rounds, one of our starts took 55 ms and the other 12; with this 31 and 30.
fn rounds(bench: &mut Bench, info: &RunInfo, record: &mut Record, samples: &mut Vec<Sample>) -> Result<(), Error> {
    for round in 1..=info.rounds {
        let mut relays: Vec<_> = info.relays.iter().collect();
        relays.rotate_left((round as usize - 1) % info.relays.len().max(1));
        for scenario in &info.scenarios {
            for relay in &relays {
                let Some(entry) = relay.entry(scenario) else { continue };
                bench.logs = record.log(&relay.name);
                let sample = bench.sample(round, scenario, relay, entry)?;
                println!("{}", summary::line(&sample));
                record.add(&sample)?;
                samples.push(sample);
            }
        }
    }
    Ok(())
}

pub fn bench(measuring: &Measuring, programs: Programs, work: &Path) -> Result<Bench, Error> {
    let certs = work.join("certs");
    fs::create_dir_all(&certs).map_err(Error::file(&certs))?;
    Ok(Bench {
        programs,
        pin: certificate::make(&certs)?,
        certs,
        logs: work.join("relay.log"),
        work: work.to_owned(),
        relay_cpu: measuring.relay_cpu,
        load_cpu: measuring.load_cpu,
        seconds: measuring.seconds(),
        warmup_s: measuring.warmup(),
        look: Duration::from_secs_f64(measuring.look()),
        anyway: measuring.anyway,
    })
}

/// Ten thousand clients are ten thousand descriptors, at both ends; what is started inherits the limit.
pub fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(err) = setrlimit(Resource::Nofile, raised) {
        eprintln!("the limit on open files stays as it is ({err}): scenarios with many clients may fail");
    }
}

/// Before anything is written: whoever is refused has lost nothing.
pub fn refuse_when_busy(bench: &Bench) -> Result<(), Error> {
    let quiet = Quiet::look(&[bench.relay_cpu, bench.load_cpu], bench.look)?;
    match quiet.busy() {
        Some((cpu, share)) if !bench.anyway => Err(Error::Busy { cpu, idle: 100.0 * share }),
        Some((cpu, share)) => {
            let idle = 100.0 * share;
            eprintln!("\n*** PROCESSOR {cpu} IS BUSY ({idle:.0} % idle): these figures are of a shared machine\n");
            Ok(())
        }
        None => Ok(()),
    }
}

fn info(table: &Table<'_>, bench: &Bench) -> RunInfo {
    let mut versions = Vec::new();
    if let Some(loadgen) = bench.programs.get("loadgen") {
        versions.push(("generator".to_owned(), version(loadgen, false)));
    }
    for relay in &table.relays {
        if let Some(program) = bench.programs.get(&relay.program) {
            let build = table.builds.iter().find(|(name, _)| *name == relay.program);
            let build = build.map(|(_, build)| format!(", {build}")).unwrap_or_default();
            versions.push((relay.name.clone(), version(program, relay.go.is_some()) + &build));
        }
    }
    RunInfo {
        date: record::now(),
        commit: record::commit(),
        machine: Machine::here(),
        rounds: table.measuring.rounds(),
        seconds: bench.seconds,
        warmup_s: bench.warmup_s,
        relay_cpu: bench.relay_cpu,
        load_cpu: bench.load_cpu,
        versions,
        missing: table.missing.clone(),
        relays: table.relays.clone(),
        scenarios: table.scenarios.clone(),
    }
}

/// One drawing per relay that goals are ratios to.
fn draw(
    record: &Record,
    info: &RunInfo,
    samples: &[Sample],
    references: &dyn Fn(&str) -> Vec<String>,
) -> Result<Vec<(String, String)>, Error> {
    let standings = Summary { info, samples, references, plots: &[] }.standings();
    let mut plots = Vec::new();
    for reference in ["derper", "floor"] {
        let rows: Vec<Row> = standings
            .iter()
            .filter(|standing| standing.to.as_deref() == Some(reference))
            .filter_map(|standing| {
                let metric = if standing.metric == Metric::CpuPerPacket { "" } else { standing.metric.title() };
                let label = format!("{} {metric} {}", standing.scenario, standing.relay);
                let label = label.split_whitespace().collect::<Vec<_>>().join(" ");
                Some(Row { label, spread: standing.measured?, goal: standing.bound, met: standing.met? })
            })
            .collect();
        if !rows.is_empty() {
            let title = format!("Ratio to {reference} (CPU per packet unless said), with the goal");
            let file = format!("to-{reference}.svg");
            record.write(&file, &plot::svg(&title, &rows))?;
            plots.push((file, title));
        }
    }
    Ok(plots)
}
