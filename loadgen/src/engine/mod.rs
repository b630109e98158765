//! Sockets, epoll and the phases of a run, on one thread.
//!
//! ```text
//! log in all connections -> wait for a step -> warm up -> measure -> drain -+
//!                               ^-------------------------------------------+
//! ```
//! One turn: wait, take everything that has arrived, then send whatever may be sent. So packets
//! that arrive together open windows together, as they would at a client.

mod churn;
mod conns;
mod dial;
pub mod first;
mod flows;
pub mod poller;
mod sending;
pub mod setup;
mod transit;
mod transport;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::cli::{Pace, Plan};
use crate::crew::{Command, Event, Live, Step};
use crate::derp::frame::Deframer;
use crate::derp::login::Identity;
use crate::error::{ConnError, Error, Role};
use crate::measure::{At, Stats, StepResult, histogram};
use crate::traffic::schedule::{Schedule, Share};
use crate::traffic::shape::{Class, Layout};
use churn::Churn;
use dial::Dial;
use flows::Flows;
use poller::{Poller, Precision};
use sending::Paced;
use transport::Transport;

/// Large enough for what a fast relay puts into a socket between two turns.
const RX_LEN: usize = 256 * 1024;
/// How often deadlines that are not part of the load are looked at.
const TICK: u64 = 20_000_000;
/// How soon a new step is noticed.
const COMMAND_TICK: u64 = 1_000_000;

/// What one thread has to do.
pub struct Job<'a> {
    pub plan: &'a Plan,
    /// Of the whole run's connections and links, those of this thread.
    pub layout: Layout,
    /// Threads of the whole run: this one has a part like theirs in schedules that are not of links.
    pub workers: usize,
    pub logins: Logins<'a>,
    /// Of schedules that are scattered; another one in each thread of the run.
    pub seed: u64,
    /// The first thread of a process samples it.
    pub leads: bool,
    pub clock: Instant,
    pub live: &'a Live,
    pub commands: Receiver<Command>,
}

/// A thread's part in the logins that may be in progress.
pub struct Logins<'a> {
    pub at_once: usize,
    /// Threads of this process that must be through before this one begins.
    pub after: usize,
    /// Those that are.
    pub through: &'a AtomicUsize,
}

impl<'a> Logins<'a> {
    /// The part of `thread` of `threads` in `at_once` logins of this process. When there are fewer than threads, the
    /// last ones take the places of the first as these are through.
    pub fn part(at_once: usize, thread: usize, threads: usize, through: &'a AtomicUsize) -> Self {
        let begin = at_once.clamp(1, threads);
        let share = at_once / threads + usize::from(thread < at_once % threads);
        Self { at_once: share.max(1), after: (thread + 1).saturating_sub(begin), through }
    }

    fn now(&self) -> usize {
        if self.through.load(Ordering::Relaxed) >= self.after { self.at_once } else { 0 }
    }
}

