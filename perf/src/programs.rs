//! The programs of a run: built, installed, or given; and where cargo puts things.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::config::{GoPackage, Relay};
use crate::error::Error;

/// Paths of programs by the names that the lab has for them.
#[derive(Clone, Debug, Default)]
pub struct Programs(BTreeMap<String, PathBuf>);

impl Programs {
    pub fn insert(&mut self, name: &str, path: PathBuf) {
        self.0.insert(name.to_owned(), path);
    }

    pub fn get(&self, name: &str) -> Option<&Path> {
        self.0.get(name).map(PathBuf::as_path)
    }

    pub fn need(&self, name: &str) -> Result<&Path, Error> {
        self.get(name).ok_or_else(|| Error::Config(format!("the lab has no program {name}: correct rivals.toml")))
    }

    /// Takes what is given, and builds those of our own that are not.
    pub fn ours(given: &[(&str, Option<&PathBuf>)]) -> Result<Self, Error> {
        let mut programs = Self::default();
        let mut packages = Vec::new();
        for (name, path) in given {
            match path {
                Some(path) => programs.insert(name, existing(path)?),
                None => packages.push(package(name)),
            }
        }
        if !packages.is_empty() {
            let built = build(&workspace(), &packages, true, None)?;
            for (name, path) in given {
                if path.is_none() {
                    programs.insert(name, find(&built, package(name))?);
                }
            }
        }
        Ok(programs)
    }

    /// Finds, or installs, the programs of rivals. Returns who is left out, and why.
    pub fn add_rivals(
        &mut self,
        relays: &[Relay],
        given: &[(String, PathBuf)],
    ) -> Result<Vec<(String, String)>, Error> {
        let mut missing = Vec::new();
        for (name, path) in given {
            self.insert(name, existing(path)?);
        }
        for relay in relays {
            if self.get(&relay.program).is_some() {
                continue;
            }
            let found = match &relay.go {
                Some(package) => install_go(&relay.program, package),
                None => Err(format!("nothing says how to get {}: give --rival {}=PATH", relay.program, relay.program)),
            };
            match found {
                Ok(path) => self.insert(&relay.program, path),
                Err(why) => missing.push((relay.name.clone(), why)),
            }
        }
        Ok(missing)
    }
}

/// The top of the sources that the lab was built from.
pub fn workspace() -> PathBuf {
    let perf = Path::new(env!("CARGO_MANIFEST_DIR"));
    perf.parent().unwrap_or(perf).to_owned()
}

/// A folder for what the lab makes and keeps, beside what cargo builds.
pub fn cache() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    target.join("perf-lab")
}

/// Builds packages in release, and returns the executables by name.
pub fn build(
    sources: &Path,
    packages: &[&str],
    release: bool,
    target: Option<&Path>,
) -> Result<BTreeMap<String, PathBuf>, Error> {
    eprintln!("building {}", packages.join(", "));
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(sources).args(["build", "--message-format=json-render-diagnostics"]);
    if release {
        command.arg("--release");
    }
    for package in packages {
        command.args(["--package", package]);
    }
    if let Some(target) = target {
        command.arg("--target-dir").arg(target);
    }
    let output = command.stderr(Stdio::inherit()).output().map_err(|source| Error::Start {
        program: "cargo".into(),
        source,
        advice: "the lab is run by cargo",
    })?;
    if !output.status.success() {
        let status = output.status.to_string();
        return Err(Error::Command { what: "cargo build".into(), status, stderr: "see above".into() });
    }
    Ok(executables(&String::from_utf8_lossy(&output.stdout)))
}

/// The executables in cargo's messages, which are one JSON object per line.
fn executables(messages: &str) -> BTreeMap<String, PathBuf> {
    let parsed = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    parsed
        .filter_map(|message| {
            let path = PathBuf::from(message["executable"].as_str()?);
            Some((message["target"]["name"].as_str()?.to_owned(), path))
        })
        .collect()
}

pub fn find(built: &BTreeMap<String, PathBuf>, name: &str) -> Result<PathBuf, Error> {
    built.get(name).cloned().ok_or_else(|| Error::Config(format!("cargo built no {name}")))
}

fn package(name: &str) -> &'static str {
    match name {
        "derpring" => "derpring",
        "loadgen" => "derpring-loadgen",
        "floor" => "derpring-floor",
        _ => "derpring-line",
    }
}

fn existing(path: &Path) -> Result<PathBuf, Error> {
    let path = path.canonicalize().map_err(Error::file(path))?;
    if path.is_file() { Ok(path) } else { Err(Error::Config(format!("{} is no program", path.display()))) }
}

/// Into a folder of its version, once.
fn install_go(program: &str, package: &GoPackage) -> Result<PathBuf, String> {
    let folder = cache().join(format!("{program}-{}", package.version));
    let path = folder.join(program);
    if path.exists() {
        return Ok(path);
    }
    let what = format!("{}@{}", package.package, package.version);
    eprintln!("installing {what}");
    let status = Command::new("go").args(["install", &what]).env("GOBIN", &folder).status();
    match status {
        Ok(status) if status.success() && path.exists() => Ok(path),
        Ok(status) => Err(format!("`go install {what}` failed ({status}); or give --rival {program}=PATH")),
        Err(err) => Err(format!("go cannot be started ({err}): install Go, or give --rival {program}=PATH")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_found_among_cargos_messages() {
        let messages = "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"x\"},\"executable\":null}\n\
                        not json\n\
                        {\"target\":{\"name\":\"relay\"},\"executable\":\"/t/relay\"}\n";
        let found = executables(messages);
        assert_eq!(found.len(), 1);
        assert_eq!(find(&found, "relay").unwrap(), Path::new("/t/relay"));
        assert!(find(&found, "x").is_err());
    }

    #[test]
    fn a_rival_that_is_missing_is_left_out_with_a_reason() {
        let relay = |text: &str| toml::from_str::<Relay>(text).unwrap();
        let relays = [relay("name = \"other\"\nprogram = \"other-program\"\nplain = \"x\"")];
        let missing = Programs::default().add_rivals(&relays, &[]).unwrap();
        assert_eq!(missing[0].0, "other");
        assert!(missing[0].1.contains("--rival other-program=PATH"));
        let given = [("other-program".to_owned(), PathBuf::from("Cargo.toml"))];
        assert!(Programs::default().add_rivals(&relays, &given).unwrap().is_empty());
    }
}
