//! The columns of `/debug/clients`: name, order, and how each reads in JSON and in a table.

use std::cmp::Ordering;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::seconds;
use crate::stats::DropReason;
use crate::tls::handshake::TlsVersion;
use crate::worker::listing::Client;

#[derive(Debug)]
pub(super) struct Column {
    /// In JSON, and what `sort` is given.
    pub name: &'static str,
    /// At the head of a table.
    pub head: &'static str,
    pub order: fn(&Client, &Client) -> Ordering,
    pub json: fn(&Client) -> Value,
    pub text: fn(&Client) -> String,
}

macro_rules! column {
    ($name:literal, $head:literal, |$c:ident| $key:expr, $json:expr, $text:expr) => {
        Column {
            name: $name,
            head: $head,
            order: |a, b| {
                let key = |$c: &Client| $key;
                key(a).cmp(&key(b))
            },
            json: |$c| $json,
            text: |$c| $text,
        }
    };
    // A number that reads the same everywhere.
    ($name:literal, $head:literal, |$c:ident| $key:expr) => {
        column!($name, $head, |$c| $key, json!($key), $key.to_string())
    };
}

pub(super) const COLUMNS: [Column; 21] = [
    column!("key", "key", |c| c.key, json!(c.key.to_string()), c.key.to_string()),
    column!(
        "address",
        "address",
        |c| c.address,
        json!(c.address),
        c.address.map_or_else(String::new, |a| a.to_string())
    ),
    column!("worker", "worker", |c| c.worker),
    column!("connected_seconds", "connected", |c| c.age, seconds(c.age), time(c.age)),
    column!("idle_seconds", "idle", |c| c.idle, seconds(c.idle), time(c.idle)),
    column!("transport", "speaks", |c| c.websocket, json!(transport(c)), transport(c).to_owned()),
    column!("tls", "TLS", |c| tls(c), json!(tls(c)), tls(c).unwrap_or("none").to_owned()),
    column!("home", "home", |c| c.home, json!(c.home), yes(c.home)),
    column!("mesh", "mesh", |c| c.mesh, json!(c.mesh), yes(c.mesh)),
    column!("prober", "prober", |c| c.prober, json!(c.prober), yes(c.prober)),
    column!("not_ideal", "not ideal", |c| c.not_ideal, json!(c.not_ideal), yes(c.not_ideal)),
    column!("shared", "shared key", |c| c.shared, json!(c.shared), yes(c.shared)),
    column!("packets_in", "packets in", |c| c.totals.packets_in),
    column!("bytes_in", "bytes in", |c| c.totals.bytes_in),
    column!("packets_out", "packets out", |c| c.totals.packets_out),
    column!("bytes_out", "bytes out", |c| c.totals.bytes_out),
    column!("drops", "drops", |c| dropped(c), drops(c), drops_text(c)),
    column!("queued_packets", "queued", |c| c.queued_packets),
    column!("queued_bytes", "queued bytes", |c| c.queued_bytes),
    column!("queue_seconds", "oldest queued", |c| c.queue_age, maybe(c.queue_age), maybe_text(c.queue_age)),
    column!("rtt_seconds", "RTT", |c| c.round_trip, rtt(c), maybe_text(c.round_trip)),
];

fn transport(client: &Client) -> &'static str {
    if client.websocket { "websocket" } else { "derp" }
}

fn tls(client: &Client) -> Option<&'static str> {
    client.tls.map(|version| match version {
        TlsVersion::V1_2 => "1.2",
        TlsVersion::V1_3 => "1.3",
    })
}

fn yes(is: bool) -> String {
    if is { "yes" } else { "" }.to_owned()
}

fn dropped(client: &Client) -> u64 {
    client.totals.drops.iter().sum()
}

/// All reasons, so that programs need not guess.
fn drops(client: &Client) -> Value {
    let pair = |reason: &DropReason| (reason.to_string(), client.totals.drops[*reason as usize].into());
    Value::Object(DropReason::ALL.iter().map(pair).collect::<Map<_, _>>())
}

/// Only what there is.
fn drops_text(client: &Client) -> String {
    let count = |reason: &DropReason| client.totals.drops[*reason as usize];
    let some = DropReason::ALL.iter().filter(|reason| count(reason) > 0);
    some.map(|reason| format!("{reason} {}", count(reason))).collect::<Vec<_>>().join(", ")
}

fn maybe(time: Option<Duration>) -> Value {
    time.map_or(Value::Null, seconds)
}

/// To the microsecond.
fn rtt(client: &Client) -> Value {
    client.round_trip.map_or(Value::Null, |time| json!(time.as_micros() as f64 / 1e6))
}

fn maybe_text(time: Option<Duration>) -> String {
    time.map_or_else(String::new, |time| format!("{:.1} ms", time.as_secs_f64() * 1000.0))
}

/// Two units, the larger one first.
pub(in crate::admin) fn time(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_in_two_units() {
        let text = |seconds| time(Duration::from_secs(seconds));
        assert_eq!([text(0), text(59), text(60), text(3599)], ["0 s", "59 s", "1 min 0 s", "59 min 59 s"]);
        assert_eq!([text(3600), text(86_399), text(90_000)], ["1 h 0 min", "23 h 59 min", "1 d 1 h"]);
    }
}
