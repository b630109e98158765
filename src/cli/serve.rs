//! `derpring serve`.

use std::process::ExitCode;
use std::sync::Arc;

use crate::config::Loaded;
use crate::config::sources::{SourceError, Sources};

/// Runs the command line behind the word `serve`.
pub(super) fn main() -> ExitCode {
    let sources = Sources::new(std::env::args_os().skip(2), std::env::vars_os());
    let only_check = match sources.only_check() {
        Ok(only_check) => only_check,
        Err(error) => return refuse(error),
    };
    match sources.load() {
        Ok(loaded) if only_check => check(&loaded),
        Ok(loaded) => super::start(loaded, Arc::new(move || sources.load().map_err(|error| error.to_string()))),
        Err(error) => refuse(error),
    }
}

fn refuse(error: SourceError) -> ExitCode {
    match error {
        SourceError::Usage(error) => error.exit(),
        SourceError::Config(error) => super::fail(error),
    }
}

/// The configuration that counts goes to standard output, what is to be said about it to standard error.
fn check(loaded: &Loaded) -> ExitCode {
    match super::check::check(loaded) {
        Ok(notes) => {
            for line in loaded.warnings.iter().chain(&notes) {
                eprintln!("derpring: note: {line}");
            }
            print!("{}", loaded.to_toml());
            ExitCode::SUCCESS
        }
        Err(error) => super::fail(error),
    }
}
