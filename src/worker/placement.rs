//! Which worker a session belongs on: where it is placed at login, and where it should go when most of what it sends
//! crosses workers.
//!
//! A packet that crosses costs a copy and a share of a wake-up; a session that moves costs five messages, once. Time
//! is cut into epochs, the same on all workers. A session that has sent most of its packets to one other worker in two
//! epochs in a row may go there, if that worker is not the busier one; in even epochs only downwards, in odd ones only
//! upwards, so that two that talk to each other do not change places for ever.

use crate::driver::Nanos;
use crate::worker::core::Core;
use crate::worker::session::State;

/// Length of an epoch: short enough to follow a change of traffic, long enough to see one.
pub const EPOCH: Nanos = 500_000_000;
/// Packets for one other worker, beyond those for all others, that make a session a candidate. At so few a second each
/// wakes the other worker, which costs several times a packet; below it a move saves next to nothing.
const VOTES: u32 = 16;
/// Candidates that are looked at in one epoch, and moves that are begun.
const CANDIDATES: usize = 256;
const MOVES: usize = 32;
/// Epochs that a session stays where it has come.
const REST: u32 = 6;
/// A target counts as not busier up to this much more of one core.
const TOLERANCE: f64 = 0.02;
/// No session of weight is sent to a worker that it would fill beyond this.
const FULL: f64 = 0.9;
const WEIGHT: f64 = 0.1;

/// Where a session's packets go when they leave its worker: a majority vote, begun anew in each epoch.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lean {
    epoch: u32,
    to: u16,
    votes: u32,
    /// The session's packets when the vote began.
    before: u64,
    /// Wanted to go there in this epoch too.
    wanted: Option<(u16, u32)>,
    /// Does not move before this epoch.
    rests_until: u32,
}

impl Lean {
    /// One packet for another worker; `packets` is how many the session has sent in its life. `true`: it is a
    /// candidate from now on.
    #[inline]
    pub fn vote(&mut self, epoch: u32, to: u16, packets: u64) -> bool {
        if self.epoch != epoch {
            (self.epoch, self.to, self.votes, self.before) = (epoch, to, 0, packets);
        }
        if self.to == to {
            self.votes += 1;
            return self.votes == VOTES;
        }
        if self.votes == 0 {
            self.to = to;
        } else {
            self.votes -= 1;
        }
        false
    }

    /// It has just come.
    pub fn rest(&mut self, epoch: u32) {
        *self = Self { rests_until: epoch + REST, ..Self::default() };
    }
}

/// A session that wants to go, and what it does in one epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    pub slot: u32,
    pub to: u16,
    pub packets: u64,
}

/// One worker's view of the loads, and its candidates.
#[derive(Debug, Default)]
pub struct Placement {
    /// Half seconds of the clock that all workers share: enough for sixty years.
    pub epoch: u32,
    candidates: Vec<u32>,
    /// At the end of the last epoch: time, busy nanoseconds of each worker, packets of this one.
    at: Nanos,
    busy: Vec<u64>,
    handled: u64,
}

impl Placement {
    #[inline]
    pub fn nominate(&mut self, slot: u32) {
        if self.candidates.len() < CANDIDATES {
            self.candidates.push(slot);
        }
    }
}

pub fn epoch_of(now: Nanos) -> u32 {
    (now / EPOCH) as u32
}

impl Core {
    /// At the end of an epoch: who shall go where. `busy` are the busy nanoseconds of each worker's life.
    pub(super) fn end_epoch(&mut self, busy: impl Iterator<Item = u64>) -> Vec<(u32, u16)> {
        let ended = self.placement.epoch;
        self.placement.epoch = epoch_of(self.now);
        let span = self.now.saturating_sub(self.placement.at).max(1) as f64;
        let first = self.placement.busy.is_empty();
        let before = std::mem::take(&mut self.placement.busy);
        self.placement.busy = busy.collect();
        let mut loads: Vec<f64> = (0..self.placement.busy.len())
            .map(|w| self.placement.busy[w].saturating_sub(before.get(w).copied().unwrap_or(0)) as f64 / span)
            .collect();
        let handled = self.stats.received() + self.stats.packets_sent.get();
        let packets = handled - std::mem::replace(&mut self.placement.handled, handled);
        self.placement.at = self.now;
        let nominated = std::mem::take(&mut self.placement.candidates);
        if first {
            return Vec::new();
        }
        let me = usize::from(self.me);
        self.stats.load_permille.set((1000.0 * loads[me]).min(1000.0) as u64);
        let mut willing: Vec<_> = nominated.iter().filter_map(|slot| self.willing(*slot, ended)).collect();
        willing.sort_by_key(|candidate| (candidate.slot, candidate.to));
        willing.dedup_by_key(|candidate| candidate.slot);
        choose(willing, &mut loads, self.me, packets, ended)
    }