/// Does the job: an event for the end of the logins, and one for each step.
pub fn work(job: Job<'_>, mut tell: impl FnMut(Event)) -> Result<(), Error> {
    let mut engine = Engine::new(job)?;
    while engine.phase != Phase::Done {
        if let Some(event) = engine.turn()? {
            tell(event);
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    Login,
    /// All are logged in, and nobody sends.
    Ready,
    Warmup,
    Measure,
    Drain,
    Done,
}

struct Engine<'a> {
    plan: &'a Plan,
    job_share: Share,
    leads: bool,
    layout: Layout,
    clock: Instant,
    live: &'a Live,
    commands: Receiver<Command>,
    poller: Poller,
    conns: Vec<Conn>,
    identities: Vec<Identity>,
    logins_at_once: Logins<'a>,
    dialing: usize,
    up: usize,
    logins: Histogram<u64>,
    flows: Flows,
    paced: Vec<Paced>,
    floods: Vec<usize>,
    slow_receivers: Vec<usize>,
    slow_read_at: u64,
    /// Writes that were due while their sender was blocked, as link and time.
    backlogs: Vec<VecDeque<(usize, u64)>>,
    churn: Churn,
    stats: Stats,
    /// Process and thread at the beginning of the measured time.
    from: Option<(Option<At>, Duration)>,
    measured: Measured,
    phase: Phase,
    step: Step,
    phase_end: u64,
    /// Of schedules that are scattered.
    seed: u64,
    next_tick: u64,
    last_arrival: u64,
    rx: Box<[u8]>,
    tx: Vec<u8>,
}

/// What the end of the measured time leaves for the end of the step.
#[derive(Default)]
struct Measured {
    at: Option<(At, At)>,
    seconds: f64,
    busy: f64,
}

enum Conn {
    Waiting,
    Dialing(Box<Dial>),
    Up(Box<(Transport, Deframer)>),
    /// Ended by the relay, which may do so.
    Gone,
}

impl<'a> Engine<'a> {
    fn new(job: Job<'a>) -> Result<Self, Error> {
        let Job { plan, layout, workers, logins, seed, leads, clock, live, commands } = job;
        let identities = setup::identities(layout.conns.len())?;
        let keys: Vec<_> = identities.iter().map(|identity| identity.public).collect();
        let flows = Flows::new(plan, &layout, &keys);
        let slow = |at: &usize| layout.conns[*at].who.role == Role::SlowReceiver;
        Ok(Self {
            job_share: Share { mine: 1, total: workers as u64 },
            logins_at_once: logins,
            clock,
            poller: Poller::new().map_err(|source| Error::System { what: "cannot set up epoll", source })?,
            conns: std::iter::repeat_with(|| Conn::Waiting).take(layout.conns.len()).collect(),
            dialing: 0,
            up: 0,
            logins: histogram(),
            paced: Vec::new(),
            floods: flows.of_class(Class::Stalled),
            slow_receivers: (0..layout.conns.len()).filter(slow).collect(),
            slow_read_at: 0,
            backlogs: vec![VecDeque::new(); layout.conns.len()],
            churn: Churn::default(),
            stats: Stats::new(),
            from: None,
            measured: Measured::default(),
            phase: Phase::Login,
            step: Step::default(),
            phase_end: u64::MAX,
            seed,
            next_tick: 0,
            last_arrival: 0,
            rx: vec![0; RX_LEN].into(),
            tx: Vec::with_capacity(RX_LEN),
            plan,
            leads,
            layout,
            live,
            commands,
            flows,
            identities,
        })
    }

    fn turn(&mut self) -> Result<Option<Event>, Error> {
        let now = self.now();
        let (limit, precision) = self.patience(now);
        self.poller.wait(limit, precision).map_err(|source| Error::System { what: "epoll failed", source })?;
        self.stats.series.at(self.now());
        for index in 0..self.poller.count() {
            if let Some(ready) = self.poller.ready(index) {
                self.on_ready(ready)?;
            }
        }
        let now = self.now();
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            self.on_tick(now)?;
        }
        // Before sending: what is due at the beginning of the measured time is measured.
        let event = self.next_phase()?;
        if self.phase == Phase::Login {
            self.dial_more()?;
        } else if self.loads() && self.now() >= self.step.begin {
            self.send_ready()?;
            self.send_due()?;
            self.send_beside()?;
            self.begin_logins()?;
        }
        if self.sends() {
            self.send_replies()?;
        }
        Ok(event)
    }

    fn loads(&self) -> bool {
        matches!(self.phase, Phase::Warmup | Phase::Measure)
    }

    fn now(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64
    }

    /// Replies are sent to the end.
    fn sends(&self) -> bool {
        matches!(self.phase, Phase::Warmup | Phase::Measure | Phase::Drain)
    }

    /// How long nothing needs to be done unless something arrives.
    fn patience(&self, now: u64) -> (Duration, Precision) {
        if self.loads() && (self.plan.spin || self.flows.has_ready() || self.has_room_to_flood()) {
            return (Duration::ZERO, Precision::Coarse);
        }
        let mut until = self.next_tick.min(self.phase_end);
        if self.phase == Phase::Ready {
            until = until.min(now + COMMAND_TICK);
        }
        let due = self.paced.iter().map(Paced::due).chain(self.churn.due()).min();
        let (until, precision) = match due {
            Some(due) if due < until => (due, Precision::Fine),
            _ => (until, Precision::Coarse),
        };
        (Duration::from_nanos(until.saturating_sub(now)), precision)
    }

    fn next_phase(&mut self) -> Result<Option<Event>, Error> {
        let now = self.now();
        match self.phase {
            Phase::Login if self.up == self.conns.len() => {
                self.logins_at_once.through.fetch_add(1, Ordering::Relaxed);
                self.enter(Phase::Ready, u64::MAX);
                return Ok(Some(Event::LoggedIn(self.logins.clone())));
            }
            Phase::Ready => match self.commands.try_recv() {
                Ok(Command::Step(step)) => self.begin(step),
                Err(TryRecvError::Empty) => {}
                Ok(Command::Finish) | Err(TryRecvError::Disconnected) => self.phase = Phase::Done,
            },
            Phase::Warmup if now >= self.phase_end => self.start_measuring(now)?,
            Phase::Measure if now >= self.phase_end => self.stop_measuring(now)?,
            Phase::Drain => {
                let silent = now.saturating_sub(self.last_arrival) >= self.plan.stall.as_nanos() as u64;
                if (self.flows.is_drained() || silent) && self.churn.is_drained() {
                    self.enter(Phase::Ready, u64::MAX);
                    return Ok(Some(Event::Stepped(Box::new(self.result()))));
                }
            }
            _ => {}
        }
        Ok(None)
    }

    fn begin(&mut self, step: Step) {
        let begin = step.begin.max(self.now());
        self.step = step;
        self.stats = Stats::new();
        self.slow_read_at = begin;
        self.flows.start(begin);
        let share = |links: &[usize], class: Class| Share {
            mine: links.len() as u64,
            total: self.plan.links_of(class).max(1) as u64,
        };
        self.paced.clear();
        let main = self.flows.of_class(Class::Main);
        if let (Pace::Rate(rate), false) = (self.plan.pace, main.is_empty()) {
            let rate = self.step.rate.unwrap_or(rate);
            let schedule = Schedule::new(begin, rate, self.plan.burst, share(&main, Class::Main));
            self.paced.push(Paced::new(schedule, main, true));
        }
        let disco = self.flows.of_class(Class::Disco);
        if !disco.is_empty() {
            let schedule = Schedule::new(begin, self.plan.disco, 1, share(&disco, Class::Disco));
            let schedule = schedule.scattered(!self.seed);
            self.paced.push(Paced::new(schedule, disco, false));
        }
        if self.plan.churn > 0 {
            self.churn.start(Schedule::new(begin, self.plan.churn, 1, self.job_share).scattered(self.seed));
        }
        self.enter(Phase::Warmup, begin.saturating_add(self.step.warmup));
    }

    fn start_measuring(&mut self, now: u64) -> Result<(), Error> {
        self.flows.start_measuring();
        let at = self.leads.then(|| At::now(self.plan.relay_pid, now)).transpose()?;
        self.from = Some((at, thread_time()));
        let now = self.now();
        self.stats.measure_from(now);
        self.enter(Phase::Measure, now.saturating_add(self.step.duration));
        Ok(())
    }

    fn stop_measuring(&mut self, now: u64) -> Result<(), Error> {
        self.paced.clear();
        self.churn.stop();
        self.flows.stop_measuring();
        self.drop_backlogs();
        let seconds = self.stats.measure_to(now);
        if let Some((from, busy)) = self.from.take() {
            let to = self.leads.then(|| At::now(self.plan.relay_pid, now)).transpose()?;
            self.measured = Measured {
                at: from.zip(to),
                seconds,
                busy: thread_time().saturating_sub(busy).as_secs_f64() / seconds.max(1e-9),
            };
        }
        self.last_arrival = self.now();
        self.enter(Phase::Drain, u64::MAX);
        Ok(())
    }

    fn enter(&mut self, phase: Phase, end: u64) {
        self.phase = phase;
        self.phase_end = end;
    }

    fn on_tick(&mut self, now: u64) -> Result<(), Error> {
        self.live.show(self.up, &self.stats);
        if self.live.is_stopped() {
            self.phase = Phase::Done;
            return Ok(());
        }
        match self.phase {
            Phase::Login => self.check_dials(now)?,
            Phase::Warmup | Phase::Measure => self.flows.check_stalls(now, &mut self.stats),
            Phase::Ready | Phase::Drain | Phase::Done => {}
        }
        self.check_logins(now);
        if self.sends() {
            self.read_slowly(now)?;
        }
        Ok(())
    }

    fn check_dials(&self, now: u64) -> Result<(), Error> {
        let limit = self.plan.login_timeout.as_nanos() as u64;
        for (token, conn) in self.conns.iter().enumerate() {
            if let Conn::Dialing(dial) = conn
                && now.saturating_sub(dial.started) > limit
            {
                return Err(self.login_failed(token, dial.waiting_for(), ConnError::Timeout));
            }
        }
        Ok(())
    }

    fn result(&mut self) -> StepResult {
        let Measured { at, seconds, busy } = std::mem::take(&mut self.measured);
        let stats = std::mem::take(&mut self.stats);
        StepResult { totals: self.flows.totals(), stats, at, seconds, busy }
    }
}

/// CPU time of this thread.
fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// Watches for room in the socket only while something waits for it, and reads only who does.
fn watch(poller: &Poller, token: usize, transport: &mut Transport) -> Result<(), ConnError> {
    let wanted = poller::Interest { read: transport.reads, write: transport.is_blocked() };
    if transport.watched != wanted {
        poller.set(&*transport, token, wanted)?;
        transport.watched = wanted;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_in_progress_are_shared_out_and_taken_over() {
        let through = AtomicUsize::new(0);
        let now = |at_once, threads| {
            (0..threads).map(|thread| Logins::part(at_once, thread, threads, &through).now()).collect::<Vec<_>>()
        };
        assert_eq!((now(32, 1), now(32, 3), now(2, 2)), (vec![32], vec![11, 11, 10], vec![1, 1]));
        assert_eq!((now(1, 3), now(2, 3), now(0, 2)), (vec![1, 0, 0], vec![1, 1, 0], vec![1, 0]));
        through.store(1, Ordering::Relaxed);
        assert_eq!((now(1, 3), now(2, 3)), (vec![1, 1, 0], vec![1, 1, 1]));
        through.store(2, Ordering::Relaxed);
        assert_eq!(now(1, 3), [1, 1, 1]);
    }
}
