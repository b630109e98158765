//! What one thread counts in one step.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::series::Series;
use super::{CLASSES, histogram};
use crate::derp::frame::kind;
use crate::error::Role;
use crate::traffic::shape::Class;

#[derive(Debug, Serialize, Deserialize)]
pub struct Stats {
    /// Counts by time run only between the two instants of measuring.
    from: Option<u64>,
    to: Option<u64>,
    /// Packets that arrived while measuring, by class, and bytes of their data.
    delivered: [u64; CLASSES],
    delivered_bytes: [u64; CLASSES],
    /// Bytes written while measuring to receivers that never read.
    pub stalled_bytes: u64,
    /// From beginning to end of the step, measured or not, of the measured load.
    pub sent_in_all: u64,
    pub arrived_in_all: u64,
    /// The same, of every load.
    pub arrived_of_all: u64,
    /// Measured packets, by time.
    pub series: Series,
    /// Time from sending (by schedule, where there is one) to arrival, of measured packets.
    #[serde(with = "super::hdr")]
    pub latency: Histogram<u64>,
    /// From the write to arrival in the receiver's kernel, of the same packets, where that is asked for.
    #[serde(with = "super::hdr")]
    pub transit: Histogram<u64>,
    #[serde(with = "super::hdr")]
    pub disco_latency: Histogram<u64>,
    /// How long after the schedule the generator came to a write.
    #[serde(with = "super::hdr")]
    pub lateness: Histogram<u64>,
    pub churn: ChurnStats,
    /// Packets that were due while a full socket had kept too many others waiting.
    pub unsent: u64,
    /// Packets given up because a link had stopped; some may have arrived later.
    pub stalled: u64,
    /// Connections to slow and stalled receivers, and their senders', that the relay ended.
    pub slow_disconnected: u64,
    pub stalled_disconnected: u64,
    pub keep_alives: u64,
    pub peers_gone: u64,
    pub health: u64,
    pub restarting: u64,
    pub unknown_frames: u64,
}

/// Logins beside the load.
#[derive(Debug, Serialize, Deserialize)]
pub struct ChurnStats {
    pub started: u64,
    pub failed: u64,
    #[serde(with = "super::hdr")]
    pub times: Histogram<u64>,
    pub first_failure: Option<String>,
}

impl ChurnStats {
    pub fn done(&mut self, took: u64) {
        self.times.saturating_record(took);
    }

    /// A failure outside of the measured time is told but not counted.
    pub fn failed(&mut self, measured: bool, why: impl FnOnce() -> String) {
        self.failed += u64::from(measured);
        self.first_failure.get_or_insert_with(why);
    }
}

impl Stats {
    pub fn new() -> Self {
        Self {
            from: None,
            to: None,
            delivered: [0; CLASSES],
            delivered_bytes: [0; CLASSES],
            stalled_bytes: 0,
            sent_in_all: 0,
            arrived_in_all: 0,
            arrived_of_all: 0,
            series: Series::default(),
            latency: histogram(),
            transit: histogram(),
            disco_latency: histogram(),
            lateness: histogram(),
            churn: ChurnStats { started: 0, failed: 0, times: histogram(), first_failure: None },
            unsent: 0,
            stalled: 0,
            slow_disconnected: 0,
            stalled_disconnected: 0,
            keep_alives: 0,
            peers_gone: 0,
            health: 0,
            restarting: 0,
            unknown_frames: 0,
        }
    }

    pub fn measure_from(&mut self, now: u64) {
        self.from = Some(now);
        self.series.start(now);
    }

    /// Returns the seconds that were measured.
    pub fn measure_to(&mut self, now: u64) -> f64 {
        self.to = Some(now);
        self.series.stop();
        now.saturating_sub(self.from.unwrap_or(now)) as f64 / 1e9
    }

    pub fn sent(&mut self, class: Class, packets: u64) {
        if matches!(class, Class::Main | Class::Reply) {
            self.sent_in_all += packets;
            self.series.sent(packets);
        }
    }

