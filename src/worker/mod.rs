//! A worker: the loop that one core runs, and everything that a packet meets on its way through it.
//!
//! ```text
//! driver --> ingress --> route --> egress --> send --> driver
//!  (bytes)   open, cut     |        queue     seal     (bytes)
//!                          +--> mailbox --> another worker's egress
//! ```

pub mod bridge;
mod bulk;
mod control;
mod core;
pub mod directory;
pub mod egress;
mod ingress;
mod life;
pub mod listing;
mod mail;
pub mod mailbox;
pub mod moving;
mod placement;
pub mod pool;
mod publish;
mod route;
mod send;
pub mod session;
mod timers;
mod websocket;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_queue::ArrayQueue;

use crate::driver::{Driver, Nanos, WakeHandle};
use crate::limits;
use crate::stats::{CloseReason, WorkerStats};
use bridge::{Arrival, Command, Event, Handover};
pub use core::{Core, Settings};
use mailbox::{Inbox, Mailbox};
use session::State;
use timers::Alarm;

/// What everybody may know of a worker.
#[derive(Debug)]
pub struct Doorbell {
    pub wake: Arc<WakeHandle>,
    /// Set before the worker goes to sleep, before it looks at its queues for the last time.
    asleep: AtomicBool,
}

impl Doorbell {
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { wake: Arc::new(WakeHandle::new()?), asleep: AtomicBool::new(false) })
    }

    /// Rings if the worker sleeps and nobody has rung yet. What it shall find is in its queue already.
    pub fn ring(&self) {
        if self.claim() {
            self.wake.wake();
        }
    }

    /// Nobody needs to ring: whatever is queued from here on is found before the next sleep.
    fn answer(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    fn claim(&self) -> bool {
        // Pairs with the fence in `Worker::nap`: either we see that it sleeps, or it sees what we have queued.
        std::sync::atomic::fence(Ordering::SeqCst);
        self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed)
    }
}

/// What the workers of one relay share.
pub struct Common<S> {
    pub inboxes: Arc<[Inbox]>,
    pub bells: Arc<[Arc<Doorbell>]>,
    pub commands: Arc<[ArrayQueue<Command<S>>]>,
    pub events: Arc<ArrayQueue<Event>>,
    pub stats: Arc<[Arc<WorkerStats>]>,
    /// Sessions that each worker was given and that have not been reported as ended.
    pub placed: Box<[AtomicUsize]>,
    /// Workers that have stopped receiving and have delivered all that they had for others.
    pub drained: AtomicUsize,
}

impl<S> Common<S> {
    /// # Errors
    /// No descriptor is left.
    pub fn new(workers: usize, inbox_chains: usize) -> std::io::Result<Arc<Self>> {
        let bells: std::io::Result<Vec<_>> = (0..workers).map(|_| Doorbell::new().map(Arc::new)).collect();
        Ok(Arc::new(Self {
            inboxes: (0..workers).map(|_| Inbox::new(inbox_chains)).collect(),
            bells: bells?.into(),
            commands: (0..workers).map(|_| ArrayQueue::new(limits::COMMANDS)).collect(),
            events: Arc::new(ArrayQueue::new(limits::EVENTS)),
            stats: (0..workers).map(|_| Arc::new(WorkerStats::default())).collect(),
            placed: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
            drained: AtomicUsize::new(0),
        }))
    }
}

pub struct Worker<D: Driver> {
    driver: D,
    core: Core,
    common: Arc<Common<D::Socket>>,
    /// Sessions that wait until every worker knows them, with the publication that tells so.
    joining: Vec<Joining<D::Socket>>,
    /// Sessions on their way to workers whose queue was full.
    departures: Vec<Box<Arrival<D::Socket>>>,
    stop: Option<Stop>,
    alarms: Vec<Alarm>,
}

/// Publication, slot, and what the session begins with.
type Joining<S> = (u64, u32, Box<Handover<S>>);

struct Stop {
    deadline: Nanos,
    drained: bool,
}

/// Whether a worker goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Turn,
    /// All sessions are closed; nothing is held.
    Finished,
}

impl<D: Driver> Worker<D> {
    pub fn new(mut driver: D, me: u16, settings: Settings, common: Arc<Common<D::Socket>>) -> Self {
        let mailbox = Mailbox::new(me, common.inboxes.clone());
        let stats = common.stats[usize::from(me)].clone();
        let bell = common.bells[usize::from(me)].clone();
        let core = Core::new(settings, me, bell, mailbox, stats, common.events.clone(), driver.now());
        Self { driver, core, common, joining: Vec::new(), departures: Vec::new(), stop: None, alarms: Vec::new() }
    }

