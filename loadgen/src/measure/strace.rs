//! System calls of the relay, counted by `strace -c`: needs no more rights than to trace the process.
//!
//! Tracing stops the relay at every call, so it has a short stretch of load of its own, behind what
//! is measured. A slowed relay finds more waiting at each call: the figure is a lower bound, closest
//! to the truth under a schedule that the relay keeps up with even so.

use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::process::{Child, ChildStderr, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Syscalls {
    pub calls: u64,
    /// Packets of every load that arrived meanwhile.
    pub packets: u64,
    /// Most frequent first.
    pub by_name: Vec<(String, u64)>,
}

impl Syscalls {
    pub fn per_packet(&self) -> Option<f64> {
        (self.packets > 0).then(|| self.calls as f64 / self.packets as f64)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StraceError {
    #[error("system calls were not counted: strace is not installed")]
    Missing,
    #[error("system calls were not counted: strace says {0:?} (may this user trace the relay?)")]
    Refused(String),
    #[error("system calls were not counted: strace could not be run: {0}")]
    Io(#[from] std::io::Error),
}

/// A tracer at work.
pub struct Strace {
    child: Child,
    stderr: BufReader<ChildStderr>,
}

impl Strace {
    /// Returns when every thread of the process is traced.
    pub fn attach(pid: u32) -> Result<Self, StraceError> {
        let child = Command::new("strace")
            .args(["-c", "-f", "-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(err) if err.kind() == ErrorKind::NotFound => return Err(StraceError::Missing),
            Err(err) => return Err(err.into()),
        };
        let mut stderr = BufReader::new(child.stderr.take().expect("asked for above"));
        let mut line = String::new();
        stderr.read_line(&mut line)?;
        if !line.contains("attached") {
            child.wait()?;
            return Err(StraceError::Refused(line.trim().into()));
        }
        Ok(Self { child, stderr })
    }

    /// Lets the process go on untraced.
    pub fn finish(mut self, packets: u64) -> Result<Syscalls, StraceError> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::INT).map_err(std::io::Error::from)?;
        let mut text = String::new();
        self.stderr.read_to_string(&mut text)?;
        self.child.wait()?;
        let by_name = parse(&text);
        Ok(Syscalls { calls: by_name.iter().map(|(_, calls)| calls).sum(), packets, by_name })
    }
}

/// Rows of the summary: share, seconds, microseconds per call, calls, errors if any, name.
fn parse(text: &str) -> Vec<(String, u64)> {
    let row = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (name, numbers) = fields.split_last()?;
        let is_row = matches!(numbers.len(), 4 | 5) && numbers.iter().all(|number| number.parse::<f64>().is_ok());
        (is_row && *name != "total").then(|| Some(((*name).to_owned(), numbers[3].parse().ok()?)))?
    };
    let mut rows: Vec<(String, u64)> = text.lines().filter_map(row).collect();
    rows.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_not_there_is_refused_with_a_reason() {
        // Beyond the kernel's largest process number.
        match Strace::attach(1 << 30) {
            Err(StraceError::Refused(text)) => assert!(!text.is_empty()),
            Err(StraceError::Missing) => {}
            Err(err) => panic!("{err}"),
            Ok(_) => panic!("attached to nothing"),
        }
    }

    #[test]
    fn rows_with_and_without_errors_but_not_their_sum() {
        let text = "strace: Process 7 attached\nstrace: Process 7 detached\n\
            % time     seconds  usecs/call     calls    errors syscall\n\
            ------ ----------- ----------- --------- --------- ----------------\n\
            \x2060.00    0.000600           6       100           sendmsg\n\
            \x2040.00    0.000400           2       200        20 recvfrom\n\
            ------ ----------- ----------- --------- --------- ----------------\n\
            100.00    0.001000           3       300        20 total\n";
        assert_eq!(parse(text), [("recvfrom".into(), 200), ("sendmsg".into(), 100)]);
        assert_eq!(parse(""), []);
    }
}
