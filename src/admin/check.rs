//! `/debug/check`: does what the relay counts agree with what it has?
//!
//! Nothing stands still while it is looked at, so each rule allows for as much as has happened meanwhile.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::roster::Listing;
use super::state::State;
use crate::edge;
use crate::stats::{Cell, CloseReason, DropReason, WorkerStats};

/// Everything that does not fit, one line each; nothing: all is well. A key with several connections is no fault.
pub(super) async fn problems(state: &State) -> Vec<String> {
    let workers = state.workers.stats();
    let mut problems = listed(state).await;
    problems.extend(settled(|| directories(workers)).await);
    problems.extend(settled(|| accounts(workers)).await);
    problems
}

/// What is wrong with the connections each time that they are listed: a login that is half-way through is counted at
/// one end and not yet at the other.
async fn listed(state: &State) -> Vec<String> {
    const LOOKS: u32 = 3;
    let mut problems = Vec::new();
    for _ in 0..LOOKS {
        let workers = state.workers.stats();
        let (before, counts_before) = (events(workers, &state.edges), counts(workers));
        let listing = state.roster.listing(Instant::now()).await;
        let (counts_after, after) = (counts(workers), events(workers, &state.edges));
        if !listing.missing.is_empty() {
            let silent = |worker: &usize| format!("worker {worker} does not tell who is connected");
            return listing.missing.iter().map(silent).collect();
        }
        problems = connections(&listing, &counts_before, &counts_after, after.abs_diff(before));
        if problems.is_empty() {
            break;
        }
    }
    problems
}

/// Logins, ends, moves: what changes who is connected where.
fn events(workers: &[Arc<WorkerStats>], edges: &[Arc<edge::Stats>]) -> u64 {
    let worker = |w: &Arc<WorkerStats>| {
        let homes = w.home_moves_in.get() + w.home_moves_out.get();
        CloseReason::ALL.iter().map(|r| w.closes[*r as usize].get()).sum::<u64>() + w.moves.get() + homes
    };
    workers.iter().map(worker).sum::<u64>() + edges.iter().map(|e| e.logins.get()).sum::<u64>()
}

fn counts(workers: &[Arc<WorkerStats>]) -> Vec<u64> {
    workers.iter().map(|w| w.connections.get()).collect()
}

/// Connections that are counted, against those that are there. A connection that was handed over and has not begun is
/// in neither for a moment, or in one: that is among what happened `meanwhile`.
fn connections(listing: &Listing, before: &[u64], after: &[u64], meanwhile: u64) -> Vec<String> {
    let mut rows = vec![0_u64; before.len()];
    for client in &listing.clients {
        if let Some(count) = rows.get_mut(usize::from(client.worker)) {
            *count += 1;
        }
    }
    let mut out = Vec::new();
    for (worker, rows) in rows.iter().enumerate() {
        let (low, high) = (before[worker].min(after[worker]), before[worker].max(after[worker]));
        if rows + meanwhile < low || *rows > high + meanwhile {
            out.push(format!("worker {worker} counts {high} connections and has {rows}"));
        }
    }
    out
}

/// Every worker knows the same keys.
fn directories(workers: &[Arc<WorkerStats>]) -> Option<String> {
    let sizes = |what: &str, cell: fn(&WorkerStats) -> &Cell| {
        let sizes: Vec<u64> = workers.iter().map(|w| cell(w).get()).collect();
        let distinct: BTreeSet<u64> = sizes.iter().copied().collect();
        (distinct.len() > 1).then(|| format!("workers disagree about the number of {what}: {sizes:?}"))
    };
    sizes("keys", |w| &w.keys)
        .or_else(|| sizes("keys with several connections", |w| &w.dup_keys))
        .or_else(|| sizes("connections that share a key", |w| &w.dup_conns))
}

/// Every packet that came was sent, was dropped, or waits; no gauge is below zero. Only what stood still while it was
/// read can be judged.
fn accounts(workers: &[Arc<WorkerStats>]) -> Option<String> {
    const BELOW_ZERO: u64 = 1 << 48;
    let first = Sums::of(workers);
    for (worker, w) in workers.iter().enumerate() {
        let gauges = [
            ("connections", &w.connections),
            ("queued packets", &w.queued_packets),
            ("queued bytes", &w.queued_bytes),
            ("home connections", &w.home_connections),
            ("watchers", &w.watchers),
        ];
        if let Some((what, _)) = gauges.iter().find(|(_, cell)| cell.get() > BELOW_ZERO) {
            return Some(format!("worker {worker} counts less than no {what}"));
        }
    }
    let quiet = first == Sums::of(workers);
    (quiet && first.came != first.gone())
        .then(|| format!("{} packets came, and {} were sent, dropped or wait", first.came, first.gone()))
}

