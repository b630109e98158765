//! What can be counted on any machine, however busy, and what it may come to. A change that costs more fails here;
//! whoever means it raises the budget in perf/budgets.toml, with the reason beside it.

mod callgrind;
mod heap;
mod locked;
mod syscalls;

use std::path::Path;

use serde::Deserialize;
use tempfile::TempDir;

use crate::cli::Budgets;
use crate::config;
use crate::error::Error;
use crate::programs::{Programs, workspace};
use crate::summary::number;

/// So far below its budget a figure is better than the file knows.
const SLACK: f64 = 0.25;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BudgetFile {
    budget: Vec<Budget>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Budget {
    name: String,
    count: Count,
    /// Flags of what is counted: of derpring-line, or of the generator; for locked instructions, what the names of the
    /// functions begin with, with commas between.
    with: String,
    at_most: f64,
    /// Why this much, and what it was when the budget was set.
    reason: String,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Count {
    /// Per packet, in the workers' turns, on the simulated network.
    Instructions,
    /// Per packet, there too.
    Allocations,
    /// Bytes that a session holds which does nothing.
    HeapPerSession,
    /// Per packet, of the worker of a real relay.
    SystemCalls,
    /// In the code of functions, however often they run.
    LockedInstructions,
}

struct Checked {
    budget: Budget,
    /// What was counted, or why it could not be.
    measured: Result<f64, Error>,
}

pub fn check(args: &Budgets) -> Result<bool, Error> {
    let budgets = read(&workspace().join("perf/budgets.toml"))?;
    let wanted = |budget: &Budget| args.only.as_ref().is_none_or(|text| budget.name.contains(text));
    let budgets: Vec<Budget> = budgets.into_iter().filter(wanted).collect();
    if budgets.is_empty() {
        return Err(Error::Config("no budget has a name like that: see perf/budgets.toml".into()));
    }
    let binaries = &args.binaries;
    let programs = Programs::ours(&[
        ("derpring", binaries.relay_bin.as_ref()),
        ("loadgen", binaries.loadgen_bin.as_ref()),
        ("line", args.line_bin.as_ref()),
    ])?;
    let work = TempDir::new().map_err(Error::file("the folder for temporary files"))?;
    let mut checked = Vec::new();
    for budget in budgets {
        eprintln!("counting {}", budget.name);
        let measured = count(&budget, &programs, work.path());
        checked.push(Checked { budget, measured });
    }
    print!("{}", table(&checked));
    Ok(checked.iter().all(Checked::holds))
}

fn read(path: &Path) -> Result<Vec<Budget>, Error> {
    let file: BudgetFile = config::read(path)?;
    match file.budget.iter().find(|budget| budget.reason.trim().is_empty()) {
        Some(budget) => Err(Error::Config(format!("{}: the budget {:?} needs a reason", path.display(), budget.name))),
        None => Ok(file.budget),
    }
}

fn count(budget: &Budget, programs: &Programs, work: &Path) -> Result<f64, Error> {
    let flags: Vec<&str> = budget.with.split_whitespace().collect();
    match budget.count {
        Count::Instructions => callgrind::instructions_per_packet(programs.need("line")?, &flags, work),
        Count::Allocations => callgrind::allocations_per_packet(programs.need("line")?, &flags),
        Count::HeapPerSession => heap::bytes_per_session(programs.need("line")?, &flags),
        Count::SystemCalls => syscalls::per_packet(programs, &flags, work),
        Count::LockedInstructions => {
            let names: Vec<&str> = budget.with.split(',').map(str::trim).collect();
            locked::in_functions(programs.need("derpring")?, &names)
        }
    }
}

impl Checked {
    fn holds(&self) -> bool {
        self.measured.as_ref().is_ok_and(|measured| *measured <= self.budget.at_most)
    }

    fn verdict(&self) -> &'static str {
        match &self.measured {
            Err(_) => "NOT COUNTED",
            Ok(_) if !self.holds() => "EXCEEDED",
            Ok(measured) if *measured < (1.0 - SLACK) * self.budget.at_most => "well below: lower it",
            Ok(_) => "",
        }
    }
}

fn table(checked: &[Checked]) -> String {
    let mut out = format!("{:<58} {:>10} {:>10} {:>8}\n", "budget", "measured", "budget", "margin");
    for one in checked {
        let Checked { budget, measured } = one;
        let (measured, margin) = match measured {
            Ok(measured) if budget.at_most > 0.0 => {
                (number(*measured), format!("{:.1} %", 100.0 * (1.0 - measured / budget.at_most)))
            }
            Ok(measured) => (number(*measured), String::new()),
            Err(_) => ("-".to_owned(), String::new()),
        };
        let at_most = number(budget.at_most);
        let line = format!("{:<58} {measured:>10} {at_most:>10} {margin:>8}  {}", budget.name, one.verdict());
        out += line.trim_end();
        out.push('\n');
    }
    let failed: Vec<&Checked> = checked.iter().filter(|checked| !checked.holds()).collect();
    for Checked { budget, measured } in &failed {
        out += &match measured {
            Err(err) => format!("\n{}: could not be counted: {err}\n", budget.name),
            Ok(measured) => format!(
                "\n{}: {} is more than {}. Find what the change costs (cargo run -p derpring-perf -- budgets --only, \
                 callgrind_annotate, flame); if it is worth it, raise at_most in perf/budgets.toml and say there why. \
                 The reason so far: {}\n",
                budget.name,
                number(*measured),
                number(budget.at_most),
                budget.reason.trim()
            ),
        };
    }
    let word = if failed.is_empty() { "all hold" } else { "NOT ALL HOLD" };
    out + &format!("\n{} budgets, {} exceeded or not counted: {word}\n", checked.len(), failed.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(at_most: f64, measured: Result<f64, Error>) -> Checked {
        let text = format!(
            "name = \"b{at_most}\"\ncount = \"system-calls\"\nwith = \"\"\nat_most = {at_most:?}\nreason = \"r\"\n"
        );
        Checked { budget: toml::from_str(&text).unwrap(), measured }
    }

    #[test]
    fn the_file_is_read_and_every_kind_is_in_it() {
        let budgets = read(&workspace().join("perf/budgets.toml")).unwrap();
        for count in [
            Count::Instructions,
            Count::Allocations,
            Count::HeapPerSession,
            Count::SystemCalls,
            Count::LockedInstructions,
        ] {
            assert!(budgets.iter().any(|budget| budget.count == count), "{count:?}");
        }
        assert!(budgets.iter().all(|budget| budget.name.len() <= 58), "names fit into the table");
    }

    #[test]
    fn a_budget_without_a_reason_or_with_an_unknown_key_is_refused() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("budgets.toml");
        let write = |more: &str| {
            let text =
                format!("[[budget]]\nname = \"x\"\ncount = \"allocations\"\nwith = \"\"\nat_most = 1.0\n{more}\n");
            std::fs::write(&path, text).unwrap();
            read(&path).map_err(|err| err.to_string())
        };
        assert!(write("reason = \"because\"").is_ok());
        assert!(write("reason = \" \"").unwrap_err().contains("needs a reason"));
        assert!(write("reason = \"because\"\nat_least = 1").unwrap_err().contains("at_least"));
    }

    #[test]
    fn what_is_at_its_budget_holds_and_what_is_not_counted_does_not() {
        assert!(checked(2.0, Ok(2.0)).holds() && checked(0.0, Ok(0.0)).holds());
        assert!(!checked(2.0, Ok(2.01)).holds());
        assert!(!checked(2.0, Err(Error::Relay("gone".into()))).holds());
    }

    #[test]
    fn the_table_says_what_to_do() {
        let all = [
            checked(100.0, Ok(98.0)),
            checked(200.0, Ok(100.0)),
            checked(300.0, Ok(330.0)),
            checked(400.0, Err(Error::Relay("no relay".into()))),
        ];
        let text = table(&all);
        for part in [
            "2.0 %",
            "well below: lower it",
            "-10.0 %  EXCEEDED",
            "NOT COUNTED",
            "b300: 330 is more than 300",
            "raise at_most",
            "b400: could not be counted: no relay",
            "4 budgets, 2 exceeded or not counted: NOT ALL HOLD",
        ] {
            assert!(text.contains(part), "{part} is in\n{text}");
        }
        assert!(table(&all[..2]).ends_with("2 budgets, 0 exceeded or not counted: all hold\n"));
    }
}
