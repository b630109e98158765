//! `derpring derper`, and derpring when it is called as `derper`.

use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use crate::config::Loaded;
use crate::config::derper::{DerperError, FlagError, Host, Request, read, translate, usage};

/// Go's status for a command line that cannot be read.
const USAGE: u8 = 2;

/// Runs derper's command line, without the program's name. Go prints the usage on standard error, even when asked.
pub(super) fn main(args: Vec<OsString>) -> ExitCode {
    let args: Result<Vec<String>, OsString> = args.into_iter().map(OsString::into_string).collect();
    let args = match args {
        Ok(args) => args,
        Err(arg) => return super::fail(format_args!("the argument {arg:?} is not UTF-8")),
    };
    if let Some(("--translate", args)) = args.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return match with_host(|host| translate(args, host)) {
            Ok(text) => {
                print!("{text}");
                ExitCode::SUCCESS
            }
            Err(error) => refuse(error),
        };
    }
    match with_host(|host| read(&args, host)) {
        Ok(Request::Serve(loaded)) => super::start(*loaded, Arc::new(move || again(&args))),
        Ok(Request::Version) => {
            println!("derpring {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Err(error) => refuse(error),
    }
}

/// The same command line once more, for what is in files.
fn again(args: &[String]) -> Result<Loaded, String> {
    match with_host(|host| read(args, host)).map_err(|error| error.to_string())? {
        Request::Serve(loaded) => Ok(*loaded),
        Request::Version => unreachable!("it was no question for the version when the relay started"),
    }
}

fn refuse(error: DerperError) -> ExitCode {
    let usage = || eprint!("{}", with_host(usage));
    match error {
        DerperError::Flag(FlagError::Help) => {
            usage();
            ExitCode::SUCCESS
        }
        DerperError::Flag(error) => {
            super::fail(error);
            usage();
            ExitCode::from(USAGE)
        }
        DerperError::Config(error) => super::fail(error),
    }
}

fn with_host<T>(ask: impl FnOnce(&Host<'_>) -> T) -> T {
    let names: Vec<String> = env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect();
    let env = |name: &str| env::var(name).ok();
    let root = rustix::process::geteuid().is_root();
    ask(&Host { env: &env, names: &names, exists: &Path::exists, root })
}
