//! What is counted, and the instants between which it is counted.

pub mod proc;
pub mod report;
mod table;

use hdrhistogram::Histogram;

use crate::derp::frame::kind;
use crate::engine::Totals;
use crate::error::Error;
use proc::Sample;

/// Everything a run leaves.
pub struct Outcome {
    pub totals: Totals,
    pub stats: Stats,
    pub instants: Instants,
}

pub struct Stats {
    /// Counts by time run only between the two instants of measuring.
    pub measuring: bool,
    /// Packets, and bytes of their data, that arrived while measuring.
    pub delivered: u64,
    pub delivered_bytes: u64,
    /// Time from sending (by schedule, where there is one) to arrival, of measured packets.
    pub latency: Histogram<u64>,
    /// How long after the schedule the generator came to a write.
    pub lateness: Histogram<u64>,
    /// Time of each login.
    pub logins: Histogram<u64>,
    /// Packets that were due while a full socket had kept too many others waiting.
    pub unsent: u64,
    /// Packets given up because a pair had stopped; some may have arrived later.
    pub stalled: u64,
    pub keep_alives: u64,
    pub peers_gone: u64,
    pub health: u64,
    pub restarting: u64,
    pub unknown_frames: u64,
}

impl Stats {
    pub fn new() -> Self {
        Self {
            measuring: false,
            delivered: 0,
            delivered_bytes: 0,
            latency: histogram(),
            lateness: histogram(),
            logins: histogram(),
            unsent: 0,
            stalled: 0,
            keep_alives: 0,
            peers_gone: 0,
            health: 0,
            restarting: 0,
            unknown_frames: 0,
        }
    }

    pub fn arrived(&mut self, bytes: usize) {
        if self.measuring {
            self.delivered += 1;
            self.delivered_bytes += bytes as u64;
        }
    }

    pub fn late(&mut self, by: u64) {
        if self.measuring {
            self.lateness.saturating_record(by);
        }
    }

    pub fn unsent(&mut self, packets: u64) {
        if self.measuring {
            self.unsent += packets;
        }
    }

    pub fn stalled(&mut self, packets: u64) {
        if self.measuring {
            self.stalled += packets;
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
}

impl Default for Stats {
    fn default() -> Self {
        Self::new()
    }
}

/// One nanosecond to ten minutes, three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("bounds and digits are in range")
}

/// Both processes at one instant.
#[derive(Clone, Copy, Debug)]
pub struct At {
    /// Nanoseconds since the first connection.
    pub time: u64,
    pub own: Sample,
    pub relay: Option<Sample>,
}

/// The borders of the phases.
#[derive(Debug)]
pub struct Instants {
    relay_pid: Option<u32>,
    pub start: At,
    pub logged_in: At,
    pub from: At,
    pub to: At,
}

impl Instants {
    pub fn start(relay_pid: Option<u32>) -> Result<Self, Error> {
        let start = at(relay_pid, 0)?;
        Ok(Self { relay_pid, start, logged_in: start, from: start, to: start })
    }

    pub fn logged_in(&mut self, now: u64) -> Result<(), Error> {
        self.logged_in = at(self.relay_pid, now)?;
        Ok(())
    }

    pub fn measure_from(&mut self, now: u64) -> Result<(), Error> {
        self.from = at(self.relay_pid, now)?;
        Ok(())
    }

    pub fn measure_to(&mut self, now: u64) -> Result<(), Error> {
        self.to = at(self.relay_pid, now)?;
        Ok(())
    }
}

fn at(relay_pid: Option<u32>, time: u64) -> Result<At, Error> {
    let sample = |pid: u32| Sample::of(pid).map_err(|source| Error::Process { pid, source });
    Ok(At { time, own: sample(std::process::id())?, relay: relay_pid.map(sample).transpose()? })
}
