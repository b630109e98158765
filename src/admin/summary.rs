//! One line a minute about what was dropped and refused, if anything was: never a line for each.

use std::sync::atomic::Ordering;

use tokio::time::{MissedTickBehavior, interval};
use tracing::info;

use super::state::State;
use crate::edge;
use crate::limits;
use crate::stats::{CloseReason, DropReason, WorkerStats};

/// Runs as long as the relay.
pub(super) async fn run(state: std::sync::Arc<State>) {
    let mut ticks = interval(limits::SUMMARY_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first one comes at once.
    ticks.tick().await;
    // The counters begin with the process, which may be well before this task's first turn.
    let mut before = Summary::default();
    loop {
        ticks.tick().await;
        let now = Summary::read(&state);
        now.since(&before).log();
        before = now;
    }
}

/// Ends of connections that somebody is to blame for, before there was a session.
const REFUSALS: [CloseReason; 9] = [
    CloseReason::Handshake,
    CloseReason::BadRecord,
    CloseReason::BadHttp,
    CloseReason::BadLogin,
    CloseReason::LoginDeadline,
    CloseReason::HalfOpenCap,
    CloseReason::MaxClients,
    CloseReason::MaxClientsPerIp,
    CloseReason::Internal,
];

#[derive(Clone, Default)]
struct Summary {
    dropped: [u64; DropReason::COUNT],
    refused: [u64; CloseReason::COUNT],
    lost_lines: u64,
    admin_turned_away: u64,
}

impl Summary {
    fn read(state: &State) -> Self {
        let mut all = Self {
            lost_lines: state.log.lost_lines(),
            admin_turned_away: state.turned_away.load(Ordering::Relaxed),
            ..Self::default()
        };
        for worker in state.workers.stats() {
            all.add_worker(worker);
        }
        for edge in &*state.edges {
            all.add_edge(edge);
        }
        all
    }

    fn add_worker(&mut self, worker: &WorkerStats) {
        for reason in DropReason::ALL {
            let [other, disco] = &worker.dropped_packets[*reason as usize];
            self.dropped[*reason as usize] += other.get() + disco.get();
        }
    }

    fn add_edge(&mut self, edge: &edge::Stats) {
        for reason in REFUSALS {
            self.refused[reason as usize] += edge.closed(reason);
        }
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            dropped: std::array::from_fn(|at| self.dropped[at].saturating_sub(before.dropped[at])),
            refused: std::array::from_fn(|at| self.refused[at].saturating_sub(before.refused[at])),
            lost_lines: self.lost_lines.saturating_sub(before.lost_lines),
            admin_turned_away: self.admin_turned_away.saturating_sub(before.admin_turned_away),
        }
    }

    /// Only what is not zero stands in the line.
    fn log(&self) {
        let some = |n: u64| (n > 0).then_some(n);
        let dropped = |reason: DropReason| some(self.dropped[reason as usize]);
        let refused = |reason: CloseReason| some(self.refused[reason as usize]);
        let (all_dropped, all_refused) = (self.dropped.iter().sum(), self.refused.iter().sum());
        if all_dropped + all_refused + self.lost_lines + self.admin_turned_away == 0 {
            return;
        }
        info!(
            dropped = some(all_dropped),
            unknown_dest = dropped(DropReason::UnknownDest),
            unknown_dest_on_fwd = dropped(DropReason::UnknownDestOnFwd),
            gone_disconnected = dropped(DropReason::GoneDisconnected),
            queue_head = dropped(DropReason::QueueHead),
            queue_tail = dropped(DropReason::QueueTail),
            write_error = dropped(DropReason::WriteError),
            dup_client = dropped(DropReason::DupClient),
            refused = some(all_refused),
            handshake = refused(CloseReason::Handshake),
            bad_record = refused(CloseReason::BadRecord),
            bad_http = refused(CloseReason::BadHttp),
            bad_login = refused(CloseReason::BadLogin),
            login_deadline = refused(CloseReason::LoginDeadline),
            half_open_cap = refused(CloseReason::HalfOpenCap),
            max_clients = refused(CloseReason::MaxClients),
            max_clients_per_ip = refused(CloseReason::MaxClientsPerIp),
            internal = refused(CloseReason::Internal),
            lost_log_lines = some(self.lost_lines),
            admin_turned_away = some(self.admin_turned_away),
            "the last minute: packets dropped, connections refused"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use serde_json::Value;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What a summary says, as a program reads it.
    fn said(summary: &Summary) -> Option<Value> {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(log, || summary.log());
        let text = String::from_utf8(std::mem::take(&mut *lines.0.lock().unwrap())).unwrap();
        (!text.is_empty()).then(|| serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn every_reason_has_its_name_and_nothing_is_said_of_nothing() {
        assert_eq!(said(&Summary::default()), None);
        for (at, reason) in DropReason::ALL.iter().enumerate() {
            let worker = WorkerStats::default();
            worker.drop_packets(*reason, true, 2, 100);
            worker.drop_packets(*reason, false, 1 + at as u64, 100);
            let mut now = Summary::default();
            now.add_worker(&worker);
            let line = said(&now).unwrap();
            assert_eq!((&line[reason.as_str()], &line["dropped"]), (&(3 + at).into(), &(3 + at).into()), "{line}");
            assert!(line.get("refused").is_none(), "{line}");
            assert_eq!(said(&now.since(&now)), None);
        }
        for reason in REFUSALS {
            let edge = edge::Stats::default();
            edge.closes[reason as usize].add(7);
            let mut now = Summary::default();
            now.add_edge(&edge);
            let line = said(&now).unwrap();
            assert_eq!((&line[reason.as_str()], &line["refused"]), (&7.into(), &7.into()), "{line}");
        }
        let lost = Summary { lost_lines: 3, ..Summary::default() };
        assert_eq!(said(&lost).unwrap()["lost_log_lines"], 3);
    }
}
