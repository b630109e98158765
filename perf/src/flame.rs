//! Flame graphs: where the relay spends its time under a load. `perf` samples, inferno folds and draws.

use std::fs;
use std::io::Cursor;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use inferno::collapse::Collapse as _;
use inferno::collapse::perf::{Folder, Options as FoldOptions};
use inferno::flamegraph::{self, Options as DrawOptions};
use tempfile::TempDir;

use crate::cli::Flame;
use crate::config::{self, Entry, Relay, Scenario};
use crate::error::Error;
use crate::programs::{Programs, workspace};
use crate::record::{Record, RunInfo};
use crate::run;
use crate::running::{self, Running};
use crate::sample::Bench;

/// Samples a second. No divisor of the timer's frequency, so that sampling does not run along with it.
const FREQUENCY: &str = "499";
const PERF: &str = "install perf, or allow it: sysctl kernel.perf_event_paranoid=1";

pub fn flame(args: &Flame) -> Result<bool, Error> {
    let perf = workspace().join("perf");
    let all = config::scenarios(&perf.join("scenarios.toml"))?;
    let scenarios = config::choose(all, std::slice::from_ref(&args.scenario), false)?;
    let binaries = &args.binaries;
    let programs = Programs::ours(&[
        ("derpring", binaries.relay_bin.as_ref()),
        ("loadgen", binaries.loadgen_bin.as_ref()),
        ("floor", binaries.floor_bin.as_ref()),
    ])?;
    let work = TempDir::new().map_err(Error::file("the folder for temporary files"))?;
    run::raise_file_limit();
    let bench = run::bench(&args.measuring, programs, work.path())?;
    fs::create_dir_all(&args.out).map_err(Error::file(&args.out))?;
    for scenario in scenarios.iter().filter(|scenario| scenario.name == args.scenario) {
        for relay in config::relays(&perf.join("rivals.toml"))? {
            // Go programs have their own profiler.
            let Some(entry) = relay.entry(scenario).filter(|_| relay.go.is_none()) else { continue };
            let drawing = one(&bench, scenario, &relay, entry)?;
            let path = args.out.join(file(scenario, &relay));
            fs::write(&path, drawing).map_err(Error::file(&path))?;
            println!("written to {}", path.display());
        }
    }
    Ok(true)
}

/// Of our relays in every scenario that is pinned; returns the files and what they show. Without `perf` it says so, and
/// the run goes on.
pub fn all(bench: &Bench, info: &RunInfo, record: &Record) -> Result<Vec<(String, String)>, Error> {
    let mut out = Vec::new();
    for scenario in info.scenarios.iter().filter(|scenario| scenario.pinned && !scenario.from_start) {
        for relay in info.relays.iter().filter(|relay| relay.ours) {
            let Some(entry) = relay.entry(scenario) else { continue };
            match one(bench, scenario, relay, entry) {
                Ok(drawing) => {
                    record.write(&file(scenario, relay), &drawing)?;
                    out.push((file(scenario, relay), format!("{} under {}", relay.name, scenario.name)));
                }
                Err(err) => {
                    eprintln!("no flame graphs: {err}");
                    return Ok(out);
                }
            }
        }
    }
    Ok(out)
}

fn file(scenario: &Scenario, relay: &Relay) -> String {
    format!("flame-{}-{}.svg", scenario.name, relay.name)
}

fn one(bench: &Bench, scenario: &Scenario, relay: &Relay, entry: Entry<'_>) -> Result<String, Error> {
    let mut running = Running::start(&bench.launch(scenario, relay, entry)?)?;
    running.wait_until_up()?;
    let data = bench.work.join("perf.data");
    let recorder = Recorder::start(running.pid(), &data)?;
    let mut load = bench.load(scenario, entry, &running, &bench.work.join("flame.json"))?;
    running::run("derpring-loadgen", &mut load, "build it")?;
    recorder.stop(&data)?;
    running.check()?;
    let mut script = Command::new("perf");
    // Names of inlined functions cost minutes of symbolization.
    script.args(["script", "--no-inline", "-i"]).arg(&data);
    let stacks = running::run("perf script", &mut script, PERF)?.stdout;
    draw(&stacks, &format!("{} under {}", relay.name, scenario.name))
}

struct Recorder(Child);

impl Recorder {
    fn start(pid: u32, data: &Path) -> Result<Self, Error> {
        let child = Command::new("perf")
            .args(["record", "--quiet", "-F", FREQUENCY, "--call-graph", "dwarf,8192", "-p", &pid.to_string(), "-o"])
            .arg(data)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let child = child.map_err(|source| Error::Start { program: "perf".into(), source, advice: PERF })?;
        Ok(Self(child))
    }

    /// It ends on SIGINT, and only then has written everything.
    fn stop(self, data: &Path) -> Result<(), Error> {
        let pid = i32::try_from(self.0.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        }
        let output = self.0.wait_with_output().map_err(Error::file(data))?;
        if data.exists() {
            return Ok(());
        }
        let stderr = format!("{} ({PERF})", String::from_utf8_lossy(&output.stderr).trim());
        Err(Error::Command { what: "perf record".into(), status: output.status.to_string(), stderr })
    }
}

/// From what `perf script` prints to an SVG.
fn draw(stacks: &[u8], title: &str) -> Result<String, Error> {
    let broken = |err: &dyn std::fmt::Display| Error::Output("what perf recorded", err.to_string());
    let mut folded = Vec::new();
    Folder::from(FoldOptions::default()).collapse(Cursor::new(stacks), &mut folded).map_err(|err| broken(&err))?;
    let folded = String::from_utf8_lossy(&folded).into_owned();
    if folded.is_empty() {
        return Err(broken(&"no stack was sampled: was there any load?"));
    }
    let mut options = DrawOptions::default();
    title.clone_into(&mut options.title);
    let mut drawing = Vec::new();
    flamegraph::from_lines(&mut options, folded.lines(), &mut drawing).map_err(|err| broken(&err))?;
    Ok(String::from_utf8_lossy(&drawing).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_become_a_drawing() {
        let stacks = b"worker-0  10/11  1.000001:     250000 cycles:\n\
            \t    55d0 relay::turn+0x10 (relay)\n\
            \t    55c0 relay::run+0x20 (relay)\n\n";
        let drawing = draw(stacks, "a & b").unwrap();
        assert!(drawing.contains("relay::turn") && drawing.contains("a &amp; b"), "{drawing}");
        let err = draw(b"", "nothing").unwrap_err().to_string();
        assert!(err.contains("no stack was sampled"), "{err}");
    }
}
