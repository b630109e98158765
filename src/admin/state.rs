//! What all parts of the admin thread share.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{Semaphore, watch};

use super::roster::{Roster, Workers};
use crate::config::AdminConfig;
use crate::control::logging::Control;
use crate::control::metrics::Collector;
use crate::edge;
use crate::limits;

pub(super) struct State {
    pub about: About,
    /// This one and the next may change while it runs.
    pub access: ArcSwap<AdminConfig>,
    pub debug_key: ArcSwapOption<PathBuf>,
    pub collector: Collector,
    pub workers: Arc<dyn Workers>,
    pub edges: Arc<[Arc<edge::Stats>]>,
    pub roster: Roster,
    pub log: Control,
    pub phase: watch::Sender<Phase>,
    pub streams: Arc<Semaphore>,
    pub streams_on_main: Arc<Semaphore>,
    /// Admin connections that found no place.
    pub turned_away: AtomicU64,
    pub began: Instant,
}

/// What the relay is, for people.
#[derive(Clone, Debug)]
pub struct About {
    pub machine: String,
    /// Of the certificate.
    pub hostname: Option<String>,
    pub mesh_key: bool,
    pub backend: String,
    pub workers: usize,
    pub edges: usize,
    pub listening: Vec<SocketAddr>,
    pub public_key: String,
}

/// Where the relay is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The listeners are still another relay's to answer.
    Starting,
    Running,
    /// Nobody new comes in; what is queued goes out.
    Stopping,
    /// The same, and the listeners are another relay's by now.
    Leaving,
    /// The admin thread is to end, too.
    Over,
}

impl Phase {
    pub fn is_stopping(self) -> bool {
        matches!(self, Self::Stopping | Self::Leaving | Self::Over)
    }
}

/// What the thread is given.
pub struct Parts {
    pub about: About,
    pub access: AdminConfig,
    pub debug_key: Option<PathBuf>,
    pub collector: Collector,
    pub workers: Arc<crate::worker::pool::Pool>,
    pub edges: Arc<[Arc<edge::Stats>]>,
    pub log: Control,
}

impl State {
    pub fn new(parts: Parts) -> Self {
        let Parts { about, access, debug_key, collector, workers, edges, log } = parts;
        let streams = || Arc::new(Semaphore::new(limits::TRAFFIC_STREAMS));
        Self {
            about,
            access: ArcSwap::from_pointee(access),
            debug_key: ArcSwapOption::from_pointee(debug_key),
            collector,
            roster: Roster::new(workers.clone()),
            workers,
            edges,
            log,
            phase: watch::Sender::new(Phase::Starting),
            streams: streams(),
            streams_on_main: streams(),
            turned_away: AtomicU64::new(0),
            began: Instant::now(),
        }
    }

    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// The next moment that is a multiple of `period`, and not sooner than half of it: who does something again and
    /// again does it at the same moments as the others, and shares what it takes.
    pub fn tick_after(&self, now: Instant, period: Duration) -> Instant {
        tick_after(self.began, now, period)
    }
}

fn tick_after(began: Instant, now: Instant, period: Duration) -> Instant {
    let since = now.duration_since(began) + period / 2;
    let periods = since.as_nanos().div_ceil(period.as_nanos()).max(1);
    began + Duration::from_nanos((periods * period.as_nanos()) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_multiples_and_not_too_soon() {
        let began = Instant::now();
        let tick = |ms: u64| {
            (tick_after(began, began + Duration::from_millis(ms), Duration::from_secs(1)) - began).as_millis()
        };
        assert_eq!(
            [tick(0), tick(499), tick(500), tick(501), tick(1000), tick(1501)],
            [1000, 1000, 1000, 2000, 2000, 3000]
        );
    }
}
