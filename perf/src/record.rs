//! The folder that a published figure is.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;
use time::OffsetDateTime;

use crate::config::{Relay, Scenario};
use crate::error::Error;
use crate::machine::Machine;
use crate::programs::workspace;
use crate::sample::Sample;

/// What shaped the figures. Paths did not, and are not in it.
#[derive(Clone, Debug, Serialize)]
pub struct RunInfo {
    pub date: String,
    pub commit: String,
    pub machine: Machine,
    pub rounds: u32,
    pub seconds: f64,
    pub warmup_s: f64,
    pub relay_cpu: usize,
    pub load_cpu: usize,
    /// Of the generator and of each relay that took part.
    pub versions: Vec<(String, String)>,
    /// Who did not, and why.
    pub missing: Vec<(String, String)>,
    pub relays: Vec<Relay>,
    pub scenarios: Vec<Scenario>,
}

pub struct Record {
    pub folder: PathBuf,
    samples: File,
}

impl Record {
    pub fn new(folder: &Path) -> Result<Self, Error> {
        fs::create_dir_all(folder.join("logs")).map_err(Error::file(folder))?;
        let path = folder.join("samples.jsonl");
        let samples = File::create(&path).map_err(Error::file(path))?;
        Ok(Self { folder: folder.to_owned(), samples })
    }

    /// Where relays of this name write their log.
    pub fn log(&self, relay: &str) -> PathBuf {
        self.folder.join("logs").join(format!("{relay}.log"))
    }

    /// At once: a run that is interrupted has the samples so far.
    pub fn add(&mut self, sample: &Sample) -> Result<(), Error> {
        let line = serde_json::to_string(sample).expect("keys are strings");
        writeln!(self.samples, "{line}").map_err(Error::file(&self.folder))
    }

    pub fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        let path = self.folder.join(name);
        fs::write(&path, text).map_err(Error::file(path))
    }

    pub fn write_info(&self, info: &RunInfo) -> Result<(), Error> {
        self.write("run.json", &(serde_json::to_string_pretty(info).expect("keys are strings") + "\n"))
    }
}

/// `perf/records/DATE-MACHINE`, with a letter when that is taken.
pub fn folder(machine: Option<&str>) -> PathBuf {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let machine = machine.map_or_else(|| format!("{cores}core"), str::to_owned);
    let stem = format!("{}-{machine}", OffsetDateTime::now_utc().date());
    free_name(&workspace().join("perf/records"), &stem)
}

fn free_name(parent: &Path, stem: &str) -> PathBuf {
    let letters = ('b'..='z').map(|letter| format!("{stem}-{letter}"));
    let mut names = std::iter::once(stem.to_owned()).chain(letters);
    names.find_map(|name| Some(parent.join(name)).filter(|path| !path.exists())).unwrap_or_else(|| parent.join(stem))
}

pub fn now() -> String {
    let now = OffsetDateTime::now_utc();
    format!("{} {:02}:{:02} UTC", now.date(), now.hour(), now.minute())
}

/// The commit of the sources, and whether they differ from it.
pub fn commit() -> String {
    let output =
        Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12"]).current_dir(workspace()).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_taken_gets_a_letter() {
        let parent = tempfile::tempdir().unwrap();
        for expected in ["day", "day-b", "day-c"] {
            let folder = free_name(parent.path(), "day");
            assert_eq!(folder, parent.path().join(expected));
            Record::new(&folder).unwrap();
        }
    }
}
