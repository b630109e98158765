//! The performance lab. `run` measures relays side by side, `compare` two builds of ours, `budgets` checks what can be
//! counted on any machine, `flame` draws where time goes, `pool` sums latencies up over records, `stalls` shows what
//! the machine does without a relay. perf/README.md says how figures come about.

mod budgets;
mod certificate;
mod cli;
mod compare;
mod config;
mod error;
mod flame;
mod machine;
mod metric;
mod plot;
mod pool;
mod programs;
mod record;
mod run;
mod running;
mod sample;
mod scraper;
mod stalls;
mod stats;
mod summary;

use std::process::ExitCode;

use clap::Parser as _;

use cli::{Cli, Command};

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Compare(args) => compare::compare(&args),
        Command::Budgets(args) => budgets::check(&args),
        Command::Flame(args) => flame::flame(&args),
        Command::Pool(args) => pool::pool(&args),
        Command::Stalls(args) => stalls::stalls(&args),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(err) => {
            eprintln!("derpring-perf: {err}");
            ExitCode::FAILURE
        }
    }
}
