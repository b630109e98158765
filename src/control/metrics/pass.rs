//! One reading of every cell, each once, into plain numbers. Everything that is printed comes from one of these.
//!
//! What is a sum is summed from what was read, so that parts always add up within one pass; and because cells only
//! grow and passes follow one another, no counter of a later pass is below that of an earlier one.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::control::bootstrap_dns;
use crate::edge;
use crate::mem::chunk::Chunk;
use crate::stats::{Cell, CloseReason, DropReason, Powers, ROUND_TRIP_LABELS, StunResult, WorkerStats};
use crate::stun;

use super::mean::QueueMean;
use super::process::Process;
use super::{Build, Limits, Sources};

pub struct Pass {
    pub workers: Vec<WorkerFigures>,
    pub edges: Vec<EdgeFigures>,
    pub stun: StunFigures,
    /// Chains in each worker's inbox.
    pub inboxes: Vec<u64>,
    /// Names that `/bootstrap-dns` was asked for.
    pub names_asked: u64,
    /// Of the whole relay.
    pub queue_ms: f64,
    pub queue_time: Distribution,
    pub turn_time: Distribution,
    pub login_time: Distribution,
    pub batch_packets: Distribution,
    pub record_bytes: Distribution,
    pub write_frames: Distribution,
    pub process: Process,
    pub limits: Limits,
    /// Taken over, refused.
    pub reloads: [u64; 2],
    /// When, in seconds since 1970.
    pub last_reload: u64,
    pub build: Build,
    pub started: SystemTime,
    pub uptime: Duration,
    pub memory_at_start: u64,
}

