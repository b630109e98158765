//! System calls of the worker per packet: a real relay under the generator, its worker's thread under strace.
//!
//! strace makes each call slower, so that more waits for the next one; but how much may be on its way is bounded by
//! the generator's window, and the shape stays the same on every machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::certificate::{self, HOST};
use crate::config::{self, Relay, Scenario};
use crate::error::Error;
use crate::programs::{Programs, workspace};
use crate::running::{self, Launch, Running};

const STRACE: &str = "install strace, and allow it to trace (kernel.yama.ptrace_scope below 2)";
const ATTACH_LIMIT: Duration = Duration::from_secs(20);

/// The first flag is the relay's name in rivals.toml; the others are the generator's.
pub fn per_packet(programs: &Programs, flags: &[&str], work: &Path) -> Result<f64, Error> {
    let [name, load @ ..] = flags else {
        return Err(Error::Config("a budget of system calls begins with the relay's name".into()));
    };
    let relays = config::relays(&workspace().join("perf/rivals.toml"))?;
    let relay = relays.iter().find(|relay| relay.name == *name);
    let relay = relay.ok_or_else(|| Error::Config(format!("there is no relay {name} in rivals.toml")))?;
    let pin = certificate::make(work)?;
    let mut running = start(programs, relay, work)?;
    running.wait_until_up()?;
    let report = work.join("report.json");
    let strace = Strace::attach(worker(running.pid())?, work.join("strace.out"))?;
    let mut command = Command::new(programs.need("loadgen")?);
    command.args(["--url", &format!("https://{}/derp", running.address), "--server-name", HOST, "--pin", &pin]);
    // Without a warm-up every packet is one that is counted.
    command.args(["--warmup", "0s", "--duration", "2s"]).arg("--json").arg(&report).args(load);
    running::run("derpring-loadgen", &mut command, "build it")?;
    let calls = strace.finish()?;
    let packets = arrived(&report)?;
    Ok(calls as f64 / packets as f64)
}

fn start(programs: &Programs, relay: &Relay, work: &Path) -> Result<Running, Error> {
    let text = "name = \"\"\nshows = \"\"\nload = \"\"";
    let scenario: Scenario = toml::from_str(text).expect("a scenario needs no more");
    let entry = relay.entry(&scenario).ok_or_else(|| Error::Config(format!("{} has no TLS", relay.name)))?;
    Running::start(&Launch {
        program: programs.need(&relay.program)?,
        entry,
        env: Vec::new(),
        workers: 1,
        certs: work,
        log: &work.join("relay.log"),
        cpus: Vec::new(),
    })
}

fn worker(pid: u32) -> Result<u32, Error> {
    let path = format!("/proc/{pid}/task");
    for task in fs::read_dir(&path).map_err(Error::file(&path))? {
        let task = task.map_err(Error::file(&path))?;
        let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        if name.starts_with("worker-")
            && let Ok(thread) = task.file_name().to_string_lossy().parse()
        {
            return Ok(thread);
        }
    }
    Err(Error::Relay("the relay has no thread whose name begins with worker-".into()))
}

struct Strace {
    process: Child,
    out: PathBuf,
}

impl Strace {
    /// Returns once the thread is traced.
    fn attach(thread: u32, out: PathBuf) -> Result<Self, Error> {
        let process = Command::new("strace")
            .args(["-c", "-p", &thread.to_string(), "-o"])
            .arg(&out)
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| Error::Start { program: "strace".into(), source, advice: STRACE })?;
        let strace = Self { process, out };
        let path = format!("/proc/{thread}/status");
        let end = Instant::now() + ATTACH_LIMIT;
        while Instant::now() < end {
            let status = fs::read_to_string(&path).unwrap_or_default();
            if status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0")) {
                return Ok(strace);
            }
            sleep(Duration::from_millis(10));
        }
        Err(Error::Relay(format!("strace does not attach to the worker: {STRACE}")))
    }

    /// Lets go of the thread; the number of its calls.
    fn finish(mut self) -> Result<u64, Error> {
        if let Some(pid) = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::INT);
        }
        self.process.wait().map_err(Error::file(&self.out))?;
        let text = fs::read_to_string(&self.out).map_err(Error::file(&self.out))?;
        total(&text).ok_or_else(|| Error::Output("strace's table", format!("it has no total:\n{text}")))
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The fourth column of the last line; a fifth counts errors and may be empty.
fn total(table: &str) -> Option<u64> {
    let line = table.lines().find(|line| line.trim_end().ends_with(" total"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

fn arrived(report: &Path) -> Result<u64, Error> {
    let text = fs::read_to_string(report).map_err(Error::file(report))?;
    let report: Option<Value> = serde_json::from_str(&text).ok();
    let arrived = report.and_then(|report| report.pointer("/packets/arrived")?.as_u64());
    let none = || Error::Output("the generator's report", "no packet arrived".into());
    arrived.filter(|arrived| *arrived > 0).ok_or_else(none)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_the_fourth_column() {
        let table = "% time     seconds  usecs/call     calls    errors syscall\n\
                     ------ ----------- ----------- --------- --------- ----------------\n \
                     60.00    0.010000           2      5000        12 sendto\n\
                     ------ ----------- ----------- --------- --------- ----------------\n\
                     100.00    0.020000           2      9876        12 total\n";
        assert_eq!(total(table), Some(9876));
        assert_eq!(total("100.00    0.02    2    7    total"), Some(7));
        assert_eq!(total(""), None);
    }

    #[test]
    fn a_process_without_workers_is_refused() {
        let err = worker(std::process::id()).unwrap_err().to_string();
        assert!(err.contains("worker-"), "{err}");
    }
}
