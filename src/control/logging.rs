//! The log, on standard error. A thread of its own writes it: when nobody reads it, lines are lost and nothing waits.

mod gathered;
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
use gathered::Gathered;
pub use limiter::Limiter;

/// Starts the log of this process. `configured` says what is logged: a level (`debug`), or levels by module
/// (`info,derpring::edge=trace`); without it `RUST_LOG` does. Without either: `info`.
///
/// # Errors
/// When the filter cannot be read, or the log was started before.
pub fn init(format: LogFormat, configured: Option<&str>) -> Result<Log, LogError> {
    let filter = filter(configured, env::var("RUST_LOG").ok())?;
    let (writer, guard) = tracing_appender::non_blocking(Gathered::new(io::stderr()));
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

/// What would be logged where nothing is configured.
pub fn default_filter() -> String {
    env::var("RUST_LOG").ok().filter(|text| !text.is_empty()).unwrap_or_else(|| "info".to_owned())
}

/// # Errors
/// What is wrong with a filter, and which forms there are.
pub fn check_filter(text: &str) -> Result<(), String> {
    parse(text).map(drop)
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
    #[error("RUST_LOG {value:?}: {problem}")]
    Filter { value: String, problem: String },
    /// Ours.
    #[error("the log cannot start: {0}")]
    Started(#[from] TryInitError),
}

fn filter(configured: Option<&str>, common: Option<String>) -> Result<EnvFilter, LogError> {
    // What is configured was checked when it was read.
    let value = configured.map(str::to_owned).or(common).filter(|value| !value.is_empty());
    let value = value.unwrap_or_else(|| "info".to_owned());
    parse(&value).map_err(|problem| LogError::Filter { value, problem })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_configured_comes_first_and_a_bad_filter_is_named() {
        let read = |ours: Option<&str>, common: &str| filter(ours, Some(common.to_owned()));
        assert_eq!(read(Some("debug"), "warn").unwrap().to_string(), "debug");
        assert_eq!(read(None, "warn").unwrap().to_string(), "warn");
        assert_eq!(read(None, "").unwrap().to_string(), "info");
        assert_eq!(filter(None, None).unwrap().to_string(), "info");
        let text = read(None, "a=b=c").unwrap_err().to_string();
        assert!(text.starts_with("RUST_LOG \"a=b=c\": "), "{text}");
        let text = check_filter("debgu").unwrap_err();
        assert!(text.starts_with("\"debgu\" is not a level; give error, warn"), "{text}");
        assert!(check_filter("off,derpring::edge=trace").is_ok());
    }
}
