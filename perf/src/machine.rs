//! The machine: what it is, and whether it is quiet.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Below this share of idle time of a processor a sample on it is not ours alone.
pub const QUIET: f64 = 0.9;

#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    pub processor: String,
    pub processors: usize,
    pub memory_mib: u64,
    pub kernel: String,
    pub load_at_start: f64,
}

impl Machine {
    pub fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let kib: u64 = memory.split(' ').next().and_then(|kib| kib.parse().ok()).unwrap_or(0);
        Self {
            processor: field(&read("/proc/cpuinfo"), "model name"),
            processors: thread::available_parallelism().map_or(0, usize::from),
            memory_mib: kib / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_at_start: load_average(),
        }
    }
}

pub fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

/// What else ran just before a sample.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Quiet {
    pub load_average: f64,
    /// Processor and the share of the time in which it had nothing to do.
    pub idle: Vec<(usize, f64)>,
}

impl Quiet {
    pub fn look(cpus: &[usize], time: Duration) -> Result<Self, Error> {
        let path = "/proc/stat";
        let before = fs::read_to_string(path).map_err(Error::file(path))?;
        thread::sleep(time);
        let after = fs::read_to_string(path).map_err(Error::file(path))?;
        let idle = cpus.iter().map(|cpu| {
            let share = idle_share(&before, &after, *cpu).ok_or_else(|| {
                Error::Config(format!("there is no processor {cpu}: choose with --relay-cpu and --load-cpu"))
            })?;
            Ok((*cpu, share))
        });
        Ok(Self { load_average: load_average(), idle: idle.collect::<Result<_, Error>>()? })
    }

    /// Looks until the processors are quiet, or once if they need not be.
    ///
    /// # Errors
    /// Something else goes on using one.
    pub fn wait(cpus: &[usize], look: Duration, anyway: bool) -> Result<Self, Error> {
        const TRIES: usize = 10;
        for _ in 1..TRIES {
            let quiet = Self::look(cpus, look)?;
            if anyway || quiet.busy().is_none() {
                return Ok(quiet);
            }
        }
        let quiet = Self::look(cpus, look)?;
        match quiet.busy() {
            Some((cpu, share)) => Err(Error::Busy { cpu, idle: 100.0 * share }),
            None => Ok(quiet),
        }
    }

    /// The first processor that is not quiet.
    pub fn busy(&self) -> Option<(usize, f64)> {
        self.idle.iter().copied().find(|(_, share)| *share < QUIET)
    }
}

/// Of the time between two readings of /proc/stat. Time stolen by the hypervisor is not idle.
fn idle_share(before: &str, after: &str, cpu: usize) -> Option<f64> {
    let read = |text: &str| {
        let name = format!("cpu{cpu} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name))?;
        let times: Vec<u64> = line.split_whitespace().take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
        Some((times.get(3)? + times.get(4)?, times.iter().sum::<u64>()))
    };
    let ((idle_before, all_before), (idle, all)) = (read(before)?, read(after)?);
    let passed = all.saturating_sub(all_before);
    // Without a tick between the readings nothing is known against it.
    Some(if passed == 0 { 1.0 } else { idle.saturating_sub(idle_before) as f64 / passed as f64 })
}

/// What a program says of its version; Go programs are asked through `go`.
pub fn version(program: &Path, go: bool) -> String {
    let output = if go {
        Command::new("go").args(["version", "-m"]).arg(program).output()
    } else {
        Command::new(program).arg("--version").output()
    };
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    if !go {
        return text.trim().to_owned();
    }
    let module = text.lines().find_map(|line| line.trim().strip_prefix("mod\t"));
    let module = module.map(|line| line.split('\t').take(2).collect::<Vec<_>>().join(" ")).unwrap_or_default();
    let compiler = text.lines().next().and_then(|line| line.rsplit(": ").next()).unwrap_or_default();
    format!("{module}, {compiler}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "cpu  1 1 1 1 1 1 1 1 0 0\ncpu0 10 0 10 100 5 0 0 0 0 0\ncpu1 0 0 0 100 0 0 0 0 0 0\n";
    const AFTER: &str = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 35 0 10 160 10 0 0 10 0 0\ncpu1 0 0 0 200 0 0 0 0 0 0\n";

    #[test]
    fn idle_time_of_one_processor() {
        // 25 of user, 60 idle, 5 waiting, 10 stolen.
        assert_eq!(idle_share(BEFORE, AFTER, 0), Some(0.65));
        assert_eq!(idle_share(BEFORE, AFTER, 1), Some(1.0));
        assert_eq!(idle_share(BEFORE, BEFORE, 0), Some(1.0));
        assert_eq!(idle_share(BEFORE, AFTER, 2), None);
    }

    #[test]
    fn one_busy_processor_is_named() {
        let quiet = Quiet { load_average: 0.0, idle: vec![(0, 0.95), (1, 0.5)] };
        assert_eq!(quiet.busy(), Some((1, 0.5)));
        assert_eq!(Quiet { idle: vec![(0, QUIET)], ..quiet }.busy(), None);
    }

    #[test]
    fn this_machine_can_be_read() {
        let machine = Machine::here();
        assert!(machine.processors > 0 && machine.memory_mib > 0 && !machine.kernel.is_empty());
        assert!(Quiet::look(&[99_999], Duration::ZERO).is_err());
    }
}