#[derive(PartialEq, Eq)]
struct Sums {
    came: u64,
    sent: u64,
    dropped: u64,
    queued: u64,
    /// On their way between workers: in outboxes, inboxes, or with a session that moves.
    between: u64,
    moving: u64,
}

impl Sums {
    fn of(workers: &[Arc<WorkerStats>]) -> Self {
        let sum = |cell: fn(&WorkerStats) -> u64| workers.iter().map(|w| cell(w)).fold(0, u64::wrapping_add);
        let dropped = |w: &WorkerStats| -> u64 {
            DropReason::ALL.iter().flat_map(|r| &w.dropped_packets[*r as usize]).map(Cell::get).sum()
        };
        Self {
            came: sum(|w| w.received() + w.packets_forwarded_in.get()),
            sent: sum(|w| w.packets_sent.get()),
            dropped: workers.iter().map(|w| dropped(w)).sum(),
            queued: sum(|w| w.queued_packets.get()),
            between: sum(|w| w.packets_to_workers.get().wrapping_sub(w.outbox_dropped.get()))
                .wrapping_sub(sum(|w| w.packets_from_workers.get())),
            moving: sum(|w| w.packets_moved_out.get()).wrapping_sub(sum(|w| w.packets_moved_in.get())),
        }
    }

    fn gone(&self) -> u64 {
        let waiting = self.queued.wrapping_add(self.between).wrapping_add(self.moving);
        (self.sent + self.dropped).wrapping_add(waiting)
    }
}

/// A problem that stays. News takes a moment from one worker to the others.
async fn settled(problem: impl Fn() -> Option<String>) -> Option<String> {
    const LOOKS: u32 = 20;
    const BETWEEN: Duration = Duration::from_millis(25);
    for _ in 0..LOOKS {
        problem()?;
        sleep(BETWEEN).await;
    }
    problem()
}

#[cfg(test)]
mod tests {
    use super::super::roster::Roster;
    use super::super::roster::tests::{Crowd, client, run};
    use super::*;

    #[test]
    fn rows_and_counts_differ_by_no_more_than_has_happened() {
        let crowd = Crowd::new(vec![Some(vec![client(1, 1), client(2, 1)])]);
        let listing = run(Roster::new(crowd).listing(Instant::now()));
        let check = |before: u64, after: u64, meanwhile: u64| connections(&listing, &[before], &[after], meanwhile);
        assert!(check(2, 2, 0).is_empty() && check(1, 3, 0).is_empty() && check(3, 4, 1).is_empty());
        assert_eq!(check(3, 3, 0), ["worker 0 counts 3 connections and has 2"]);
        assert_eq!(check(4, 5, 1).len(), 1);
        assert_eq!(check(0, 0, 1).len(), 1);
    }

    #[test]
    fn directories_that_stay_different_and_sums_that_do_not_add_up_are_problems() {
        let workers: Vec<Arc<WorkerStats>> = vec![Arc::default(), Arc::default()];
        assert_eq!((directories(&workers), accounts(&workers)), (None, None));
        workers[0].keys.set(2);
        assert!(directories(&workers).unwrap().ends_with("number of keys: [2, 0]"));
        let text = run(settled(|| directories(&workers))).unwrap();
        assert!(text.contains("number of keys"), "{text}");
        workers[1].keys.set(2);
        assert_eq!(run(settled(|| directories(&workers))), None);

        workers[0].packets_received[0].add(3);
        workers[0].packets_to_workers.add(2);
        assert_eq!(accounts(&workers).unwrap(), "3 packets came, and 2 were sent, dropped or wait");
        workers[0].dropped_packets[0][0].add(1);
        assert_eq!(accounts(&workers), None);
        workers[1].packets_from_workers.add(2);
        workers[1].queued_packets.add(2);
        assert_eq!(accounts(&workers), None);
        workers[1].queued_packets.sub(3);
        assert_eq!(accounts(&workers).unwrap(), "worker 1 counts less than no queued packets");
    }
}
