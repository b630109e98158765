//! `derpring derper`, and derpring when it is called as `derper`.

use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use crate::config::derper::{DerperError, FlagError, Host, Request, read, usage};

/// Go's status for a command line that cannot be read.
const USAGE: u8 = 2;

/// Runs derper's command line, without the program's name. Go prints the usage on standard error, even when asked.
pub(super) fn main(args: Vec<OsString>) -> ExitCode {
    let args: Result<Vec<String>, OsString> = args.into_iter().map(OsString::into_string).collect();
    let args = match args {
        Ok(args) => args,
        Err(arg) => return super::fail(format_args!("the argument {arg:?} is not UTF-8")),
    };
    let env = |name: &str| env::var(name).ok();
    let host = Host { env: &env, exists: &Path::exists, root: rustix::process::geteuid().is_root() };
    match read(&args, &host) {
        Ok(Request::Serve(loaded)) => super::start(*loaded),
        Ok(Request::Version) => {
            println!("derpring {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Err(DerperError::Flag(FlagError::Help)) => {
            eprint!("{}", usage(&host));
            ExitCode::SUCCESS
        }
        Err(DerperError::Flag(error)) => {
            super::fail(error);
            eprint!("{}", usage(&host));
            ExitCode::from(USAGE)
        }
        Err(DerperError::Config(error)) => super::fail(error),
    }
}
