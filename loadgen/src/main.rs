//! The command `derpring-loadgen`.

use std::process::ExitCode;

use clap::Parser;
use derpring_loadgen::cli::{Args, Plan, Tool};
use derpring_loadgen::error::{Error, Exit};
use derpring_loadgen::measure::plot;
use derpring_loadgen::measure::report::Report;
use derpring_loadgen::{crew, error, stun};

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(err) => {
            // clap would end with 2, which here means that a packet was wrong.
            let _ = err.print();
            return ExitCode::from(if err.use_stderr() { Exit::Failed as u8 } else { Exit::Good as u8 });
        }
    };
    match run(args) {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(err) => {
            eprintln!("derpring-loadgen: {}", error::chain(&err));
            ExitCode::from(err.exit() as u8)
        }
    }
}

fn run(args: Args) -> Result<Exit, Error> {
    if let Some(Tool::Stun(args)) = &args.tool {
        return stun::run(args);
    }
    if let Some(addr) = &args.agent {
        crew::agent::serve(addr, args.cpus)?;
        return Ok(Exit::Good);
    }
    let plan = Plan::new(args)?;
    let outcome = crew::run(&plan)?;
    let report = Report::new(&plan, &outcome);
    print!("{report}");
    if let Some(path) = &plan.json {
        report.write_json(path)?;
    }
    if let Some(path) = &plan.plot {
        let stats = &outcome.step.stats;
        let text = plot::svg(&plan.url, &stats.latency, stats.series.slots());
        std::fs::write(path, text).map_err(|source| Error::File { path: path.clone(), source })?;
    }
    Ok(if report.verdict.late { Exit::Late } else { Exit::Good })
}
