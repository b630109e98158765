//! Two builds of the relay beside each other: old and new take turns, on each backend.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cli::Compare;
use crate::config::{self, Relay};
use crate::error::Error;
use crate::programs::{self, Programs, cache, workspace};
use crate::run::{self, Table};
use crate::running;

pub fn compare(args: &Compare) -> Result<bool, Error> {
    let perf = workspace().join("perf");
    let scenarios = config::scenarios(&perf.join("scenarios.toml"))?;
    let mut scenarios = config::choose(scenarios, &args.scenarios, args.measuring.quick)?;
    let mut programs = Programs::ours(&[("loadgen", args.loadgen_bin.as_ref())])?;
    let mut builds = Vec::new();
    for (name, what) in [("old", &args.old), ("new", &args.new)] {
        let (path, build) = find_or_build(what)?;
        programs.insert(name, path);
        builds.push((name.to_owned(), build));
    }
    let relays = config::relays(&perf.join("rivals.toml"))?;
    let relays: Vec<Relay> = relays.iter().filter(|relay| relay.ours).flat_map(both).collect();
    for scenario in &mut scenarios {
        // Goals are about rivals.
        scenario.goals.clear();
        if let Some(only) = &mut scenario.only {
            *only = only.iter().flat_map(|name| [format!("old-{name}"), format!("new-{name}")]).collect();
        }
    }
    let references = |relay: &str| relay.strip_prefix("new-").map(|name| format!("old-{name}")).into_iter().collect();
    let (measuring, missing) = (&args.measuring, Vec::new());
    let table = Table { measuring, scenarios, relays, missing, references: &references, builds };
    run::measure(table, programs, &args.out, false)
}

fn both(relay: &Relay) -> [Relay; 2] {
    ["old", "new"].map(|build| Relay {
        name: format!("{build}-{}", relay.name),
        program: build.to_owned(),
        ours: false,
        ..relay.clone()
    })
}

/// The program, and what to call it: a record has no paths of one machine.
fn find_or_build(what: &str) -> Result<(PathBuf, String), Error> {
    let path = Path::new(what);
    if path.is_file() {
        return Ok((path.canonicalize().map_err(Error::file(path))?, "a given program".to_owned()));
    }
    let commit = git(&["rev-parse", "--verify", "--quiet", &format!("{what}^{{commit}}")])
        .map_err(|_| Error::Config(format!("{what} is neither a program nor a git revision")))?;
    Ok((build_revision(&commit)?, format!("commit {commit}")))
}

/// In a work tree of its own, once per commit: two checkouts never share a build folder.
fn build_revision(commit: &str) -> Result<PathBuf, Error> {
    let folder = cache().join("revisions").join(&commit[..12.min(commit.len())]);
    let kept = folder.join("derpring");
    if kept.exists() {
        return Ok(kept);
    }
    std::fs::create_dir_all(&folder).map_err(Error::file(&folder))?;
    let sources = folder.join("sources");
    let target = folder.join("target");
    git(&["worktree", "add", "--force", "--detach", &sources.to_string_lossy(), commit])?;
    let built = programs::build(&sources, &["derpring"], true, Some(&target))
        .and_then(|built| programs::find(&built, "derpring"))
        .and_then(|path| std::fs::copy(&path, &kept).map_err(Error::file(&kept)));
    git(&["worktree", "remove", "--force", &sources.to_string_lossy()])?;
    built?;
    // What the build needed is some gigabytes; the program is kept.
    std::fs::remove_dir_all(&target).map_err(Error::file(&target))?;
    Ok(kept)
}

fn git(args: &[&str]) -> Result<String, Error> {
    let output = running::run("git", Command::new("git").args(args).current_dir(workspace()), "install git")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_backend_takes_part_twice() {
        let relays = config::relays(&workspace().join("perf/rivals.toml")).unwrap();
        let uring = relays.iter().find(|relay| relay.name == "uring").unwrap();
        let [old, new] = both(uring);
        assert_eq!((&*old.name, &*old.program), ("old-uring", "old"));
        assert_eq!((&*new.name, &*new.program), ("new-uring", "new"));
        assert_eq!(old.tls, uring.tls);
    }

    #[test]
    fn what_is_no_program_and_no_revision_is_refused() {
        let err = find_or_build("no-such-thing").unwrap_err().to_string();
        assert!(err.contains("neither a program nor a git revision"), "{err}");
        assert!(find_or_build(&workspace().join("Cargo.toml").to_string_lossy()).is_ok());
    }
}
