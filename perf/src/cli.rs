//! Flags.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// The performance lab: relays side by side on one machine, and what they may cost.
#[derive(Debug, Parser)]
#[command(name = "derpring-perf", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure the relay beside its rivals, and write a record
    Run(Run),
    /// Measure two builds of the relay beside each other
    Compare(Compare),
    /// Check what can be counted against perf/budgets.toml
    Budgets(Budgets),
    /// Draw where the relay spends its time in one scenario
    Flame(Flame),
    /// Latency over the rounds of several records together
    Pool(Pool),
    /// What this machine does to a queue without a relay
    Stalls(Stalls),
}

#[derive(Args, Debug)]
pub struct Run {
    /// Scenarios, by their names in perf/scenarios.toml [default: all]
    pub scenarios: Vec<String>,
    /// Programs of rivals, instead of installing them
    #[arg(long = "rival", value_name = "PROGRAM=PATH", value_parser = pair)]
    pub rivals: Vec<(String, PathBuf)>,
    /// Flame graphs of our relays, kept with the record
    #[arg(long)]
    pub flame: bool,
    #[command(flatten)]
    pub binaries: Binaries,
    #[command(flatten)]
    pub measuring: Measuring,
    #[command(flatten)]
    pub record: RecordFlags,
}

#[derive(Args, Debug)]
pub struct Compare {
    /// A program, or a git revision that is built for it
    pub old: String,
    pub new: String,
    /// Scenarios, by their names in perf/scenarios.toml [default: all]
    pub scenarios: Vec<String>,
    /// The generator, instead of building it
    #[arg(long, value_name = "PATH", help_heading = "Programs")]
    pub loadgen_bin: Option<PathBuf>,
    #[command(flatten)]
    pub measuring: Measuring,
    /// Folder for samples and summary
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
}

#[derive(Args, Debug)]
pub struct Budgets {
    /// Only budgets whose name contains this
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
    #[command(flatten)]
    pub binaries: Binaries,
    /// The counted line, instead of building it
    #[arg(long, value_name = "PATH", help_heading = "Programs")]
    pub line_bin: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct Flame {
    /// Its name in perf/scenarios.toml
    pub scenario: String,
    /// Folder for the drawings
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
    #[command(flatten)]
    pub binaries: Binaries,
    #[command(flatten)]
    pub measuring: Measuring,
}

#[derive(Args, Debug)]
pub struct Pool {
    /// Folders of records
    #[arg(required = true, value_name = "RECORD")]
    pub records: Vec<PathBuf>,
    /// Only this scenario; may be given several times
    #[arg(long = "scenario", value_name = "NAME")]
    pub scenarios: Vec<String>,
}

#[derive(Args, Debug)]
pub struct Stalls {
    /// Pieces of work per second
    #[arg(long, default_value_t = 40_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate: u32,
    /// Parts of the time that the work takes, in percent: each is measured in every round
    #[arg(long, value_name = "PERCENT", value_delimiter = ',', default_values_t = [40, 45, 50, 55],
        value_parser = clap::value_parser!(u8).range(1..=90))]
    pub busy: Vec<u8>,
    #[command(flatten)]
    pub measuring: Measuring,
}

/// What is given is not built.
#[derive(Args, Debug)]
#[command(next_help_heading = "Programs")]
pub struct Binaries {
    /// The relay
    #[arg(long, value_name = "PATH")]
    pub relay_bin: Option<PathBuf>,
    /// The generator
    #[arg(long, value_name = "PATH")]
    pub loadgen_bin: Option<PathBuf>,
    /// The floor
    #[arg(long, value_name = "PATH")]
    pub floor_bin: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Measuring")]
pub struct Measuring {
    /// A few scenarios, three short rounds: an impression, in under 3 minutes once all is built
    #[arg(long, conflicts_with = "full")]
    pub quick: bool,
    /// All scenarios, five rounds, which is the default
    #[arg(long)]
    pub full: bool,
    /// Rounds, in each of which every relay has its turn in every scenario
    #[arg(long)]
    pub rounds: Option<u32>,
    /// Measured time of a sample
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Load before it
    #[arg(long, value_name = "SECONDS")]
    pub warmup: Option<f64>,
    /// The relays' processor
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub relay_cpu: usize,
    /// The generator's processor
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub load_cpu: usize,
    /// Measure although something else uses the processors; the record says so
    #[arg(long)]
    pub anyway: bool,
}

#[derive(Args, Debug)]
pub struct RecordFlags {
    /// Folder of the record [default: perf/records/DATE-MACHINE]
    #[arg(long, value_name = "FOLDER", help_heading = "Record")]
    pub out: Option<PathBuf>,
    /// What the machine is called in the record's name [default: how many cores it has]
    #[arg(long, value_name = "NAME", help_heading = "Record")]
    pub machine: Option<String>,
}

impl Measuring {
    pub fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 3 } else { 5 })
    }

    pub fn seconds(&self) -> f64 {
        self.seconds.unwrap_or(if self.quick { 1.0 } else { 5.0 })
    }

    pub fn warmup(&self) -> f64 {
        self.warmup.unwrap_or(if self.quick { 0.3 } else { 1.0 })
    }

    /// How long, in seconds, the processors are watched before each sample.
    pub fn look(&self) -> f64 {
        if self.quick { 0.3 } else { 1.0 }
    }
}

fn pair(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = text.split_once('=').ok_or("give PROGRAM=PATH")?;
    Ok((name.to_owned(), path.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn flags_do_not_contradict_each_other() {
        Cli::command().debug_assert();
        assert!(Cli::try_parse_from(["x", "run", "--quick", "--full"]).is_err());
        assert_eq!(pair("a=b=c"), Ok(("a".to_owned(), "b=c".into())));
        assert!(pair("a").is_err());
    }

    #[test]
    fn what_is_given_goes_before_quick_and_full() {
        let parse = |flags: &[&str]| {
            let words = ["x", "run"].iter().chain(flags);
            let Command::Run(run) = Cli::try_parse_from(words).unwrap().command else { unreachable!("it is run") };
            (run.measuring.rounds(), run.measuring.seconds())
        };
        assert_eq!(parse(&[]), (5, 5.0));
        assert_eq!(parse(&["--quick"]), (3, 1.0));
        assert_eq!(parse(&["--quick", "--rounds", "1", "--seconds", "0.5"]), (1, 0.5));
    }
}
