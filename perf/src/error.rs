//! What can go wrong, in words that say what to do.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("{}: {source}", path.display())]
    Toml { path: PathBuf, source: Box<toml::de::Error> },
    #[error("{0}")]
    Config(String),
    #[error("cannot start {program}: {source} ({advice})")]
    Start { program: String, source: std::io::Error, advice: &'static str },
    #[error("{what} failed ({status}): {stderr}")]
    Command { what: String, status: String, stderr: String },
    #[error("cannot make the certificate of the run: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error(
        "processor {cpu} is busy: only {idle:.0} % of it was idle before this sample. Stop what else runs, or pass \
         --anyway: the sample then says so"
    )]
    Busy { cpu: usize, idle: f64 },
    #[error("{0}")]
    Relay(String),
    #[error("cannot {what}: {source}")]
    System { what: &'static str, source: std::io::Error },
    #[error("{0} cannot be understood: {1}")]
    Output(&'static str, String),
}

impl Error {
    pub fn system(what: &'static str, errno: rustix::io::Errno) -> Self {
        Self::System { what, source: errno.into() }
    }

    pub fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}