    pub fn wrote(&mut self, class: Class, bytes: u64) {
        if class == Class::Stalled && self.is_measuring() {
            self.stalled_bytes += bytes;
        }
    }

    pub fn arrived(&mut self, class: Class, bytes: usize) {
        self.arrived_of_all += 1;
        if matches!(class, Class::Main | Class::Reply) {
            self.arrived_in_all += 1;
            self.series.arrived();
        }
        if self.is_measuring() {
            self.delivered[class as usize] += 1;
            self.delivered_bytes[class as usize] += bytes as u64;
        }
    }

    pub fn took(&mut self, measured: bool, time: u64) {
        if measured {
            self.latency.saturating_record(time);
        }
    }

    pub fn passed(&mut self, measured: bool, time: u64) {
        if measured {
            self.transit.saturating_record(time);
        }
    }

    pub fn disco_took(&mut self, measured: bool, time: u64) {
        if measured {
            self.disco_latency.saturating_record(time);
        }
    }

    pub fn late(&mut self, by: u64) {
        if self.is_measuring() {
            self.lateness.saturating_record(by);
        }
    }

    pub fn unsent(&mut self, packets: u64) {
        if self.from.is_some() {
            self.unsent += packets;
        }
    }

    pub fn stalled(&mut self, packets: u64) {
        if self.is_measuring() {
            self.stalled += packets;
        }
    }

    pub fn disconnected(&mut self, role: Role) {
        match role {
            Role::SlowReceiver => self.slow_disconnected += 1,
            _ => self.stalled_disconnected += 1,
        }
    }

    pub fn other_frame(&mut self, kind: u8) {
        match kind {
            kind::KEEP_ALIVE => self.keep_alives += 1,
            kind::PEER_GONE => self.peers_gone += 1,
            kind::HEALTH => self.health += 1,
            kind::RESTARTING => self.restarting += 1,
            _ => self.unknown_frames += 1,
        }
    }

    /// Packets of a class that arrived in the measured time.
    pub fn delivered(&self, class: Class) -> u64 {
        self.delivered[class as usize]
    }

    pub fn delivered_bytes(&self, class: Class) -> u64 {
        self.delivered_bytes[class as usize]
    }

    /// Packets of every class that arrived in the measured time.
    pub fn delivered_of_all(&self) -> u64 {
        self.delivered.iter().sum()
    }

    pub fn add(&mut self, other: &Self) {
        for class in 0..CLASSES {
            self.delivered[class] += other.delivered[class];
            self.delivered_bytes[class] += other.delivered_bytes[class];
        }
        for (sum, more) in [
            (&mut self.latency, &other.latency),
            (&mut self.transit, &other.transit),
            (&mut self.disco_latency, &other.disco_latency),
            (&mut self.lateness, &other.lateness),
            (&mut self.churn.times, &other.churn.times),
        ] {
            sum.add(more).expect("all histograms have the same bounds");
        }
        self.series.add(&other.series);
        if self.churn.first_failure.is_none() {
            self.churn.first_failure.clone_from(&other.churn.first_failure);
        }
        for (sum, more) in [
            (&mut self.stalled_bytes, other.stalled_bytes),
            (&mut self.sent_in_all, other.sent_in_all),
            (&mut self.arrived_in_all, other.arrived_in_all),
            (&mut self.arrived_of_all, other.arrived_of_all),
            (&mut self.churn.started, other.churn.started),
            (&mut self.churn.failed, other.churn.failed),
            (&mut self.unsent, other.unsent),
            (&mut self.stalled, other.stalled),
            (&mut self.slow_disconnected, other.slow_disconnected),
            (&mut self.stalled_disconnected, other.stalled_disconnected),
            (&mut self.keep_alives, other.keep_alives),
            (&mut self.peers_gone, other.peers_gone),
            (&mut self.health, other.health),
            (&mut self.restarting, other.restarting),
            (&mut self.unknown_frames, other.unknown_frames),
        ] {
            *sum += more;
        }
    }

    fn is_measuring(&self) -> bool {
        self.from.is_some() && self.to.is_none()
    }
}

impl Default for Stats {
    fn default() -> Self {
        Self::new()
    }
}