/// A struct of plain numbers under the names of the cells that they are read from.
macro_rules! figures {
    ($(#[$doc:meta])* $name:ident of $cells:ty { $($field:ident: $plain:ty,)* }) => {
        $(#[$doc])*
        pub struct $name { $(pub $field: $plain,)* }

        impl $name {
            fn read(cells: &$cells) -> Self {
                Self { $($field: cells.$field.plain(),)* }
            }
        }
    };
}

figures! {
    /// See [`WorkerStats`] for what each is.
    WorkerFigures of WorkerStats {
        connections: u64,
        home_connections: u64,
        not_ideal_connections: u64,
        tls_connections: [u64; 2],
        watchers: u64,
        keys: u64,
        dup_keys: u64,
        dup_conns: u64,
        dup_conns_total: u64,
        bytes_received: u64,
        packets_received: [u64; 2],
        bytes_sent: u64,
        packets_sent: u64,
        packets_forwarded_in: u64,
        dropped_packets: [[u64; 2]; DropReason::COUNT],
        dropped_bytes: [[u64; 2]; DropReason::COUNT],
        unknown_frames: u64,
        home_moves_in: u64,
        home_moves_out: u64,
        got_ping: u64,
        sent_pong: u64,
        peer_gone_disconnected: u64,
        peer_gone_not_here: u64,
        write_timeouts: u64,
        queue_ms: u64,
        round_trip: [u64; ROUND_TRIP_LABELS.len()],
        packets_to_workers: u64,
        chains: u64,
        inbox_full: u64,
        packets_local: u64,
        packets_from_workers: u64,
        outbox_dropped: u64,
        queued_packets: u64,
        queued_bytes: u64,
        moves: u64,
        busy_ns: u64,
        load_permille: u64,
        closes: [u64; CloseReason::COUNT],
        turns: u64,
        system_calls: u64,
        no_buffer: u64,
        wakes_sent: u64,
        wakes_received: u64,
        sleeps: u64,
        submissions: u64,
        completions: u64,
        chunks_in_use: u64,
        acquaintances: u64,
    }
}

figures! {
    /// See [`edge::Stats`] for what each is.
    EdgeFigures of edge::Stats {
        accepts: u64,
        accept_paused: u64,
        handshakes_ok: u64,
        handshakes_failed: u64,
        tls12: u64,
        tls13: u64,
        http_requests: u64,
        derp_accepts: u64,
        logins: u64,
        half_open: u64,
        websocket_accepts: u64,
        bootstrap_dns: [u64; bootstrap_dns::Count::COUNT],
        closes: [u64; CloseReason::COUNT],
    }
}

figures! {
    /// See [`stun::Stats`] for what each is.
    StunFigures of stun::Stats {
        requests: [[u64; 2]; StunResult::COUNT],
        read_errors: u64,
    }
}

impl StunFigures {
    /// Of both families.
    pub fn of(&self, result: StunResult) -> u64 {
        self.requests[result as usize].iter().sum()
    }

    /// Requests over IPv4 (0) or IPv6 (1) that there was an answer for.
    pub fn valid(&self, family: usize) -> u64 {
        use StunResult::{Answered, Refused, WriteError};
        [Answered, Refused, WriteError].map(|result| self.requests[result as usize][family]).iter().sum()
    }
}

/// What a cell, or cells side by side, hold.
trait Plain {
    type Value;
    fn plain(&self) -> Self::Value;
}

impl Plain for Cell {
    type Value = u64;

    fn plain(&self) -> u64 {
        self.get()
    }
}

impl<T: Plain, const N: usize> Plain for [T; N] {
    type Value = [T::Value; N];

    fn plain(&self) -> Self::Value {
        self.each_ref().map(T::plain)
    }
}

impl Pass {
    pub(super) fn read(sources: &Sources, mean: &mut QueueMean) -> Self {
        let workers: Vec<_> = sources.workers.iter().map(|cells| WorkerFigures::read(cells)).collect();
        let mut queue_time = Distribution::default();
        let samples: Vec<u64> = sources.workers.iter().map(|w| queue_time.add_powers(&w.queue_time)).collect();
        let means: Vec<f64> = workers.iter().map(|w| f64::from_bits(w.queue_ms)).collect();
        let now = SystemTime::now();
        let uptime = now.duration_since(sources.started).unwrap_or_default();
        Self {
            edges: sources.edges.iter().map(|cells| EdgeFigures::read(cells)).collect(),
            stun: StunFigures::read(&sources.stun),
            names_asked: sources.bootstrap_dns.asked(),
            inboxes: (0..workers.len()).map(|worker| (sources.inboxes)(worker) as u64).collect(),
            queue_ms: mean.over_workers(uptime, &means, &samples),
            queue_time,
            turn_time: Distribution::of(sources.workers.iter().map(|w| &w.turn_time)),
            login_time: Distribution::of(sources.edges.iter().map(|e| &e.login_time)),
            batch_packets: Distribution::of(sources.workers.iter().map(|w| &w.batch_packets)),
            record_bytes: Distribution::of(sources.workers.iter().map(|w| &w.record_bytes)),
            write_frames: write_frames(&sources.workers),
            process: Process::read(),
            limits: sources.limits,
            reloads: [sources.reloads.taken_over.get(), sources.reloads.refused.get()],
            last_reload: sources.reloads.last.get(),
            build: sources.build.clone(),
            started: sources.started,
            uptime,
            memory_at_start: sources.memory_at_start,
            workers,
        }
    }

    /// Over workers.
    pub fn sum(&self, figure: impl Fn(&WorkerFigures) -> u64) -> u64 {
        self.workers.iter().map(figure).sum()
    }

    /// Over edges.
    pub fn edge_sum(&self, figure: impl Fn(&EdgeFigures) -> u64) -> u64 {
        self.edges.iter().map(figure).sum()
    }

    /// Of what every worker knows for all: each has the whole directory.
    pub fn replica(&self, figure: impl Fn(&WorkerFigures) -> u64) -> u64 {
        self.workers.first().map_or(0, figure)
    }

    /// Packets that clients sent; both kinds.
    pub fn packets_received(&self) -> u64 {
        self.sum(|w| w.packets_received.iter().sum())
    }

    pub fn packets_dropped(&self) -> u64 {
        self.sum(|w| w.dropped_packets.as_flattened().iter().sum())
    }

    pub fn packets_dropped_for(&self, reason: usize) -> u64 {
        self.sum(|w| w.dropped_packets[reason].iter().sum())
    }

    pub fn packets_dropped_of(&self, kind: usize) -> u64 {
        self.sum(|w| w.dropped_packets.iter().map(|by_kind| by_kind[kind]).sum())
    }
}

impl WorkerFigures {
    /// Bytes of the chunks that its queues and unsent records take.
    pub fn queue_memory(&self) -> u64 {
        self.chunks_in_use * size_of::<Chunk>() as u64
    }
}

fn write_frames(workers: &[Arc<WorkerStats>]) -> Distribution {
    let mut all = Distribution::default();
    for frames in workers.iter().map(|w| &w.write_frames) {
        all.add(frames.buckets(), frames.above(), frames.sum());
    }
    all
}

/// A histogram, summed over those who record it. How many values there are is the sum of its buckets, and nothing else:
/// so `_count` and the last bucket cannot differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    /// Bounds in rising order, with the values above the bound before and not above this one.
    buckets: Vec<(u64, u64)>,
    above: u64,
    sum: u64,
}

impl Distribution {
    fn of<'a, const N: usize>(all: impl Iterator<Item = &'a Powers<N>>) -> Self {
        let mut out = Self::default();
        for powers in all {
            out.add_powers(powers);
        }
        out
    }

    fn add_powers<const N: usize>(&mut self, powers: &Powers<N>) -> u64 {
        self.add(powers.buckets(), powers.above(), powers.sum())
    }

    /// Returns how many values were added.
    fn add(&mut self, buckets: impl Iterator<Item = (u64, u64)>, above: u64, sum: u64) -> u64 {
        let mut values = above;
        for (at, (bound, count)) in buckets.enumerate() {
            match self.buckets.get_mut(at) {
                Some(bucket) => bucket.1 += count,
                None => self.buckets.push((bound, count)),
            }
            values += count;
        }
        self.above += above;
        // Wraps like the cells.
        self.sum = self.sum.wrapping_add(sum);
        values
    }

    /// Nothing was recorded, and nobody does.
    pub fn empty(bounds: &[u64]) -> Self {
        Self { buckets: bounds.iter().map(|bound| (*bound, 0)).collect(), above: 0, sum: 0 }
    }

    /// Bounds with the values not above each.
    pub fn cumulative(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.buckets.iter().scan(0, |values, (bound, count)| {
            *values += count;
            Some((*bound, *values))
        })
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum::<u64>() + self.above
    }

    pub fn sum(&self) -> u64 {
        self.sum
    }
}
