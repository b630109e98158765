//! docs/METRICS.md, out of the table.

use std::fmt::Write as _;

use super::series::{Series, Source, Split, Unit};
use super::table;

const HEAD: &str = "\
# Metrics

Made from the table in `src/control/metrics/table/`; a test compares. After a change there:
`DERPRING_WRITE_DOCS=1 cargo test --test metrics`.

`/metrics` has everything below, in Prometheus' text or, where `Accept` asks for it, in OpenMetrics 1.0. Every label
value is there at zero from the start, and there are no others: no label ever has a key or an address in it. One body
is one reading of all counters; those who ask at the same time share it. The workers' counters are read without a lock,
and a worker never waits for whoever reads.
";

const TAIL: &str = "
## Derper's names

`/debug/vars` (expvar JSON) and `/debug/varz` (Prometheus' text) have what derper has there, under the same names, in
the same order, with the numbers of the series above. What differs:

- Of what is computed from Go's runtime (goroutines, its heap, `go_version`) there is nothing. Instead `/debug/vars` has
  `process`: CPU time, memory and file descriptors.
- `derp` in `/debug/vars` has three members more, those of Coder's relay: `packets_dropped`,
  `counter_packets_dropped_reason`, `counter_packets_dropped_type`.
- `derp_packets_dropped` and `derp_bytes_dropped` are objects in `/debug/vars`, by `reason/kind`; derper prints the name
  of a Go type.
- `counter_tcp_rtt` has all its labels from the start.
- `derper_tls_request_version` counts TLS handshakes, not the requests that came over them;
  `derper_tls_active_version` counts clients that are logged in.
- What this relay does not do yet is at zero: `packets_forwarded_out`, `gauge_clients_remote`, `multiforwarder_*`,
  `counter_mesh_update_*`. The members for `-rate-config` come with it.
- `stun`: requests beyond a network's limit are in none of derper's dispositions; see `derpring_stun_requests_total`.
";

/// The whole text.
pub fn markdown() -> String {
    let mut out = String::from(HEAD);
    for section in table::sections() {
        // A string takes everything.
        let _ = write!(out, "\n## {}\n\n{}\n", section.title, wrapped(section.text));
        for series in section.series {
            describe(&mut out, series);
        }
    }
    out.push_str(TAIL);
    out
}

fn describe(out: &mut String, series: &Series) {
    let Series { name, help, meaning, action, .. } = series;
    let labels = labels(series);
    let what = wrapped(&format!("A {}{}{labels}. {help} {meaning}", series.kind.as_str(), unit(series)));
    let action = wrapped(&format!("*When it moves:* {action}"));
    let _ = write!(out, "\n### `{name}`\n\n{what}\n\n{action}\n");
}

/// In lines of at most 120 columns.
fn wrapped(text: &str) -> String {
    let mut out = String::new();
    let mut column = 0;
    for word in text.split_whitespace() {
        let begins = column == 0;
        if !begins && column + 1 + word.len() > 120 {
            out.push('\n');
            column = 0;
        } else if !begins {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += word.len();
    }
    out
}

fn unit(series: &Series) -> &'static str {
    match series.unit {
        Unit::Count => "",
        Unit::Bytes => " in bytes",
        Unit::Seconds => " in seconds",
        Unit::Milliseconds => " in milliseconds",
        Unit::Ratio => " from 0 to 1",
    }
}

fn labels(series: &Series) -> String {
    let values = |split: &Split| format!("`{}` ({})", split.label, (split.values)().join(", "));
    match &series.source {
        Source::Relay(_) | Source::Histogram(..) => String::new(),
        Source::RelayBy(split, _) => format!(", by {}", values(split)),
        Source::RelayByBoth(first, second, _) => format!(", by {} and {}", values(first), values(second)),
        Source::Worker(_) => ", by `worker`".to_owned(),
        Source::WorkerBy(split, _) => format!(", by `worker` and {}", values(split)),
        Source::Edge(_) => ", by `edge`".to_owned(),
        Source::EdgeBy(split, _) => format!(", by `edge` and {}", values(split)),
        Source::Build => ", with `version`, `backend`, `edge_backend`".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::metrics::series::Kind;

    /// What promtool's check of metrics asks of names, and what we ask of ourselves.
    #[test]
    fn names_and_texts_follow_the_conventions() {
        for Series { name, kind, unit, help, action, .. } in table::all() {
            let theirs = name.starts_with("coder_");
            assert!(help.ends_with('.') && !action.is_empty(), "{name} says what it is and what to do");
            assert!(!help.contains(['"', '\\', '\n']), "{name}: nothing in a help text needs to be escaped");
            assert_eq!(*kind == Kind::Counter, name.ends_with("_total"), "{name}");
            let base = name.trim_end_matches("_total");
            for reserved in ["_sum", "_count", "_bucket", "_created", "_counter", "_gauge"] {
                assert!(!base.ends_with(reserved), "{name}: {reserved} is reserved");
            }
            let ends = match unit {
                Unit::Count => "",
                Unit::Bytes => "bytes",
                Unit::Seconds => "seconds",
                Unit::Milliseconds => "ms",
                Unit::Ratio => "ratio",
            };
            assert!(theirs || base.ends_with(ends), "{name} says its unit");
            assert!(theirs || *unit != Unit::Milliseconds, "{name}: base units only");
        }
    }
}
