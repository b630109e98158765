//! The log, on standard error. A thread of its own writes it: when nobody reads it, lines are lost and nothing waits.

use std::env;
use std::io;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::config::LogFormat;

/// Starts the log of this process. `DERPRING_LOG`, or else `RUST_LOG`, says what is logged: a level (`debug`), or
/// levels by module (`info,derpring::edge=trace`). Without either: `info`. What is returned writes the last lines when
/// it is dropped.
///
/// # Errors
/// When the filter cannot be read, or the log was started before.
pub fn init(format: LogFormat) -> Result<Guard, LogError> {
    let filter = filter(|name| env::var(name).ok())?;
    let (writer, guard) = tracing_appender::non_blocking(io::stderr());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    match format {
        LogFormat::Human => builder.with_ansi(false).with_target(false).finish().try_init()?,
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init()?,
    }
    Ok(Guard(guard))
}

/// Keeps the log running.
#[derive(Debug)]
pub struct Guard(
    #[expect(dead_code, reason = "it works by being dropped")] tracing_appender::non_blocking::WorkerGuard,
);

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The operator's.
    #[error("{name} {value:?}: {problem}; give error, warn, info, debug or trace")]
    Filter { name: &'static str, value: String, problem: String },
    /// Ours.
    #[error("the log cannot start: {0}")]
    Started(#[from] TryInitError),
}

fn filter(env: impl Fn(&str) -> Option<String>) -> Result<EnvFilter, LogError> {
    for name in ["DERPRING_LOG", "RUST_LOG"] {
        if let Some(value) = env(name).filter(|value| !value.is_empty()) {
            return EnvFilter::builder().parse(&value).map_err(|e| {
                let problem = e.to_string();
                LogError::Filter { name, value, problem }
            });
        }
    }
    Ok(EnvFilter::new("info"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_variable_comes_first_and_a_bad_one_is_named() {
        let read = |ours: &'static str, common: &'static str| {
            filter(move |name| Some(if name == "DERPRING_LOG" { ours } else { common }.to_owned()))
        };
        assert_eq!(read("debug", "warn").unwrap().to_string(), "debug");
        assert_eq!(read("", "warn").unwrap().to_string(), "warn");
        assert_eq!(filter(|_| None).unwrap().to_string(), "info");
        let text = read("a=b=c", "").unwrap_err().to_string();
        assert!(text.starts_with("DERPRING_LOG \"a=b=c\": "), "{text}");
    }
}
