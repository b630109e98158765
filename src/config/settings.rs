//! Every setting of `derpring serve` under its three names: flag, environment variable, key of the configuration file.
//! All are made of the flags' definitions, so that they cannot differ.

use std::sync::LazyLock;

use clap::builder::Resettable;
use clap::{Arg, Args, Command};

use super::serve::Flags;

/// One thing that can be told the relay.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Its name in [`Flags`].
    pub id: String,
    /// With its dashes.
    pub flag: String,
    /// `None`: only on the command line, because it is about one start and not about the relay.
    pub variable: Option<String>,
    /// In the file; `None`: not there, for the same reason.
    pub key: Option<Key>,
    pub kind: Kind,
    pub help: String,
}

/// Where a setting stands in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub table: Option<&'static str>,
    pub name: String,
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(table) = self.table {
            write!(f, "{table}.")?;
        }
        f.write_str(&self.name)
    }
}

/// What can be written for a setting in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Switch,
    Number,
    /// A number of bytes, or text with a unit.
    Size,
    Text,
    /// Of texts; a text alone is a list of one.
    List,
}

impl Kind {
    /// What to write, for whoever wrote something else.
    pub fn wanted(self) -> &'static str {
        match self {
            Self::Switch => "write true or false",
            Self::Number => "write a number, without quotes",
            Self::Size => "write a number of bytes, or text such as \"4MiB\"",
            Self::Text => "write text, in quotes",
            Self::List => "write a list of texts, such as [\"a\", \"b\"]",
        }
    }
}

/// Flags whose first word is one of these stand in that table under their other words.
pub const TABLES: [&str; 11] =
    ["cert", "acme", "http", "stun", "accept", "queue", "tcp", "admin", "debug", "log", "mesh"];

/// What one start is told, and no file.
const COMMAND_LINE_ONLY: [&str; 3] = ["check_config", "config", "dev"];

/// A takeover is asked of one start, by hand or by a service's unit.
const NOT_IN_FILE: [&str; 1] = ["takeover"];

/// In the order in which `--help` has them.
pub fn all() -> &'static [Setting] {
    static ALL: LazyLock<Vec<Setting>> = LazyLock::new(|| {
        let command = Flags::augment_args(Command::new("derpring"));
        command.get_arguments().map(Setting::of).collect()
    });
    &ALL
}

pub fn by_id(id: &str) -> &'static Setting {
    all().iter().find(|setting| setting.id == id).unwrap_or_else(|| panic!("there is a setting {id}"))
}

/// Makes a command take the flags, and not look at the environment by itself: that is [read](super::sources) with more
/// care than clap has.
pub fn prepare(command: Command) -> Command {
    command.mut_args(|arg| {
        let arg = match kind(&arg) {
            // So that `--stun-any` says yes, and `--stun-any=false` what a file or the environment cannot.
            Kind::Switch if takes_value(&arg) => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
            _ => arg,
        };
        let Some(variable) = variable(&arg) else { return arg };
        let help = format!("{} [env: {variable}]", arg.get_help().map(ToString::to_string).unwrap_or_default());
        arg.env(Resettable::Reset).help(help)
    })
}

impl Setting {
    fn of(arg: &Arg) -> Self {
        let id = arg.get_id().to_string();
        let only_flag = COMMAND_LINE_ONLY.contains(&&*id) || NOT_IN_FILE.contains(&&*id);
        Self {
            flag: format!("--{}", arg.get_long().expect("every setting has a long flag")),
            variable: variable(arg),
            key: (!only_flag).then(|| key(&id)),
            kind: kind(arg),
            help: arg.get_help().map(ToString::to_string).unwrap_or_default(),
            id,
        }
    }
}

fn variable(arg: &Arg) -> Option<String> {
    arg.get_env().map(|name| name.to_string_lossy().into_owned())
}

fn key(id: &str) -> Key {
    match id.split_once('_') {
        Some((first, rest)) if TABLES.contains(&first) => {
            Key { table: TABLES.iter().find(|table| **table == first).copied(), name: rest.to_owned() }
        }
        // A table cannot be a value too.
        None if id == "log" => Key { table: Some("log"), name: "filter".to_owned() },
        _ => Key { table: None, name: id.to_owned() },
    }
}

fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values()
}

fn kind(arg: &Arg) -> Kind {
    if !takes_value(arg) {
        return Kind::Switch;
    }
    if arg.get_value_delimiter().is_some() {
        return Kind::List;
    }
    let name = arg.get_value_names().and_then(|names| names.first()).map_or("", |name| name.as_str());
    match name {
        "BOOL" => Kind::Switch,
        "N" | "SECONDS" | "US" => Kind::Number,
        "BYTES" => Kind::Size,
        _ => Kind::Text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rule behind the names, so that whoever knows one knows the others.
    #[test]
    fn the_names_of_a_setting_are_the_same_words() {
        for setting in all() {
            let words = setting.id.replace('_', "-");
            assert_eq!(setting.flag, format!("--{words}"));
            let only = COMMAND_LINE_ONLY.contains(&&*setting.id);
            match &setting.variable {
                Some(variable) => assert_eq!(*variable, format!("DERPRING_{}", setting.id.to_uppercase())),
                None => assert!(only, "{} needs a variable", setting.flag),
            }
            match &setting.key {
                Some(key) if setting.id == "log" => assert_eq!(key.to_string(), "log.filter"),
                Some(key) => assert_eq!(key.to_string().replace('.', "_"), setting.id),
                None => assert!(only || NOT_IN_FILE.contains(&&*setting.id), "{} needs a key", setting.flag),
            }
            assert!(!setting.help.is_empty(), "{} needs a line that says what it is", setting.flag);
        }
        let keys: std::collections::BTreeSet<String> =
            all().iter().filter_map(|setting| setting.key.as_ref()).map(ToString::to_string).collect();
        assert_eq!(keys.len(), all().iter().filter(|setting| setting.key.is_some()).count(), "no key stands twice");
        for table in TABLES {
            assert!(keys.iter().any(|key| key.starts_with(&format!("{table}."))), "[{table}] is empty");
            assert!(!keys.contains(table), "{table} is a table and a key");
        }
    }

    #[test]
    fn what_is_not_in_the_file_is_there() {
        for id in COMMAND_LINE_ONLY.iter().chain(&NOT_IN_FILE) {
            assert!(by_id(id).key.is_none());
        }
        // The file's own place may come from the environment, what it says cannot come from itself.
        assert!(by_id("config").variable.is_some() && by_id("dev").variable.is_none());
    }
}
