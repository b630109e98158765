//! The command line: which part of derpring runs, and what its end tells the shell.

mod check;
mod derper;
mod key;
mod serve;

use std::ffi::OsString;
use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tracing::warn;

use crate::config::{Loaded, settings};
use crate::control::logging;
use crate::control::reload::Source;
use crate::relay;

/// Runs what the arguments of this process ask for.
pub fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let called = args.next().unwrap_or_default();
    if Path::new(&called).file_name().is_some_and(|name| name == "derper") {
        return derper::main(args.collect());
    }
    let command = Cli::command().mut_subcommand("serve", settings::prepare);
    let parsed = Cli::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit());
    match parsed.command {
        // The same arguments are read together with environment and file, and again at each reload.
        Command::Serve(_) => serve::main(),
        Command::Derper { args } => derper::main(args),
        Command::Key(command) => key::main(&command),
    }
}

#[derive(Parser)]
#[command(name = "derpring", version, about = "A DERP relay")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a relay
    Serve(Box<crate::config::serve::Flags>),
    /// Run a relay under derper's own command line (also when called as derper)
    #[command(disable_help_flag = true)]
    Derper {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Make or show keys
    #[command(subcommand)]
    Key(key::Command),
}

/// Starts the log and runs the relay until it is told to stop. `again` reads the configuration anew.
fn start(loaded: Loaded, again: Source) -> ExitCode {
    let log = match logging::init(loaded.config.log, loaded.config.log_filter.as_deref()) {
        Ok(log) => log,
        Err(error) => return fail(error),
    };
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    let result = relay::run(loaded, again, log.control());
    // The last lines come before the error that ended it.
    drop(log);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error),
    }
}

/// One line that says what to do.
fn fail(error: impl Display) -> ExitCode {
    eprintln!("derpring: {error}");
    ExitCode::FAILURE
}
