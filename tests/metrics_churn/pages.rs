//! The pages with numbers, each read by a parser that is not ours, as counters and gauges.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::Value as Json;

use crate::http::{ask, get};
use crate::scrape::{Scrape, Value, read_openmetrics, read_text};

/// Numbers of one page at one moment, by name and labels.
#[derive(Default)]
pub struct Numbers {
    /// Must never fall. Every bucket, sum and count of a histogram is among them.
    pub counters: BTreeMap<String, f64>,
    pub gauges: BTreeMap<String, f64>,
}

pub type Read = fn(SocketAddr) -> Numbers;

/// All of them, for one thread each.
pub const PAGES: [(&str, Read); 5] = [
    ("/metrics", metrics),
    ("/metrics as OpenMetrics", openmetrics),
    ("/debug/vars", vars),
    ("/debug/varz", varz),
    ("/debug/clients", clients),
];

pub fn metrics(to: SocketAddr) -> Numbers {
    let numbers = numbers(&read_text(&page(to, "/metrics", &[])));
    adds_up(&numbers);
    numbers
}

fn openmetrics(to: SocketAddr) -> Numbers {
    let body = page(to, "/metrics", &["Accept: application/openmetrics-text; version=1.0.0"]);
    let numbers = numbers(&read_openmetrics(&body));
    adds_up(&numbers);
    numbers
}

/// The parser is narrower than Prometheus: it wants a type for everything and nothing that has only a type, and takes a
/// name that ends in `_count` for a part of another one.
fn varz(to: SocketAddr) -> Numbers {
    let body = page(to, "/debug/varz", &[]).replace("derp_mesh_update_loop_count", "derp_mesh_update_loops");
    let mut body = body.replace("# TYPE derper_tls_active_version gauge\n", "");
    for name in ["derp_average_queue_duration_ms", "node_boot_time_seconds", "process_start_unix_time", "version"] {
        let at = body.find(&format!("\n{name}")).unwrap_or_else(|| panic!("{name} is in\n{body}"));
        body.insert_str(at + 1, &format!("# TYPE {name} gauge\n"));
    }
    numbers(&read_text(&body))
}

fn vars(to: SocketAddr) -> Numbers {
    let mut numbers = Numbers::default();
    let all = get(to, "/debug/vars").json();
    // The one about the process is no counter.
    for (name, value) in all.as_object().unwrap().iter().filter(|(name, _)| *name != "process") {
        numbers.take(name, value);
    }
    assert!(numbers.counters.contains_key("derp/accepts"), "{all:#}");
    numbers
}

/// Who is connected: a page of it has no counters, but must hold together.
pub fn clients(to: SocketAddr) -> Numbers {
    let all = get(to, "/debug/clients?sort=bytes_in&order=desc&limit=1000").json();
    let rows = all["clients"].as_array().unwrap_or_else(|| panic!("no clients in {all:#}"));
    let connected = all["connected"].as_u64().unwrap_or_else(|| panic!("no number of clients in {all:#}"));
    assert_eq!(all["matched"], connected, "nothing was filtered");
    assert_eq!(rows.len() as u64, connected.min(1000), "{all:#}");
    let missing = all["missing_workers"].as_array().unwrap_or_else(|| panic!("no list of workers in {all:#}"));
    let mut names: Vec<(String, String)> =
        rows.iter().map(|row| (row["key"].to_string(), row["address"].to_string())).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), rows.len(), "somebody is listed twice: {all:#}");
    let bytes: Vec<u64> = rows.iter().map(|row| row["bytes_in"].as_u64().expect("a number of bytes")).collect();
    assert!(bytes.is_sorted_by(|a, b| a >= b), "expected the order that was asked for: {bytes:?}");
    // How soon a worker answers is the machine's affair as much as its own.
    let counts = [("connected", connected as f64), ("missing workers", missing.len() as f64)];
    Numbers { gauges: counts.map(|(name, count)| (name.to_owned(), count)).into(), ..Numbers::default() }
}

fn page(to: SocketAddr, path: &str, headers: &[&str]) -> String {
    let answer = ask(to, "GET", path, headers, "");
    assert_eq!(answer.status, 200, "{path}: {}\n{}", answer.head, answer.body);
    answer.body
}

impl Numbers {
    /// Expvar: what is no gauge by its name is a counter.
    fn take(&mut self, path: &str, value: &Json) {
        match value {
            Json::Number(number) => {
                let last = path.rsplit('/').next().unwrap();
                let gauge = path.contains("gauge_") || last == "average_queue_duration_ms";
                let to = if gauge { &mut self.gauges } else { &mut self.counters };
                to.insert(path.to_owned(), number.as_f64().unwrap());
            }
            Json::Object(members) => {
                for (name, value) in members {
                    self.take(&format!("{path}/{name}"), value);
                }
            }
            _ => {}
        }
    }
}

fn numbers(scrape: &Scrape) -> Numbers {
    let mut numbers = Numbers::default();
    for (name, family) in scrape {
        for (labels, value) in &family.samples {
            let of = format!("{name}{{{labels}}}");
            match value {
                Value::Number(number) if family.kind == "counter" => {
                    numbers.counters.insert(of, *number);
                }
                Value::Number(number) => {
                    numbers.gauges.insert(of, *number);
                }
                Value::Histogram { buckets, sum, count } => {
                    is_cumulative(&of, buckets, *count);
                    for (bound, values) in buckets {
                        numbers.counters.insert(format!("{of} up to {bound}"), *values);
                    }
                    numbers.counters.insert(format!("{of} sum"), *sum);
                    numbers.counters.insert(format!("{of} count"), *count as f64);
                }
            }
        }
    }
    numbers
}

fn is_cumulative(name: &str, buckets: &[(f64, f64)], count: u64) {
    assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{name}: {buckets:?} are not cumulative");
    let last = buckets.last().unwrap_or_else(|| panic!("{name} has no buckets"));
    assert_eq!(*last, (f64::INFINITY, count as f64), "{name}: the last bucket is everything");
}

/// Sums are those of their parts in every body, also while the parts grow.
fn adds_up(numbers: &Numbers) {
    let coder = |name: &str| numbers.counters[&format!("coder_derp_server_{name}_total{{}}")];
    let parts = |name: &str| sum(&numbers.counters, &format!("coder_derp_server_{name}_total{{"));
    assert_eq!(coder("packets_dropped"), parts("packets_dropped_reason"), "dropped packets by reason");
    assert_eq!(coder("packets_dropped"), parts("packets_dropped_type"), "dropped packets by type");
    assert_eq!(coder("packets_received"), parts("packets_received_kind"), "received packets by kind");
}

/// Over all labels.
pub fn sum(of: &BTreeMap<String, f64>, prefix: &str) -> f64 {
    of.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, value)| value).sum()
}
