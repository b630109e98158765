//! `/debug/vars`: the counters of all workers and edges, summed when somebody asks.

use serde_json::{Map, Value, json};

use crate::edge;
use crate::stats::{Cell, DropReason, ROUND_TRIP_LABELS, WRITE_FRAMES_BOUNDS, WorkerStats};
use std::sync::Arc;

/// Sums over workers; the keys are the reference's `derp` set.
pub struct Vars<'a> {
    pub workers: &'a [Arc<WorkerStats>],
    pub edges: &'a [Arc<edge::Stats>],
    /// Resident bytes at start.
    pub memory_at_start: u64,
}

impl Vars<'_> {
    /// One JSON object with everything under `derp`, and the reference's top-level drop counters.
    pub fn to_json(&self) -> String {
        json!({
            "derp": self.derp(),
            "derp_packets_dropped": self.by_reason_and_kind(|w, reason, kind| &w.dropped_packets[reason][kind]),
            "derp_bytes_dropped": self.by_reason_and_kind(|w, reason, kind| &w.dropped_bytes[reason][kind]),
        })
        .to_string()
    }

    fn derp(&self) -> Value {
        let mut set = Map::new();
        let mut put = |key: &str, value: u64| {
            set.insert(key.to_owned(), value.into());
        };
        put("gauge_memstats_sys0", self.memory_at_start);
        put("gauge_current_file_descriptors", open_descriptors());
        // Every worker's directory has all keys; the first one stands for all.
        let replica = |cell: fn(&WorkerStats) -> &Cell| self.workers.first().map_or(0, |w| cell(w).get());
        put("gauge_clients_total", replica(|w| &w.keys));
        put("gauge_clients_local", replica(|w| &w.keys));
        put("gauge_clients_remote", 0);
        put("gauge_current_dup_client_keys", replica(|w| &w.dup_keys));
        put("gauge_current_dup_client_conns", replica(|w| &w.dup_conns));
        put("gauge_watchers", self.sum(|w| &w.watchers));
        put("gauge_current_connections", self.sum(|w| &w.connections));
        put("gauge_current_home_connections", self.sum(|w| &w.home_connections));
        put("gauge_current_notideal_connections", self.sum(|w| &w.not_ideal_connections));
        put("counter_total_dup_client_conns", self.sum(|w| &w.dup_conns_total));
        put("accepts", self.edges.iter().map(|e| e.derp_accepts.get()).sum());
        put("bytes_received", self.sum(|w| &w.bytes_received));
        put("packets_received", self.workers.iter().map(|w| w.received()).sum());
        put("bytes_sent", self.sum(|w| &w.bytes_sent));
        put("packets_sent", self.sum(|w| &w.packets_sent));
        put("packets_dropped", self.workers.iter().map(|w| w.dropped()).sum());
        put("unknown_frames", self.sum(|w| &w.unknown_frames));
        put("home_moves_in", self.sum(|w| &w.home_moves_in));
        put("home_moves_out", self.sum(|w| &w.home_moves_out));
        put("got_ping", self.sum(|w| &w.got_ping));
        put("sent_pong", self.sum(|w| &w.sent_pong));
        put("peer_gone_disconnected_frames", self.sum(|w| &w.peer_gone_disconnected));
        put("peer_gone_not_here_frames", self.sum(|w| &w.peer_gone_not_here));
        put("packets_forwarded_in", self.sum(|w| &w.packets_forwarded_in));
        put("packets_forwarded_out", 0);
        put("multiforwarder_created", 0);
        put("multiforwarder_deleted", 0);
        put("packet_forwarder_delete_other_value", 0);
        put("sclient_write_timeouts", self.sum(|w| &w.write_timeouts));

        let disco = self.sum(|w| &w.packets_received[1]);
        let other = self.sum(|w| &w.packets_received[0]);
        set.insert("counter_packets_received_kind".into(), json!({ "disco": disco, "other": other }));
        let reasons = DropReason::ALL.iter().map(|r| {
            let packets: u64 = self.workers.iter().flat_map(|w| &w.dropped_packets[*r as usize]).map(Cell::get).sum();
            (r.as_str().to_owned(), packets.into())
        });
        set.insert("counter_packets_dropped_reason".into(), Value::Object(reasons.collect()));
        let kind = |at: usize| -> u64 {
            self.workers.iter().flat_map(|w| &w.dropped_packets).map(|pair| pair[at].get()).sum()
        };
        set.insert("counter_packets_dropped_type".into(), json!({ "disco": kind(1), "other": kind(0) }));
        set.insert("average_queue_duration_ms".into(), json!(self.queue_ms()));
        let round_trips = ROUND_TRIP_LABELS.iter().enumerate();
        let round_trips = round_trips.map(|(at, l)| ((*l).to_owned(), self.sum(|w| &w.round_trip[at]).into()));
        set.insert("counter_tcp_rtt".into(), Value::Object(round_trips.collect()));
        set.insert("counter_buffered_write_frames".into(), self.write_frames());
        set.insert("version".into(), env!("CARGO_PKG_VERSION").into());
        Value::Object(set)
    }

    fn sum(&self, cell: impl Fn(&WorkerStats) -> &Cell) -> u64 {
        self.workers.iter().map(|w| cell(w).get()).sum()
    }

    /// Mean over workers, each with its own running mean.
    fn queue_ms(&self) -> f64 {
        let sum: f64 = self.workers.iter().map(|w| f64::from_bits(w.queue_ms.get())).sum();
        sum / self.workers.len().max(1) as f64
    }

    fn write_frames(&self) -> Value {
        let mut histogram = Map::new();
        let mut count = 0;
        for (at, bound) in WRITE_FRAMES_BOUNDS.iter().enumerate() {
            count += self.workers.iter().filter_map(|w| w.write_frames.buckets().nth(at)).map(|b| b.1).sum::<u64>();
            histogram.insert(bound.to_string(), count.into());
        }
        count += self.workers.iter().map(|w| w.write_frames.above()).sum::<u64>();
        histogram.insert("+Inf".into(), count.into());
        histogram.insert("sum".into(), self.workers.iter().map(|w| w.write_frames.sum()).sum::<u64>().into());
        histogram.insert("count".into(), count.into());
        Value::Object(histogram)
    }

    fn by_reason_and_kind(&self, cell: impl Fn(&WorkerStats, usize, usize) -> &Cell) -> Value {
        let mut all = Map::new();
        for reason in DropReason::ALL {
            for (at, kind) in ["other", "disco"].iter().enumerate() {
                let sum: u64 = self.workers.iter().map(|w| cell(w, *reason as usize, at).get()).sum();
                all.insert(format!("{reason}/{kind}"), sum.into());
            }
        }
        Value::Object(all)
    }
}

fn open_descriptors() -> u64 {
    std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64)
}

/// Resident bytes of this process now; 0 where that is not known.
pub fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()))
        .unwrap_or(0);
    pages * rustix::param::page_size() as u64
}
