//! Sockets, epoll and the phases of a run.
//!
//! ```text
//! log in all connections -> warm up -> measure -> drain
//! ```
//! One turn: wait, take everything that has arrived, then send whatever may be sent. So packets
//! that arrive together open windows together, as they would at a client.

mod conns;
mod dial;
mod pairs;
mod poller;
mod sending;
mod setup;
mod transport;

use std::time::{Duration, Instant};

use crate::cli::{Pace, Plan};
use crate::derp::frame::Deframer;
use crate::derp::login::Identity;
use crate::error::{ConnError, Error};
use crate::measure::{Instants, Outcome, Stats};
use crate::traffic::schedule::Schedule;
use dial::Dial;
use pairs::Pairs;
pub use pairs::Totals;
use poller::{Poller, Precision};
use transport::Transport;

/// Large enough for what a fast relay puts into a socket between two turns.
const RX_LEN: usize = 256 * 1024;
/// How often deadlines that are not part of the load are looked at.
const TICK: u64 = 20_000_000;

/// Makes the run.
pub fn run(plan: &Plan) -> Result<Outcome, Error> {
    setup::process(plan)?;
    let mut engine = Engine::new(plan)?;
    while engine.phase != Phase::Done {
        engine.turn()?;
    }
    Ok(engine.outcome())
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    Login,
    Warmup,
    Measure,
    Drain,
    Done,
}

struct Engine<'a> {
    plan: &'a Plan,
    clock: Instant,
    poller: Poller,
    /// Senders, then receivers, then idle clients.
    conns: Vec<Conn>,
    identities: Vec<Identity>,
    dialing: usize,
    up: usize,
    pairs: Pairs,
    schedule: Option<Schedule>,
    stats: Stats,
    instants: Instants,
    phase: Phase,
    phase_end: u64,
    next_tick: u64,
    last_arrival: u64,
    progress: setup::Progress,
    rx: Box<[u8]>,
    tx: Vec<u8>,
}

enum Conn {
    Waiting,
    Dialing(Box<Dial>),
    Up(Box<(Transport, Deframer)>),
}

impl<'a> Engine<'a> {
    fn new(plan: &'a Plan) -> Result<Self, Error> {
        let total = plan.connections();
        let identities = setup::identities(total)?;
        let (senders, others) = identities.split_at(plan.pairs);
        let keys = senders.iter().zip(others).map(|(a, b)| (a.public, b.public));
        Ok(Self {
            pairs: Pairs::new(plan, keys),
            clock: Instant::now(),
            poller: Poller::new().map_err(|source| Error::System { what: "cannot set up epoll", source })?,
            conns: std::iter::repeat_with(|| Conn::Waiting).take(total).collect(),
            dialing: 0,
            up: 0,
            schedule: None,
            stats: Stats::new(),
            instants: Instants::start(plan.relay_pid)?,
            phase: Phase::Login,
            phase_end: u64::MAX,
            next_tick: 0,
            last_arrival: 0,
            progress: setup::Progress::new(total),
            rx: vec![0; RX_LEN].into(),
            tx: Vec::with_capacity(RX_LEN),
            plan,
            identities,
        })
    }

    fn turn(&mut self) -> Result<(), Error> {
        let now = self.now();
        let (limit, precision) = self.patience(now);
        self.poller.wait(limit, precision).map_err(|source| Error::System { what: "epoll failed", source })?;
        for index in 0..self.poller.count() {
            if let Some(ready) = self.poller.ready(index) {
                self.on_ready(ready)?;
            }
        }
        let now = self.now();
        if self.phase == Phase::Login {
            self.dial_more()?;
        } else if matches!(self.phase, Phase::Warmup | Phase::Measure) {
            self.send_ready()?;
            self.send_due()?;
        }
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            self.on_tick(now)?;
        }
        self.next_phase()
    }

    fn now(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64
    }

    /// How long nothing needs to be done unless something arrives.
    fn patience(&self, now: u64) -> (Duration, Precision) {
        let spins = self.plan.spin && matches!(self.phase, Phase::Warmup | Phase::Measure);
        if spins || self.pairs.has_ready() {
            return (Duration::ZERO, Precision::Coarse);
        }
        let until = self.next_tick.min(self.phase_end);
        let (until, precision) = match &self.schedule {
            Some(schedule) if schedule.due() < until => (schedule.due(), Precision::Fine),
            _ => (until, Precision::Coarse),
        };
        (Duration::from_nanos(until.saturating_sub(now)), precision)
    }

    fn next_phase(&mut self) -> Result<(), Error> {
        let now = self.now();
        match self.phase {
            Phase::Login if self.up == self.conns.len() => {
                self.progress.finish();
                self.instants.logged_in(now)?;
                self.pairs.start(now);
                if let Pace::Rate(rate) = self.plan.pace
                    && self.pairs.len() > 0
                {
                    self.schedule = Some(Schedule::new(now, rate, self.plan.burst));
                }
                self.enter(Phase::Warmup, now, self.plan.warmup);
            }
            Phase::Warmup if now >= self.phase_end => {
                self.pairs.start_measuring();
                self.instants.measure_from(now)?;
                self.stats.measuring = true;
                self.enter(Phase::Measure, now, self.plan.duration);
            }
            Phase::Measure if now >= self.phase_end => {
                self.schedule = None;
                self.pairs.stop_measuring(&mut self.stats);
                self.stats.measuring = false;
                self.instants.measure_to(now)?;
                self.last_arrival = now;
                self.enter(Phase::Drain, now, Duration::MAX);
            }
            Phase::Drain => {
                let silent = now.saturating_sub(self.last_arrival);
                if self.pairs.is_drained() || silent >= self.plan.stall.as_nanos() as u64 {
                    self.phase = Phase::Done;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn enter(&mut self, phase: Phase, now: u64, length: Duration) {
        let length = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
        self.phase = phase;
        self.phase_end = now.saturating_add(length);
    }

    fn on_tick(&mut self, now: u64) -> Result<(), Error> {
        match self.phase {
            Phase::Login => {
                let limit = self.plan.login_timeout.as_nanos() as u64;
                for (token, conn) in self.conns.iter().enumerate() {
                    if let Conn::Dialing(dial) = conn
                        && now.saturating_sub(dial.started) > limit
                    {
                        let stage = dial.waiting_for();
                        return Err(self.login_failed(token, stage, ConnError::Timeout));
                    }
                }
            }
            Phase::Warmup | Phase::Measure => self.pairs.check_stalls(now, &mut self.stats),
            Phase::Drain | Phase::Done => {}
        }
        Ok(())
    }

    fn outcome(self) -> Outcome {
        Outcome { totals: self.pairs.totals(), stats: self.stats, instants: self.instants }
    }
}

/// Watches for room in the socket only while something waits for it.
fn watch(poller: &Poller, token: usize, transport: &mut Transport) -> Result<(), ConnError> {
    let wanted = transport.is_blocked();
    if transport.watches_write != wanted {
        poller.set(&*transport, token, wanted)?;
        transport.watches_write = wanted;
    }
    Ok(())
}
