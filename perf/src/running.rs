//! A relay that runs, and a generator beside it.

use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::rc::Rc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::certificate::HOST;
use crate::config::Entry;
use crate::error::Error;

const START_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// What a relay's command needs to know.
pub struct Launch<'a> {
    pub program: &'a Path,
    pub entry: Entry<'a>,
    pub env: Vec<(String, String)>,
    pub workers: u16,
    pub certs: &'a Path,
    pub log: &'a Path,
    /// Where it may run; anywhere if empty.
    pub cpus: Vec<usize>,
}

/// Ends with this value.
pub struct Running {
    process: Child,
    pub address: SocketAddr,
    /// What the relay keeps on disk.
    folder: Rc<TempDir>,
}

impl Running {
    pub fn start(launch: &Launch<'_>) -> Result<Self, Error> {
        Self::start_in(&folder()?, launch)
    }

    /// In a folder where it may have run before.
    pub fn start_in(folder: &Rc<TempDir>, launch: &Launch<'_>) -> Result<Self, Error> {
        let port = free_port().map_err(Error::file("a free port"))?;
        let words = words(launch, port, folder.path());
        let mut command = pinned(&launch.cpus, launch.program);
        command.args(words).envs(launch.env.iter().map(|(name, value)| (name, value)));
        let log = open_log(launch.log)?;
        let error_log = log.try_clone().map_err(Error::file(launch.log))?;
        command.stdin(Stdio::null()).stdout(log).stderr(error_log);
        let process = command.spawn().map_err(|source| Error::Start {
            program: launch.program.display().to_string(),
            source,
            advice: "is it there, and is taskset of util-linux installed?",
        })?;
        Ok(Self { process, address: (Ipv4Addr::LOCALHOST, port).into(), folder: Rc::clone(folder) })
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Where it tells its metrics, if it does.
    pub fn admin(&self) -> PathBuf {
        self.folder.path().join("admin")
    }

    /// Until it accepts connections.
    pub fn wait_until_up(&mut self) -> Result<(), Error> {
        let end = Instant::now() + START_LIMIT;
        while Instant::now() < end {
            if let Ok(Some(status)) = self.process.try_wait() {
                return Err(Error::Relay(format!("the relay ended at its start ({status}): see its log")));
            }
            if TcpStream::connect_timeout(&self.address, Duration::from_secs(1)).is_ok() {
                // What this look leaves behind is no part of a measurement.
                sleep(Duration::from_millis(200));
                return Ok(());
            }
            sleep(Duration::from_millis(10));
        }
        Err(Error::Relay(format!("the relay does not listen after {} s: see its log", START_LIMIT.as_secs())))
    }

    /// Whether it is still there.
    pub fn check(&mut self) -> Result<(), Error> {
        match self.process.try_wait() {
            Ok(Some(status)) => Err(Error::Relay(format!("the relay ended under load ({status}): see its log"))),
            _ => Ok(()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let end = Instant::now() + STOP_LIMIT;
        while Instant::now() < end {
            if !matches!(self.process.try_wait(), Ok(None)) {
                return;
            }
            sleep(Duration::from_millis(5));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A new folder for what a relay keeps on disk.
pub fn folder() -> Result<Rc<TempDir>, Error> {
    Ok(Rc::new(TempDir::new().map_err(Error::file("the folder for temporary files"))?))
}

/// A command that runs on these processors only. taskset becomes the program: the process is the one that we started.
pub fn pinned(cpus: &[usize], program: &Path) -> Command {
    if cpus.is_empty() {
        return Command::new(program);
    }
    let list: Vec<String> = cpus.iter().map(usize::to_string).collect();
    let mut command = Command::new("taskset");
    command.args(["-c", &list.join(",")]).arg(program);
    command
}

/// Runs a command to its end and fails when it fails.
pub fn run(what: &str, command: &mut Command, advice: &'static str) -> Result<Output, Error> {
    let output = command.output().map_err(|source| Error::Start { program: what.to_owned(), source, advice })?;
    if output.status.success() {
        return Ok(output);
    }
    let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Command { what: what.to_owned(), status: output.status.to_string(), stderr })
}

/// Cut before anything is filled in: a path with a space stays one word.
fn words(launch: &Launch<'_>, port: u16, folder: &Path) -> Vec<String> {
    let fill = |word: &str| {
        word.replace("{port}", &port.to_string())
            .replace("{host}", HOST)
            .replace("{workers}", &launch.workers.to_string())
            .replace("{certs}", &launch.certs.to_string_lossy())
            .replace("{dir}", &folder.to_string_lossy())
    };
    launch.entry.command.split_whitespace().map(fill).collect()
}

fn open_log(path: &Path) -> Result<File, Error> {
    OpenOptions::new().create(true).append(true).open(path).map_err(Error::file(path))
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_filled_in_word_by_word() {
        let launch = Launch {
            program: Path::new("relay"),
            entry: Entry { command: "-a {port}\n  --empty= -d {dir}/key {host} {workers} {certs}", tls: true },
            env: Vec::new(),
            workers: 2,
            certs: Path::new("c d"),
            log: Path::new("log"),
            cpus: vec![0],
        };
        let words = words(&launch, 80, Path::new("a b"));
        assert_eq!(words, ["-a", "80", "--empty=", "-d", "a b/key", HOST, "2", "c d"]);
    }

    #[test]
    fn a_relay_that_ends_at_once_is_reported() {
        let folder = TempDir::new().unwrap();
        let launch = Launch {
            program: Path::new("false"),
            entry: Entry { command: "", tls: false },
            env: Vec::new(),
            workers: 1,
            certs: Path::new("."),
            log: &folder.path().join("log"),
            cpus: Vec::new(),
        };
        let mut running = Running::start(&launch).unwrap();
        let err = running.wait_until_up().unwrap_err().to_string();
        assert!(err.contains("ended at its start"), "{err}");
    }

    #[test]
    fn a_failed_command_says_what_it_said() {
        let err = run("sh", Command::new("sh").args(["-c", "echo no good >&2; exit 3"]), "").unwrap_err().to_string();
        assert!(err.contains("no good") && err.contains('3'), "{err}");
        let err = run("x", &mut Command::new("no-such-program-anywhere"), "install it").unwrap_err().to_string();
        assert!(err.contains("install it"), "{err}");
    }
}
