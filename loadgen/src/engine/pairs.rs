//! Sender i sends to receiver i: who may send now, and what arrives.

use std::collections::VecDeque;

use crate::cli::{Pace, Plan};
use crate::derp::frame::{HEADER_LEN, KEY_LEN, header, kind};
use crate::measure::Stats;
use crate::tls::record::StreamWriter;
use crate::traffic::flow::Flow;
use crate::traffic::payload::{Pattern, Stamp};
use crate::traffic::{Violation, hex};

/// Writes of one blocked sender that are remembered; what is due beyond them is never sent.
const MAX_BACKLOG: usize = 1 << 16;

pub struct Pairs {
    pairs: Vec<Pair>,
    pattern: Pattern,
    pace: Pace,
    burst: u64,
    stall: u64,
    /// Pairs whose window has room, each at most once.
    ready: Vec<usize>,
}

struct Pair {
    flow: Flow,
    /// Header and destination of every frame of this pair.
    prefix: [u8; HEADER_LEN + KEY_LEN],
    source: [u8; KEY_LEN],
    last_progress: u64,
    is_ready: bool,
    /// When the writes were due that the socket had no room for.
    backlog: VecDeque<u64>,
}

/// Measured packets of all pairs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    pub sent: u64,
    pub arrived: u64,
}

impl Pairs {
    /// `keys` are those of sender and receiver of each pair.
    pub fn new(plan: &Plan, keys: impl Iterator<Item = ([u8; KEY_LEN], [u8; KEY_LEN])>) -> Self {
        let pairs = keys.map(|(source, destination)| {
            let mut prefix = [0; HEADER_LEN + KEY_LEN];
            prefix[..HEADER_LEN].copy_from_slice(&header(kind::SEND_PACKET, KEY_LEN + plan.size));
            prefix[HEADER_LEN..].copy_from_slice(&destination);
            Pair { flow: Flow::default(), prefix, source, last_progress: 0, is_ready: false, backlog: VecDeque::new() }
        });
        Self {
            pairs: pairs.collect(),
            pattern: Pattern::new(plan.size),
            pace: plan.pace,
            burst: plan.burst,
            stall: plan.stall.as_nanos() as u64,
            ready: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Opens every window; the schedule, if there is one, is the caller's.
    pub fn start(&mut self, now: u64) {
        for pair in 0..self.pairs.len() {
            self.pairs[pair].last_progress = now;
            self.wake(pair);
        }
    }

    /// A pair with room for a burst, until there is none.
    pub fn next_ready(&mut self) -> Option<usize> {
        let pair = self.ready.pop()?;
        self.pairs[pair].is_ready = false;
        Some(pair)
    }

    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    pub fn may_send(&self, pair: usize) -> bool {
        match self.pace {
            Pace::Window(window) => self.pairs[pair].flow.in_flight() + self.burst <= window,
            Pace::Rate(_) => false,
        }
    }

    /// Tells that the sender of the pair can write again, or that its window has more room.
    pub fn wake(&mut self, pair: usize) {
        if self.may_send(pair) && !self.pairs[pair].is_ready {
            self.pairs[pair].is_ready = true;
            self.ready.push(pair);
        }
    }

    /// Puts one burst; its packets say that they were sent at `time`.
    pub fn put_burst(&mut self, index: usize, time: u64, writer: &mut StreamWriter<'_>) {
        let pair = &mut self.pairs[index];
        for _ in 0..self.burst {
            let seq = pair.flow.send();
            writer.put(&pair.prefix);
            writer.put(&self.pattern.head(index, Stamp { seq, time }));
            writer.put(self.pattern.body(index, seq));
        }
    }

    /// A RecvPacket came to the receiver of the pair.
    pub fn on_packet(&mut self, index: usize, payload: &[u8], now: u64, stats: &mut Stats) -> Result<(), Violation> {
        let pair = &mut self.pairs[index];
        let Some((source, data)) = payload.split_first_chunk::<KEY_LEN>() else {
            return Err(Violation::WrongLength { found: 0, expected: self.pattern.data_len() });
        };
        if source != &pair.source {
            return Err(Violation::WrongSource { found: hex(source), expected: hex(&pair.source) });
        }
        let stamp = self.pattern.verify(index, data)?;
        if pair.flow.arrive(stamp.seq)? {
            stats.latency.saturating_record(now.saturating_sub(stamp.time));
        }
        pair.last_progress = now;
        stats.arrived(data.len());
        self.wake(index);
        Ok(())
    }

    /// Keeps a write that is due for when the socket has room again.
    pub fn defer(&mut self, pair: usize, due: u64, stats: &mut Stats) {
        let backlog = &mut self.pairs[pair].backlog;
        if backlog.len() < MAX_BACKLOG {
            backlog.push_back(due);
        } else {
            stats.unsent(self.burst);
        }
    }

    /// The oldest write that was kept.
    pub fn deferred(&mut self, pair: usize) -> Option<u64> {
        self.pairs[pair].backlog.pop_front()
    }

    /// Gives up what is in flight on pairs that have stopped. A schedule waits for nothing, so
    /// there is nothing to give up.
    pub fn check_stalls(&mut self, now: u64, stats: &mut Stats) {
        if let Pace::Rate(_) = self.pace {
            return;
        }
        for index in 0..self.pairs.len() {
            let pair = &mut self.pairs[index];
            if now.saturating_sub(pair.last_progress) < self.stall {
                continue;
            }
            pair.last_progress = now;
            if pair.flow.in_flight() > 0 {
                stats.stalled(pair.flow.give_up());
                self.wake(index);
            }
        }
    }

    pub fn start_measuring(&mut self) {
        for pair in &mut self.pairs {
            pair.flow.start_measuring();
        }
    }

    /// Nothing more will be sent; writes that were kept count as unsent.
    pub fn stop_measuring(&mut self, stats: &mut Stats) {
        for pair in &mut self.pairs {
            pair.flow.stop_measuring();
            stats.unsent(self.burst * pair.backlog.len() as u64);
            pair.backlog.clear();
        }
        self.ready.clear();
    }

    pub fn is_drained(&self) -> bool {
        self.pairs.iter().all(|pair| pair.flow.is_drained())
    }

    pub fn totals(&self) -> Totals {
        self.pairs.iter().fold(Totals::default(), |sum, pair| {
            let (sent, arrived) = pair.flow.measured();
            Totals { sent: sum.sent + sent, arrived: sum.arrived + arrived }
        })
    }
}
