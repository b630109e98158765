//! Runs of the binary that end by themselves.

#![allow(dead_code, reason = "each test program uses a part")]

use std::process::{Command, Output};

/// With nothing of our environment.
pub fn derpring(args: &[&str]) -> Output {
    derpring_with(args, &[])
}

pub fn derpring_with(args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_derpring"));
    command.env_clear().envs(env.iter().copied()).args(args);
    command.output().unwrap_or_else(|e| panic!("expected to run {command:?}: {e}"))
}

pub fn stdout(run: &Output) -> String {
    String::from_utf8_lossy(&run.stdout).into_owned()
}

pub fn stderr(run: &Output) -> String {
    String::from_utf8_lossy(&run.stderr).into_owned()
}
