//! A process as the kernel accounts for it.

use std::fs;
use std::io;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// Totals since the process began; memory is what it is now.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// User and system time of all threads, those that have ended included.
    pub cpu_ns: u64,
    pub rss_bytes: u64,
    pub peak_rss_bytes: u64,
    /// Context switches of the threads that live.
    pub voluntary_switches: u64,
    pub involuntary_switches: u64,
}

impl Sample {
    pub fn of(pid: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let mut sample = Self {
            cpu_ns: cpu_ns(&stat, rustix::param::clock_ticks_per_second()).ok_or_else(unreadable)?,
            rss_bytes: 1024 * field(&status, "VmRSS:").ok_or_else(ended)?,
            peak_rss_bytes: 1024 * field(&status, "VmHWM:").ok_or_else(ended)?,
            ..Self::default()
        };
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread may end while we look.
            let Ok(status) = fs::read_to_string(task?.path().join("status")) else {
                continue;
            };
            sample.voluntary_switches += field(&status, "voluntary_ctxt_switches:").unwrap_or(0);
            sample.involuntary_switches += field(&status, "nonvoluntary_ctxt_switches:").unwrap_or(0);
        }
        Ok(sample)
    }
}

impl AddAssign for Sample {
    fn add_assign(&mut self, other: Self) {
        self.cpu_ns += other.cpu_ns;
        self.rss_bytes += other.rss_bytes;
        self.peak_rss_bytes += other.peak_rss_bytes;
        self.voluntary_switches += other.voluntary_switches;
        self.involuntary_switches += other.involuntary_switches;
    }
}

/// A thread and its user and system time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Thread {
    pub id: u32,
    pub name: String,
    pub cpu_ns: u64,
}

/// The threads that live now.
pub fn threads(pid: u32) -> io::Result<Vec<Thread>> {
    let ticks = rustix::param::clock_ticks_per_second();
    let mut threads = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end while we look.
        let Ok(stat) = fs::read_to_string(task?.path().join("stat")) else {
            continue;
        };
        threads.push(thread(&stat, ticks).ok_or_else(unreadable)?);
    }
    Ok(threads)
}

fn thread(stat: &str, ticks_per_second: u64) -> Option<Thread> {
    let (id, rest) = stat.split_once(" (")?;
    let (name, _) = rest.rsplit_once(')')?;
    Some(Thread { id: id.parse().ok()?, name: name.into(), cpu_ns: cpu_ns(stat, ticks_per_second)? })
}

/// From its exit until it is asked how it ended, a process is listed and has no memory.
fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "it has ended, and who started it has not asked how")
}

fn unreadable() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "/proc is not as expected")
}

/// Fields 14 and 15. The second field is the name in brackets, which may hold spaces and brackets.
fn cpu_ns(stat: &str, ticks_per_second: u64) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) * (1_000_000_000 / ticks_per_second))
}

fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_system_time_behind_any_name() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 3 0 1 2 3";
        assert_eq!(cpu_ns(stat, 100), Some(3_000_000_000));
        assert_eq!(cpu_ns("7 (x) S 1", 100), None);
        let named = Thread { id: 7, name: "a b) c".into(), cpu_ns: 3_000_000_000 };
        assert_eq!(thread(stat, 100), Some(named));
    }

    #[test]
    fn fields_by_whole_name() {
        let status =
            "VmHWM:\t  200 kB\nVmRSS:\t  100 kB\nvoluntary_ctxt_switches:\t5\nnonvoluntary_ctxt_switches:\t3\n";
        assert_eq!(field(status, "VmRSS:"), Some(100));
        assert_eq!(field(status, "voluntary_ctxt_switches:"), Some(5));
        assert_eq!(field(status, "VmSwap:"), None);
    }

    #[test]
    fn our_own_process_can_be_read() {
        let sample = Sample::of(std::process::id()).unwrap();
        assert!(sample.rss_bytes > 0 && sample.peak_rss_bytes >= sample.rss_bytes);
        assert!(threads(std::process::id()).unwrap().iter().any(|thread| thread.id == std::process::id()));
    }

    #[test]
    fn a_process_that_has_ended_is_said_to_have() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        let err = loop {
            match Sample::of(pid) {
                Ok(_) => std::thread::yield_now(),
                Err(err) => break err,
            }
        };
        child.wait().unwrap();
        assert_eq!(err.kind(), io::ErrorKind::NotFound);
        assert!(err.to_string().contains("has ended"), "{err}");
    }
}
