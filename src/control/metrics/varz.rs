//! `/debug/varz`: derper's variables for Prometheus, by derper's rules.
//!
//! First what Prometheus itself calls the figures of a process; then all variables by name, without the prefix that
//! says their type. Members of a set are joined to its name. Plain numbers are counters, computed ones have no type.

use std::fmt::{self, Write as _};

use super::derper::Var;
use super::histograms;
use super::pass::Pass;
use super::prometheus::write_family;
use super::table;

/// `vars` in any order.
pub fn render(pass: &Pass, vars: &[(&'static str, Var)]) -> String {
    let mut out = String::new();
    // A string takes everything.
    for series in table::process::SERIES {
        let _ = write_family(&mut out, series, &[], pass);
    }
    let mut vars: Vec<_> = vars.iter().map(|(name, var)| (typed(name), var)).collect();
    vars.sort_by_key(|((_, name), _)| *name);
    for ((kind, name), var) in vars {
        let _ = push(&mut out, kind, name, var);
    }
    out
}

/// The type that a name begins with, and the rest.
fn typed(name: &str) -> (Option<&'static str>, &str) {
    for (prefix, kind) in [("gauge_", "gauge"), ("counter_", "counter")] {
        if let Some(rest) = name.strip_prefix(prefix) {
            return (Some(kind), rest);
        }
    }
    (None, name)
}

fn push(out: &mut String, kind: Option<&str>, name: &str, var: &Var) -> fmt::Result {
    let kind = match var {
        Var::Text(_) | Var::Texts(_) | Var::Coder(_) => return Ok(()),
        Var::Histogram(_) => Some("histogram"),
        Var::Whole(_) | Var::Drops { .. } => kind.or(Some("counter")),
        _ => kind,
    };
    if let Some(kind) = kind {
        writeln!(out, "# TYPE {name} {kind}")?;
    }
    match var {
        Var::Whole(n) => writeln!(out, "{name} {n}"),
        Var::Computed(n) => writeln!(out, "{name} {n}"),
        Var::Map { label, values } => {
            values.iter().try_for_each(|(value, n)| writeln!(out, "{name}{{{label}=\"{value}\"}} {n}"))
        }
        Var::Drops { help, values } => {
            // Behind the type, as derper has it; readers take either.
            writeln!(out, "# HELP {name} {help}")?;
            let labelled = |(reason, kind, n): &(_, _, u64)| -> fmt::Result {
                writeln!(out, "{name}{{reason=\"{reason}\",kind=\"{kind}\"}} {n}")
            };
            values.iter().try_for_each(labelled)
        }
        Var::Histogram(distribution) => histograms::write_samples(out, name, distribution, 0),
        Var::Set(vars) => vars.iter().try_for_each(|(member, var)| {
            let (kind, member) = typed(member);
            push(out, kind, &format!("{name}_{member}"), var)
        }),
        Var::Version(version) => writeln!(out, "{name}{{version=\"{version}\",binary=\"derpring\"}} 1"),
        Var::Text(_) | Var::Texts(_) | Var::Coder(_) => Ok(()),
    }
}