    /// One turn: take everything that has come, act on it, then send, once per session and once per worker.
    ///
    /// # Errors
    /// The driver is broken.
    // Not inlined into the thread's main function: its locked instructions are counted by name (perf/budgets.toml).
    #[inline(never)]
    pub fn turn(&mut self) -> std::io::Result<Next> {
        const MAIL: usize = 256;
        // 1. Everything that the sockets have brought; sleeps here when there is nothing else to do.
        let wait = self.nap();
        let began = self.core.now;
        let sleeps = if wait.is_zero() { None } else { Some(self.driver.now()) };
        self.driver.turn(wait, &mut self.core)?;
        let worked = sleeps.unwrap_or(self.core.now).saturating_sub(began);
        self.core.stats.busy_ns.add(worked);
        self.core.stats.turn_time.record(worked);
        self.core.stats.sleeps.add(u64::from(sleeps.is_some()));
        // 2. New sessions and orders from the edge.
        self.obey();
        // 3. What other workers have sent.
        self.core.read_mail(&mut self.driver, MAIL);
        // 4. Sessions that every worker knows by now begin, or go on elsewhere.
        self.open();
        self.send_away();
        // 5. Deadlines, and now and then a look at who should be where.
        self.ring_alarms();
        self.place();
        // 6. One send per session that has something to send.
        self.core.flush(&mut self.driver);
        // 7. Sessions that have ended leave; behind everything that they have sent.
        self.core.reap(&mut self.driver);
        // 8. One chain per other worker.
        self.post();
        self.core.report();
        self.count();
        Ok(self.next())
    }

    /// How long the driver may sleep.
    fn nap(&mut self) -> Duration {
        const SOON: Duration = Duration::from_millis(1);
        const LONG: Duration = Duration::from_secs(1);
        let me = usize::from(self.core.me);
        let busy =
            || !self.core.dirty.is_empty() || self.core.mailbox.has_mail() || !self.common.commands[me].is_empty();
        if busy() {
            return Duration::ZERO;
        }
        let stuck = self.core.mailbox.is_stuck()
            || !self.departures.is_empty()
            || self.core.has_reports()
            || self.stop.is_some();
        let next = self.core.wheel.next().map_or(LONG, |at| Duration::from_nanos(at.saturating_sub(self.core.now)));
        let wait = if stuck { next.min(SOON) } else { next.min(LONG) };
        let polls = self.core.now < self.core.active_at + self.core.settings.busy_poll.as_nanos() as Nanos;
        if wait.is_zero() || polls {
            return Duration::ZERO;
        }
        self.common.bells[me].asleep.store(true, Ordering::Relaxed);
        // Pairs with the fence in `Doorbell::claim`.
        std::sync::atomic::fence(Ordering::SeqCst);
        if busy() {
            self.common.bells[me].answer();
            return Duration::ZERO;
        }
        wait
    }

    fn obey(&mut self) {
        let me = usize::from(self.core.me);
        // Looking into an empty queue is two loads; taking from one is a fence.
        while !self.common.commands[me].is_empty() {
            let Some(command) = self.common.commands[me].pop() else { return };
            match command {
                Command::Adopt(handover) => self.adopt(handover),
                Command::Arrive(arrival) => self.core.arrive(&mut self.driver, *arrival),
                Command::List(request) => self.core.list(request),
                Command::Drain { reconnect_spread } => self.core.begin_drain(reconnect_spread),
                Command::Stop { flush, reconnect_spread } => self.begin_stop(flush, reconnect_spread),
            }
        }
    }

    fn adopt(&mut self, mut handover: Box<Handover<D::Socket>>) {
        match self.core.join(&mut handover) {
            Some((slot, publication)) => self.joining.push((publication, slot, handover)),
            // No name is left for it: the socket closes as it is dropped.
            None => self.core.refused(&handover.identity),
        }
    }

    /// Begins to serve sessions whose login every worker has acknowledged, in the order of their logins.
    fn open(&mut self) {
        self.core.seal_publication();
        let completed = self.core.completed();
        self.core.release_held(completed);
        while self.joining.first().is_some_and(|(publication, ..)| *publication <= completed) {
            let (_, slot, mut handover) = self.joining.remove(0);
            if self.core.sessions[slot].state != State::Joining {
                self.core.detach_unopened(slot);
                continue;
            }
            match self.driver.attach(slot, handover.socket) {
                Ok(()) => {
                    self.core.opened(slot);
                    self.core.frames(slot, &mut handover.plain_in);
                    self.core.ingest(slot, &mut handover.wire_in);
                }
                Err(_) => {
                    self.core.close(slot, CloseReason::Internal);
                    self.core.detach_unopened(slot);
                }
            }
        }
    }

    /// Sends every session on its way that is ready to go.
    fn send_away(&mut self) {
        if self.core.leaving.is_empty() && self.departures.is_empty() {
            return;
        }
        let Self { driver, core, departures, .. } = self;
        core.advance_moves(driver, |arrival| departures.push(Box::new(arrival)));
        for arrival in std::mem::take(departures) {
            let to = usize::from(arrival.worker());
            match self.common.commands[to].push(Command::Arrive(arrival)) {
                Ok(()) => {
                    self.common.placed[usize::from(self.core.me)].fetch_sub(1, Ordering::Relaxed);
                    self.common.placed[to].fetch_add(1, Ordering::Relaxed);
                    self.common.bells[to].ring();
                }
                Err(Command::Arrive(arrival)) => self.departures.push(arrival),
                Err(_) => unreachable!("what was pushed comes back"),
            }
        }
    }

