//! The threads of this process.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::{Command, Crew, Event, LEAD_TIME, Live, Part, Step};
use crate::cli::Plan;
use crate::engine::{self, Job, Logins, setup};
use crate::error::Error;
use crate::measure::proc::Sample;
use crate::measure::{StepResult, histogram};

/// How often the progress line changes.
const PROGRESS: Duration = Duration::from_millis(250);

pub struct Threads<'scope> {
    clock: Instant,
    lives: Vec<Arc<Live>>,
    commands: Vec<Sender<Command>>,
    events: Receiver<Result<Event, Error>>,
    handles: Vec<ScopedJoinHandle<'scope, ()>>,
    progress: Progress,
}

impl<'scope> Threads<'scope> {
    pub fn start<'env>(plan: &'env Plan, part: Part, scope: &'scope Scope<'scope, 'env>) -> Self {
        let (tell, events) = channel();
        let mut threads = Self {
            clock: Instant::now(),
            lives: Vec::new(),
            commands: Vec::new(),
            events,
            handles: Vec::new(),
            progress: Progress::new(plan),
        };
        // Of all threads of all processes.
        let workers = plan.threads * part.of;
        let at_once = plan.login_concurrency / part.of + usize::from(part.index < plan.login_concurrency % part.of);
        let through = Arc::new(AtomicUsize::new(0));
        for thread in 0..plan.threads {
            let worker = part.index * plan.threads + thread;
            let (command, commands) = channel();
            let live = Arc::new(Live::default());
            threads.commands.push(command);
            threads.lives.push(Arc::clone(&live));
            let (tell, clock) = (tell.clone(), threads.clock);
            let layout = plan.layout.part(worker, workers);
            let through = Arc::clone(&through);
            threads.handles.push(scope.spawn(move || {
                let logins = Logins::part(at_once, thread, plan.threads, &through);
                // Steps of 2^32: no run has as many logins.
                let seed = plan.nonce.wrapping_add(worker as u64).rotate_left(32);
                let job = Job { plan, layout, workers, logins, seed, leads: thread == 0, clock, live: &live, commands };
                let pinned = plan.cpus.get(thread % plan.cpus.len().max(1)).map_or(Ok(()), |cpu| setup::pin(*cpu));
                let told = tell.clone();
                // Who listens no longer has failed for another reason.
                let result = pinned.and_then(|()| engine::work(job, |event| drop(told.send(Ok(event)))));
                if let Err(err) = result {
                    let _ = tell.send(Err(err));
                }
            }));
        }
        threads
    }

    pub fn lives(&self) -> Vec<Arc<Live>> {
        self.lives.clone()
    }

    fn next(&mut self) -> Result<Event, Error> {
        loop {
            match self.events.recv_timeout(PROGRESS) {
                Ok(event) => {
                    self.progress.clear();
                    return event;
                }
                Err(RecvTimeoutError::Timeout) if self.handles.iter().any(ScopedJoinHandle::is_finished) => {
                    return self.events.try_recv().unwrap_or(Err(Error::ThreadGone));
                }
                Err(RecvTimeoutError::Timeout) => self.progress.show(&self.lives),
                Err(RecvTimeoutError::Disconnected) => return Err(Error::ThreadGone),
            }
        }
    }
}

impl Crew for Threads<'_> {
    fn begin(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64 + LEAD_TIME
    }

    fn logged_in(&mut self) -> Result<(Histogram<u64>, Option<[Sample; 2]>), Error> {
        let mut logins = histogram();
        for _ in 0..self.lives.len() {
            if let Event::LoggedIn(times) = self.next()? {
                logins.add(times).expect("all histograms have the same bounds");
            }
        }
        Ok((logins, None))
    }

    fn step(&mut self, step: Step) -> Result<StepResult, Error> {
        for commands in &self.commands {
            // A thread that is gone has left its error among the events.
            let _ = commands.send(Command::Step(step));
        }
        let mut sum: Option<StepResult> = None;
        for _ in 0..self.lives.len() {
            if let Event::Stepped(result) = self.next()? {
                match &mut sum {
                    Some(sum) => sum.add(*result),
                    None => sum = Some(*result),
                }
            }
        }
        sum.ok_or(Error::ThreadGone)
    }
}

impl Drop for Threads<'_> {
    /// Whatever the threads are doing, they end soon.
    fn drop(&mut self) {
        for live in &self.lives {
            live.stop();
        }
        self.progress.clear();
    }
}

/// One line that says how far the run is, on a terminal only.
struct Progress {
    connections: u64,
    enabled: bool,
    /// When the packets were last counted, and how many had been sent and had arrived.
    last: (Instant, u64, u64),
}

impl Progress {
    fn new(plan: &Plan) -> Self {
        Self {
            connections: plan.layout.conns.len() as u64,
            enabled: io::stderr().is_terminal(),
            last: (Instant::now(), 0, 0),
        }
    }

    fn show(&mut self, lives: &[Arc<Live>]) {
        if !self.enabled {
            return;
        }
        let sum = |of: fn(&Live) -> u64| lives.iter().map(|live| of(live)).sum::<u64>();
        let up = sum(|live| live.up.load(Ordering::Relaxed));
        let sent = sum(|live| live.sent.load(Ordering::Relaxed));
        let arrived = sum(|live| live.arrived.load(Ordering::Relaxed));
        let (before, sent_before, arrived_before) = std::mem::replace(&mut self.last, (Instant::now(), sent, arrived));
        let seconds = before.elapsed().as_secs_f64();
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        // A progress line that cannot be written is no reason to end the run.
        let _ = write!(
            io::stderr(),
            "\r\x1b[K{up} of {} logged in, {:.0} packets/s sent, {:.0} received",
            self.connections,
            rate(sent, sent_before),
            rate(arrived, arrived_before)
        );
    }

    fn clear(&self) {
        if self.enabled {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
