//! Puts a relay together from its parts and runs it until it is told to stop.

use crate::config::Config;

/// Why the relay did not start: the operator's to mend, and the text says how.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    Io(String),
}

/// Runs the relay; returns after an orderly stop.
///
/// # Errors
/// Anything that keeps it from starting.
pub fn run(_config: Config) -> Result<(), StartError> {
    Err(StartError::Io("the relay is not built".into()))
}