    /// At the end of an epoch: sessions that should be elsewhere begin to move.
    fn place(&mut self) {
        if self.core.placement.epoch == placement::epoch_of(self.core.now) || self.common.bells.len() < 2 {
            return;
        }
        let going = self.core.end_epoch(self.common.stats.iter().map(|stats| stats.busy_ns.get()));
        if self.core.settings.moves {
            for (slot, to) in going {
                self.core.begin_move(slot, to);
            }
        }
    }

    /// Asks another worker to take the session in `slot`. `false`: it cannot move, now or at all.
    pub fn begin_move(&mut self, slot: u32, to: u16) -> bool {
        slot < self.core.slots() && self.core.begin_move(slot, to)
    }

    fn ring_alarms(&mut self) {
        let mut due = std::mem::take(&mut self.alarms);
        self.core.wheel.expire(self.core.now, &mut due);
        for alarm in due.drain(..) {
            if self.core.sessions[alarm.slot].generation == alarm.generation {
                self.core.alarm(&mut self.driver, alarm.slot);
            }
        }
        self.alarms = due;
        self.core.trim();
    }

    fn post(&mut self) {
        let (bells, driver, stats) = (&self.common.bells, &mut self.driver, &self.core.stats);
        let posted = self.core.mailbox.post(|to, packets, urgent| {
            if packets > 0 {
                stats.batch_packets.record(u64::from(packets));
            }
            let bell = &bells[usize::from(to)];
            if urgent && bell.claim() {
                driver.wake(&bell.wake);
            }
        });
        if posted.chains > 0 {
            self.core.stats.chains.add(u64::from(posted.chains));
        }
        self.core.stats.inbox_full.add(u64::from(posted.stuck));
    }

    fn count(&mut self) {
        let driver = self.driver.stats();
        let stats = &self.core.stats;
        stats.turns.add(1);
        stats.system_calls.set(driver.waits + driver.receives + driver.sends);
        stats.no_buffer.set(driver.no_buffer);
        stats.wakes_sent.set(driver.wakes_sent);
        stats.wakes_received.set(driver.wakes_received);
        stats.submissions.set(driver.submissions);
        stats.completions.set(driver.completions);
        self.core.publish_stats();
    }

    fn begin_stop(&mut self, flush: Duration, reconnect_spread: Duration) {
        if self.stop.is_some() {
            return;
        }
        self.stop = Some(Stop { deadline: self.core.now + flush.as_nanos() as Nanos, drained: false });
        self.core.begin_drain(reconnect_spread);
        self.core.stopping = true;
    }

    /// While stopping: finished when every worker has delivered what it had for others and our peers have it, or at the
    /// deadline.
    fn next(&mut self) -> Next {
        let Some(stop) = &mut self.stop else { return Next::Turn };
        let nobody_moves = self.core.leaving.is_empty() && self.departures.is_empty();
        if !stop.drained && self.joining.is_empty() && nobody_moves && self.core.mailbox.is_settled() {
            stop.drained = true;
            self.common.drained.fetch_add(1, Ordering::AcqRel);
        }
        let all_drained = self.common.drained.load(Ordering::Acquire) == self.common.bells.len();
        let deadline = stop.deadline;
        if all_drained && !self.core.mailbox.has_mail() {
            self.end_the_flushed();
        }
        if self.core.sessions.used() > 0 && self.core.now < deadline {
            return Next::Turn;
        }
        for slot in 0..self.core.sessions.slots() {
            self.core.end_of_move(slot);
            self.core.close(slot, CloseReason::Shutdown);
        }
        // Those that never began have no socket to detach.
        for (_, slot, _) in std::mem::take(&mut self.joining) {
            self.core.detach_unopened(slot);
        }
        self.core.reap(&mut self.driver);
        self.core.report();
        self.count();
        Next::Finished
    }

    /// Ends each session whose peer has acknowledged everything. Not before: closing a socket with unread bytes in it,
    /// and clients do not fall silent because we stop, resets it and takes along what is still on its way.
    fn end_the_flushed(&mut self) {
        for slot in 0..self.core.sessions.slots() {
            if self.core.is_flushed(slot) && self.driver.unacknowledged(slot).unwrap_or(0) == 0 {
                self.core.close(slot, CloseReason::Shutdown);
            }
        }
        self.core.reap(&mut self.driver);
    }

    pub fn core(&self) -> &Core {
        &self.core
    }

    pub fn driver_mut(&mut self) -> &mut D {
        &mut self.driver
    }

    /// Whether a turn would find something to do: for tests that run many workers on one thread.
    pub fn has_work(&self) -> bool {
        let me = usize::from(self.core.me);
        !self.core.dirty.is_empty()
            || self.core.mailbox.has_mail()
            || self.core.mailbox.is_stuck()
            || !self.common.commands[me].is_empty()
            || !self.joining.is_empty()
            || !self.core.leaving.is_empty()
            || !self.departures.is_empty()
    }
}
