//! Where `derpring serve` is told what to do: flags before environment before file before defaults. All of them can be
//! read again, which is what a reload does.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};

use super::settings::{self, Kind, Setting};
use super::{ConfigError, Loaded, file, serve};

/// The command line and the environment of this process, neither of which changes while it runs.
#[derive(Clone, Debug)]
pub struct Sources {
    args: Vec<OsString>,
    env: BTreeMap<String, String>,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The command line itself: clap has its own words and exit status for it, and `--help` is one of these.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl Sources {
    /// `args` without the words `derpring serve`.
    pub fn new(args: impl IntoIterator<Item = OsString>, env: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let env = env.into_iter().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        let env = env.filter(|(name, _)| name.starts_with(PREFIX));
        // A name of a file need not be UTF-8 on a command line; in the environment of a service it is.
        let env = env.map(|(name, value)| (name, value.to_string_lossy().into_owned())).collect();
        Self { args: args.into_iter().collect(), env }
    }

    /// Whether only a check was asked for.
    ///
    /// # Errors
    /// The command line cannot be read.
    pub fn only_check(&self) -> Result<bool, SourceError> {
        Ok(self.flags_alone()?.get_flag("check_config"))
    }

    /// Reads everything.
    ///
    /// # Errors
    /// What cannot be used, by the name under which it was given.
    pub fn load(&self) -> Result<Loaded, SourceError> {
        let mut given = Given::default();
        let flags = self.flags_alone()?;
        let config = flags.get_one::<PathBuf>("config").cloned();
        let config =
            config.or_else(|| self.variable("config").map(PathBuf::from)).filter(|p| !p.as_os_str().is_empty());
        if let Some(path) = &config {
            given.read_file(path)?;
        }
        for setting in settings::all() {
            if let Some(value) = self.variable(&setting.id) {
                given.put(setting, vec![value.to_owned()], Origin::Variable);
            }
        }
        let matches = command(&given).try_get_matches_from(self.args())?;
        for setting in settings::all() {
            if matches.value_source(&setting.id) == Some(ValueSource::CommandLine) {
                given.values.remove(&*setting.id);
            }
        }
        let flags = serve::Flags::from_arg_matches(&matches)?;
        let mut loaded = serve::load(&flags).map_err(|error| given.rename(error))?;
        loaded.file = config;
        loaded.warnings.extend(unknown_variables(self.env.keys().map(String::as_str), |_| None));
        Ok(loaded)
    }

    fn flags_alone(&self) -> Result<ArgMatches, clap::Error> {
        command(&Given::default()).try_get_matches_from(self.args())
    }

    fn args(&self) -> impl Iterator<Item = OsString> + '_ {
        std::iter::once(OsString::from("derpring serve")).chain(self.args.iter().cloned())
    }

    /// What the environment says about a setting.
    fn variable(&self, id: &str) -> Option<&str> {
        let setting = settings::by_id(id);
        Some(self.env.get(setting.variable.as_ref()?)?)
    }
}

/// What is ours in an environment.
const PREFIX: &str = "DERPRING_";

/// What tests and CI say to each other by the same prefix.
const OTHERS: [&str; 5] =
    ["DERPRING_REQUIRE_", "DERPRING_TEST_", "DERPRING_SIM_SEEDS", "DERPRING_CHURN_SECONDS", "DERPRING_WRITE_DOCS"];

/// A line for each variable that looks as if it were for us and is not. Not an error: environments are made by other
/// programs too, and a relay that starts is worth more than a tidy one.
pub(super) fn unknown_variables<'a>(
    names: impl Iterator<Item = &'a str>,
    elsewhere: impl Fn(&Setting) -> Option<String>,
) -> Vec<String> {
    let known = || settings::all().iter().filter_map(|setting| Some((setting.variable.clone()?, setting)));
    let mut out = Vec::new();
    for name in names.filter(|name| name.starts_with(PREFIX)) {
        match known().find(|(variable, _)| variable == name) {
            Some((_, setting)) => out.extend(elsewhere(setting).map(|why| format!("{name} has no effect: {why}"))),
            None if OTHERS.iter().any(|other| name.starts_with(other)) => {}
            None => {
                let word = |name: &str| name[PREFIX.len()..].to_owned();
                let near = super::nearest(&word(name), known().map(|(variable, _)| (word(&variable), variable)));
                let near = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
                out.push(format!("{name} is no setting, and has no effect{near}"));
            }
        }
    }
    out
}

/// Settings other than lists for which nothing is something.
const EMPTY_IS_A_VALUE: [&str; 2] = ["home", "key_file"];

/// What was given otherwise than by flags, and where.
#[derive(Debug, Default)]
pub(super) struct Given {
    values: HashMap<&'static str, (Vec<String>, Origin)>,
}

#[derive(Clone, Debug)]
pub(super) enum Origin {
    Variable,
    File { path: PathBuf, line: usize },
}

impl Given {
    fn read_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        for given in file::read(path)? {
            let origin = Origin::File { path: path.to_owned(), line: given.line };
            self.put(given.setting, given.values, origin);
        }
        Ok(())
    }

    pub fn put(&mut self, setting: &'static Setting, values: Vec<String>, origin: Origin) {
        // A variable without a value is how services leave something out, and files that are made by others too.
        let empty = values.iter().all(String::is_empty);
        let says_something = !empty || setting.kind == Kind::List || EMPTY_IS_A_VALUE.contains(&&*setting.id);
        if says_something {
            self.values.insert(&setting.id, (values, origin));
        }
    }

    /// The flags that say the same.
    ///
    /// # Errors
    /// Never, unless a default cannot be read.
    pub fn flags(&self) -> Result<serve::Flags, clap::Error> {
        serve::Flags::from_arg_matches(&command(self).try_get_matches_from(["derpring"])?)
    }

    /// An error about a flag, under the name that was written instead of it.
    pub fn rename(&self, error: ConfigError) -> ConfigError {
        let ConfigError::Value { what, value, problem } = error else { return error };
        let setting = settings::all().iter().find(|setting| setting.flag == what);
        let what = match setting.and_then(|setting| Some((setting, self.values.get(&*setting.id)?))) {
            Some((setting, (_, origin))) => Named { setting, origin }.to_string(),
            None => what,
        };
        ConfigError::Value { what, value, problem }
    }
}

struct Named<'a> {
    setting: &'a Setting,
    origin: &'a Origin,
}

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.origin {
            Origin::Variable => f.write_str(self.setting.variable.as_deref().unwrap_or(&self.setting.flag)),
            Origin::File { path, line } => {
                write!(f, "{}:{line}: ", path.display())?;
                self.setting.key.as_ref().map_or(Ok(()), |key| key.fmt(f))
            }
        }
    }
}

/// The flags of serve, with what was given otherwise for their defaults: so clap itself puts flags before the rest.
fn command(given: &Given) -> Command {
    let command = settings::prepare(serve::Flags::augment_args(Command::new("derpring serve")));
    command.mut_args(|arg| match given.values.get(arg.get_id().as_str()) {
        Some((values, _)) => arg.default_values(values),
        None => arg,
    })
}

#[cfg(test)]
mod tests;
