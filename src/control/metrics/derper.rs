//! The variables that derper and Coder's relay publish, under the names that they have there, with our numbers.
//!
//! What derper counts and this relay does not do yet (mesh dialling) is there at zero, which is
//! what happened. What only Go has (goroutines, its heap) is left out.

use std::time::UNIX_EPOCH;

use crate::control::bootstrap_dns::Count;
use crate::stats::{CloseReason, DropReason, ROUND_TRIP_LABELS, StunResult};

use super::pass::{Distribution, Pass};
use super::series::Number;

/// A variable, as expvar knows it.
pub enum Var {
    Whole(u64),
    /// A function in derper: Prometheus is told no type, unless the name does.
    Computed(Number),
    /// Only JSON has these.
    Text(&'static str),
    Texts(Vec<String>),
    /// One number for each value of a label.
    Map {
        label: &'static str,
        values: Vec<(&'static str, u64)>,
    },
    /// Dropped packets or bytes by reason and kind.
    Drops {
        help: &'static str,
        values: Vec<(&'static str, &'static str, u64)>,
    },
    Histogram(Distribution),
    Set(Vec<(&'static str, Var)>),
    /// Its labels are what there is to know.
    Version(&'static str),
    /// Coder's: JSON has it. In varz its name would be that of another.
    Coder(Box<Var>),
}

type Vars = Vec<(&'static str, Var)>;

/// Everything, sorted by name as expvar sorts.
pub fn variables(pass: &Pass) -> Vars {
    let since_1970 = |at: std::time::SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut vars = vec![
        ("cmdline", Var::Texts(std::env::args().collect())),
        ("counter_uptime_sec", Var::Computed(pass.uptime.as_secs().into())),
        ("derp", Var::Set(derp(pass))),
        (
            "derp_bytes_dropped",
            drops("DERP bytes dropped by reason and by kind", |reason, kind| {
                pass.sum(|w| w.dropped_bytes[reason][kind])
            }),
        ),
        (
            "derp_packets_dropped",
            drops("DERP packets dropped by reason and by kind", |reason, kind| {
                pass.sum(|w| w.dropped_packets[reason][kind])
            }),
        ),
        ("derp_websocket_accepts", Var::Whole(pass.edge_sum(|e| e.websocket_accepts))),
        ("derper_tls_request_version", tls_versions(pass, [pass.edge_sum(|e| e.tls12), pass.edge_sum(|e| e.tls13)])),
        (
            "gauge_derper_tls_active_version",
            tls_versions(pass, [0, 1].map(|version| pass.sum(|w| w.tls_connections[version]))),
        ),
        ("node_boot_time_seconds", Var::Computed(pass.process.machine_started.into())),
        ("process", Var::Coder(Box::new(process(pass)))),
        ("process_start_unix_time", Var::Computed(since_1970(pass.started).into())),
        ("stun", Var::Set(stun(pass))),
        ("version", Var::Version(pass.build.version)),
    ];
    vars.extend(
        BOOTSTRAP_DNS.map(|(name, count)| (name, Var::Whole(pass.edge_sum(|e| e.bootstrap_dns[count as usize])))),
    );
    vars.push(("counter_bootstrap_dns_queried_domains", Var::Computed(pass.names_asked.into())));
    if pass.build.tls {
        vars.push(("tls_listener", Var::Set(tls_listener(pass))));
    }
    vars.sort_by_key(|(name, _)| *name);
    vars
}

const BOOTSTRAP_DNS: [(&str, Count); Count::COUNT] = [
    ("counter_bootstrap_dns_published_hits", Count::PublishedHits),
    ("counter_bootstrap_dns_published_misses", Count::PublishedMisses),
    ("counter_bootstrap_dns_requests", Count::Requests),
    ("counter_bootstrap_dns_unpublished_hits", Count::UnpublishedHits),
    ("counter_bootstrap_dns_unpublished_misses", Count::UnpublishedMisses),
    ("counter_bootstrap_dns_unpublished_percent_misses", Count::UnpublishedPercentMisses),
];

/// Keys announced at a time, and rounds of one announcement, to mesh peers.
const MESH_BATCH: [u64; 11] = [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000];
const MESH_LOOPS: [u64; 8] = [0, 1, 2, 5, 10, 20, 50, 100];

/// The set `derp`.
fn derp(pass: &Pass) -> Vars {
    let mut set = plain(pass);
    set.extend([
        ("average_queue_duration_ms", Var::Computed(pass.queue_ms.into())),
        ("counter_buffered_write_frames", Var::Histogram(pass.write_frames.clone())),
        ("counter_mesh_update_batch_size", Var::Histogram(Distribution::empty(&MESH_BATCH))),
        ("counter_mesh_update_loop_count", Var::Histogram(Distribution::empty(&MESH_LOOPS))),
        ("counter_packets_received_kind", kinds("kind", |kind| pass.sum(|w| w.packets_received[kind]))),
        ("counter_tcp_rtt", map("le", ROUND_TRIP_LABELS.iter().copied(), |at| pass.sum(|w| w.round_trip[at]))),
        ("packets_dropped", coder(Var::Whole(pass.packets_dropped()))),
        ("counter_packets_dropped_reason", coder(map("reason", reasons(), |reason| pass.packets_dropped_for(reason)))),
        ("counter_packets_dropped_type", coder(kinds("type", |kind| pass.packets_dropped_of(kind)))),
        ("version", Var::Text(pass.build.version)),
    ]);
    set.sort_by_key(|(name, _)| *name);
    set
}

/// Counters and gauges of the set `derp` that are one number.
fn plain(pass: &Pass) -> Vars {
    let clients = pass.replica(|w| w.keys);
    let numbers = [
        ("accepts", pass.edge_sum(|e| e.derp_accepts)),
        ("bytes_received", pass.sum(|w| w.bytes_received)),
        ("bytes_sent", pass.sum(|w| w.bytes_sent)),
        ("counter_total_dup_client_conns", pass.sum(|w| w.dup_conns_total)),
        ("gauge_clients_local", clients),
        ("gauge_clients_remote", 0),
        ("gauge_clients_total", clients),
        ("gauge_current_connections", pass.sum(|w| w.connections)),
        ("gauge_current_dup_client_conns", pass.replica(|w| w.dup_conns)),
        ("gauge_current_dup_client_keys", pass.replica(|w| w.dup_keys)),
        ("gauge_current_file_descriptors", pass.process.open_descriptors),
        ("gauge_current_home_connections", pass.sum(|w| w.home_connections)),
        ("gauge_current_notideal_connections", pass.sum(|w| w.not_ideal_connections)),
        ("gauge_memstats_sys0", pass.memory_at_start),
        ("gauge_watchers", pass.sum(|w| w.watchers)),
        ("got_ping", pass.sum(|w| w.got_ping)),
        ("home_moves_in", pass.sum(|w| w.home_moves_in)),
        ("home_moves_out", pass.sum(|w| w.home_moves_out)),
        ("multiforwarder_created", 0),
        ("multiforwarder_deleted", 0),
        ("packet_forwarder_delete_other_value", 0),
        ("packets_forwarded_in", pass.sum(|w| w.packets_forwarded_in)),
        ("packets_forwarded_out", 0),
        ("packets_received", pass.packets_received()),
        ("packets_sent", pass.sum(|w| w.packets_sent)),
        ("peer_gone_disconnected_frames", pass.sum(|w| w.peer_gone_disconnected)),
        ("peer_gone_not_here_frames", pass.sum(|w| w.peer_gone_not_here)),
        ("sclient_write_timeouts", pass.sum(|w| w.write_timeouts)),
        ("sent_pong", pass.sum(|w| w.sent_pong)),
        ("unknown_frames", pass.sum(|w| w.unknown_frames)),
    ];
    numbers.map(|(name, number)| (name, Var::Whole(number))).into()
}

/// derper counts requests; here a handshake stands for all that came over it, and a logged-in client for its own.
fn tls_versions(pass: &Pass, numbers: [u64; 2]) -> Var {
    let values = if pass.build.tls { vec![("1.2", numbers[0]), ("1.3", numbers[1])] } else { Vec::new() };
    Var::Map { label: "version", values }
}

fn tls_listener(pass: &Pass) -> Vars {
    let rejected = pass.edge_sum(|e| e.closes[CloseReason::AcceptLimit as usize]);
    // Read a moment apart from each other.
    let accepted = pass.edge_sum(|e| e.accepts).saturating_sub(rejected);
    vec![("counter_accepted_connections", Var::Whole(accepted)), ("counter_rejected_connections", Var::Whole(rejected))]
}

/// derper knows no limit: what is over ours is in none of its dispositions.
fn stun(pass: &Pass) -> Vars {
    let requests = [
        ("not_stun", pass.stun.of(StunResult::NotStun)),
        ("read_error", pass.stun.read_errors),
        ("success", pass.stun.of(StunResult::Answered) + pass.stun.of(StunResult::Refused)),
        ("write_error", pass.stun.of(StunResult::WriteError)),
    ];
    let dispositions = requests.iter().map(|(disposition, _)| *disposition);
    vec![
        ("counter_addrfamily", map("family", ["ipv4", "ipv6"].into_iter(), |family| pass.stun.valid(family))),
        ("counter_requests", map("disposition", dispositions, |at| requests[at].1)),
    ]
}

/// In varz these are Prometheus' own names, at the top.
fn process(pass: &Pass) -> Var {
    Var::Set(vec![
        ("cpu_seconds", Var::Computed(Number::Nanos(pass.process.cpu_ns))),
        ("open_fds", Var::Whole(pass.process.open_descriptors)),
        ("max_fds", Var::Whole(pass.limits.descriptors)),
        ("resident_memory_bytes", Var::Whole(pass.process.resident_bytes)),
        ("virtual_memory_bytes", Var::Whole(pass.process.virtual_bytes)),
    ])
}

fn coder(var: Var) -> Var {
    Var::Coder(Box::new(var))
}

fn reasons() -> impl Iterator<Item = &'static str> {
    DropReason::ALL.iter().map(|reason| reason.as_str())
}

/// Of data and disco, which the cells have side by side.
const KINDS: [&str; 2] = ["other", "disco"];

fn kinds(label: &'static str, number: impl Fn(usize) -> u64) -> Var {
    map(label, KINDS.into_iter(), number)
}

/// Sorted by label value, as expvar does.
fn map(label: &'static str, values: impl Iterator<Item = &'static str>, number: impl Fn(usize) -> u64) -> Var {
    let mut values: Vec<_> = values.enumerate().map(|(at, value)| (value, number(at))).collect();
    values.sort_unstable();
    Var::Map { label, values }
}

fn drops(help: &'static str, number: impl Fn(usize, usize) -> u64) -> Var {
    let of = |(at, reason): (usize, &'static str)| [0, 1].map(|kind| (reason, KINDS[kind], number(at, kind)));
    let mut values: Vec<_> = reasons().enumerate().flat_map(of).collect();
    values.sort_unstable();
    Var::Drops { help, values }
}
