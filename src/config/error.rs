//! What can be wrong with a configuration: always the operator's to mend, and each text says how.

use std::path::PathBuf;

use super::keys::KeyError;

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A value that cannot be used.
    #[error("{what} {value:?}: {problem}")]
    Value { what: String, value: String, problem: String },
    /// A line of the configuration file.
    #[error("{}:{line}: {problem}", path.display())]
    File { path: PathBuf, line: usize, problem: String },
    /// Something that must be given, and is not.
    #[error("{0}")]
    Missing(String),
    /// Part of the design, not of this version. Refused by name: a setting that is silently ignored is worse.
    #[error("{what} is not built yet: {instead}")]
    NotBuilt { what: String, instead: String },
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl ConfigError {
    pub(super) fn value(what: impl Into<String>, value: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Value { what: what.into(), value: value.into(), problem: problem.into() }
    }

    pub(super) fn not_built(what: impl Into<String>, instead: impl Into<String>) -> Self {
        Self::NotBuilt { what: what.into(), instead: instead.into() }
    }
}
