//! `/debug/vars`: JSON in the form and order of Go's expvar.
//!
//! One difference is on purpose: for drops by reason and kind derper prints the name of a type; here are the numbers.

use std::fmt::{self, Write as _};

use super::derper::Var;
use super::pass::Distribution;

/// `vars` sorted by name.
pub fn render(vars: &[(&'static str, Var)]) -> String {
    let mut out = String::from("{\n");
    // A string takes everything.
    let _ = list(&mut out, ",\n", vars, member);
    out.push_str("\n}\n");
    out
}

fn member(out: &mut String, (name, var): &(&'static str, Var)) -> fmt::Result {
    write!(out, "{}: ", quoted(name))?;
    value(out, var)
}

fn value(out: &mut String, var: &Var) -> fmt::Result {
    match var {
        Var::Whole(n) => write!(out, "{n}"),
        Var::Computed(n) => write!(out, "{n}"),
        Var::Text(text) | Var::Version(text) => write!(out, "{}", quoted(text)),
        Var::Texts(texts) => {
            out.push('[');
            list(out, ",", texts, |out, text| write!(out, "{}", quoted(text)))?;
            out.push(']');
            Ok(())
        }
        Var::Map { values, .. } => object(out, values, |out, (name, n)| write!(out, "{}: {n}", quoted(name))),
        Var::Drops { values, .. } => {
            object(out, values, |out, (reason, kind, n)| write!(out, "\"{reason}/{kind}\": {n}"))
        }
        Var::Histogram(distribution) => histogram(out, distribution),
        Var::Set(vars) => object(out, vars, member),
        Var::Coder(var) => value(out, var),
    }
}

fn object<T>(out: &mut String, members: &[T], push: impl Fn(&mut String, &T) -> fmt::Result) -> fmt::Result {
    out.push('{');
    list(out, ", ", members, push)?;
    out.push('}');
    Ok(())
}

fn list<T>(out: &mut String, between: &str, all: &[T], push: impl Fn(&mut String, &T) -> fmt::Result) -> fmt::Result {
    for (at, one) in all.iter().enumerate() {
        out.push_str(if at > 0 { between } else { "" });
        push(out, one)?;
    }
    Ok(())
}

/// Cumulative, with the bounds as names.
fn histogram(out: &mut String, distribution: &Distribution) -> fmt::Result {
    out.push('{');
    for (bound, values) in distribution.cumulative() {
        write!(out, "\"{bound}\": {values},")?;
    }
    let (count, sum) = (distribution.count(), distribution.sum());
    write!(out, "\"+Inf\": {count},\"sum\": {sum},\"count\": {count}}}")
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
