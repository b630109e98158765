//! The log, on standard error. A thread of its own writes it: when nobody reads it, lines are lost and nothing waits.

mod limiter;

use std::env;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tracing_appender::non_blocking::{ErrorCounter, WorkerGuard};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config::LogFormat;
pub use limiter::Limiter;

/// Starts the log of this process. `DERPRING_LOG`, or else `RUST_LOG`, says what is logged: a level (`debug`), or
/// levels by module (`info,derpring::edge=trace`). Without either: `info`.
///
/// # Errors
/// When the filter cannot be read, or the log was started before.
pub fn init(format: LogFormat) -> Result<Log, LogError> {
    let filter = filter(|name| env::var(name).ok())?;
    let (writer, guard) = tracing_appender::non_blocking(io::stderr());
    let lost = writer.error_counter();
    let shown = filter.to_string();
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer().with_writer(writer);
    let lines: Box<dyn Layer<Reloadable> + Send + Sync> = match format {
        LogFormat::Human => lines.with_ansi(false).with_target(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    Registry::default().with(filter).with(lines).try_init()?;
    Ok(Log { control: Control { handle, shown: Arc::new(Mutex::new(shown)), lost }, _guard: guard })
}

type Reloadable = tracing_subscriber::layer::Layered<reload::Layer<EnvFilter, Registry>, Registry>;

/// Keeps the log running; writes the last lines when it is dropped.
#[derive(Debug)]
pub struct Log {
    control: Control,
    _guard: WorkerGuard,
}

impl Log {
    pub fn control(&self) -> &Control {
        &self.control
    }
}

/// What can be asked of a log that runs.
#[derive(Clone, Debug)]
pub struct Control {
    handle: reload::Handle<EnvFilter, Registry>,
    shown: Arc<Mutex<String>>,
    lost: ErrorCounter,
}

impl Control {
    /// What is logged, as it was written.
    pub fn filter(&self) -> String {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Logs by another filter from now on.
    ///
    /// # Errors
    /// What is wrong with it; the present one stays.
    pub fn set_filter(&self, text: &str) -> Result<(), String> {
        let text = text.trim();
        let filter = parse(text)?;
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        self.handle.reload(filter).map_err(|e| format!("the log has ended: {e}"))?;
        text.clone_into(&mut shown);
        Ok(())
    }

    /// Lines that came faster than they could be written, and are lost.
    pub fn lost_lines(&self) -> u64 {
        self.lost.dropped_lines() as u64
    }
}

fn parse(text: &str) -> Result<EnvFilter, String> {
    const FORM: &str = "give error, warn, info, debug or trace, or levels by module such as info,derpring::edge=debug";
    // A word alone would be a module, and everything else be silent: that is more often a level misspelt.
    let level = |part: &str| match part.trim() {
        "" => false,
        part => part.contains(['=', '[']) || part.parse::<LevelFilter>().is_ok(),
    };
    if let Some(part) = text.split(',').find(|part| !level(part)) {
        return Err(format!("{part:?} is not a level; {FORM}"));
    }
    EnvFilter::builder().parse(text).map_err(|e| format!("{e}; {FORM}"))
}

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The operator's.
    #[error("{name} {value:?}: {problem}")]
    Filter { name: &'static str, value: String, problem: String },
    /// Ours.
    #[error("the log cannot start: {0}")]
    Started(#[from] TryInitError),
}

fn filter(env: impl Fn(&str) -> Option<String>) -> Result<EnvFilter, LogError> {
    for name in ["DERPRING_LOG", "RUST_LOG"] {
        if let Some(value) = env(name).filter(|value| !value.is_empty()) {
            return parse(&value).map_err(|problem| LogError::Filter { name, value, problem });
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
        let text = read("debgu", "").unwrap_err().to_string();
        assert!(text.starts_with("DERPRING_LOG \"debgu\": \"debgu\" is not a level; give error, warn"), "{text}");
        assert!(read("off,derpring::edge=trace", "").is_ok());
    }
}