    /// A candidate that wanted the same an epoch ago; notes what it wants.
    fn willing(&mut self, slot: u32, ended: u32) -> Option<Candidate> {
        let session = &mut self.sessions[slot];
        let lean = &mut session.lean;
        let packets = session.totals.packets_in.saturating_sub(lean.before);
        // Most: three quarters or more go there.
        if session.state != State::Open || lean.epoch != ended || u64::from(lean.votes) * 2 < packets {
            return None;
        }
        let now = (lean.to, ended);
        let before = lean.wanted.replace(now);
        let rested = ended >= lean.rests_until;
        let again = before == Some((lean.to, ended.saturating_sub(1))) || before == Some(now);
        (again && rested).then_some(Candidate { slot, to: lean.to, packets })
    }
}

/// Who goes, the busiest first, so that the loads come closer to each other and not further apart.
fn choose(mut willing: Vec<Candidate>, loads: &mut [f64], me: u16, packets: u64, epoch: u32) -> Vec<(u32, u16)> {
    let mut going = Vec::new();
    let total = loads[usize::from(me)];
    willing.retain(|candidate| (candidate.to < me) == epoch.is_multiple_of(2));
    willing.sort_by_key(|candidate| std::cmp::Reverse(candidate.packets));
    for Candidate { slot, to, packets: own } in willing {
        if going.len() == MOVES {
            break;
        }
        let share = total * own as f64 / packets.max(1) as f64;
        let (here, there) = (loads[usize::from(me)], loads[usize::from(to)]);
        if there > here + TOLERANCE || (share > WEIGHT && there + share > FULL) {
            continue;
        }
        loads[usize::from(me)] -= share;
        loads[usize::from(to)] += share;
        going.push((slot, to));
    }
    going
}

/// The worker on which a new session costs least: few sessions and little load, a whole core counting as much as all
/// sessions of an average worker. `sessions` and `permille` of each; equals take turns from `first` on.
pub fn place(
    first: usize,
    workers: usize,
    sessions: impl Fn(usize) -> usize,
    permille: impl Fn(usize) -> u64,
) -> usize {
    let all: usize = (0..workers).map(&sessions).sum();
    let cost = |worker: usize| {
        let share = sessions(worker) as u64 * 1000 * workers as u64 / all.max(1) as u64;
        share + permille(worker)
    };
    (0..workers).map(|at| (first + at) % workers).min_by_key(|worker| cost(*worker)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(to: u16, count: u32) -> Vec<Candidate> {
        (0..count).map(|slot| Candidate { slot, to, packets: 100 }).collect()
    }

    #[test]
    fn a_majority_is_what_counts() {
        let mut lean = Lean::default();
        let mut nominated = 0;
        for packet in 0..400 {
            nominated += u32::from(lean.vote(7, [3, 3, 3, 1][packet as usize % 4], packet));
        }
        assert_eq!((lean.to, nominated), (3, 1));
        lean.vote(8, 1, 400);
        assert_eq!((lean.to, lean.votes, lean.before), (1, 1, 400), "each epoch begins anew");
    }

    #[test]
    fn loads_come_closer_and_no_further_apart() {
        // Twenty sessions make up all of a worker's load.
        let mut loads = [0.6, 0.6];
        let going = choose(candidates(1, 20), &mut loads, 0, 2000, 1);
        assert_eq!(going.len(), 1, "one, and the other has more: {loads:?}");
        let mut loads = [0.8, 0.2];
        let going = choose(candidates(1, 20), &mut loads, 0, 2000, 1);
        assert!(going.len() > 6 && (loads[0] - loads[1]).abs() < 0.1, "{loads:?}");
        assert_eq!(choose(candidates(1, 200), &mut [0.9, 0.1], 0, 200_000, 1).len(), MOVES, "a few at a time");
        assert_eq!(choose(candidates(1, 20), &mut [0.2, 0.8], 0, 2000, 1), [], "never to a busier one");
    }

    #[test]
    fn two_that_talk_to_each_other_do_not_change_places() {
        for epoch in 0..2 {
            let up = choose(candidates(1, 1), &mut [0.1, 0.1], 0, 1000, epoch).len();
            let down = choose(candidates(0, 1), &mut [0.1, 0.1], 1, 1000, epoch).len();
            assert_eq!(up + down, 1);
        }
    }

    #[test]
    fn one_heavy_session_does_not_fill_another_core() {
        assert_eq!(choose(candidates(1, 1), &mut [0.7, 0.7], 0, 100, 1), []);
        assert_eq!(choose(candidates(1, 1), &mut [0.4, 0.4], 0, 100, 1).len(), 1);
    }

    #[test]
    fn a_login_goes_where_there_is_room() {
        let at = |sessions: [usize; 3], load: [u64; 3]| place(0, 3, |w| sessions[w], |w| load[w]);
        assert_eq!(at([0, 0, 0], [0, 0, 0]), 0);
        assert_eq!(at([5, 4, 5], [0, 0, 0]), 1);
        assert_eq!(at([100, 100, 110], [900, 800, 100]), 2, "idle sessions do not keep it away from an idle core");
        assert_eq!(at([10, 10, 1000], [900, 800, 100]), 1, "and load does not pile all sessions up on one");
        assert_eq!(place(2, 3, |_| 0, |_| 0), 2, "equals take turns");
    }
}
