//! `derpring key`.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::keys::{KeyError, generate_mesh_key, load_or_create};
use crate::proto::key::to_hex;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Print the public key of a key file, which is made when absent
    Node { file: PathBuf },
    /// Print a new mesh key
    Mesh,
}

pub(super) fn main(command: &Command) -> ExitCode {
    match text(command) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => super::fail(error),
    }
}

fn text(command: &Command) -> Result<String, KeyError> {
    match command {
        Command::Node { file } => Ok(load_or_create(file)?.public().to_string()),
        Command::Mesh => Ok(to_hex(&generate_mesh_key()?.0)),
    }
}
