//! The workers of one relay: their threads, and how the edge reaches them.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::driver::epoll::Epoll;
use crate::driver::probe::Choice;
use crate::driver::uring::Uring;
use crate::driver::{Driver, WakeHandle};
use crate::stats::WorkerStats;
use crate::worker::bridge::{Command, Event, Handover};
use crate::worker::listing::{Client, Page, Request};
use crate::worker::{Common, Doorbell, Next, Settings, Worker, mailbox, placement};

pub struct Pool {
    common: Arc<Common<OwnedFd>>,
    /// Where the search for the least loaded begins, so that equals take turns.
    turn: AtomicUsize,
}

/// The threads; join them after [`Pool::stop`].
#[derive(Debug)]
pub struct Threads(Vec<JoinHandle<()>>);

impl Pool {
    /// Starts `workers` threads, pinned to `cpus` one each where there are enough.
    ///
    /// # Errors
    /// A thread, or what its driver needs, cannot be had; none runs then.
    pub fn start(
        workers: usize,
        cpus: &[usize],
        backend: &Choice,
        settings: &Settings,
    ) -> io::Result<(Arc<Self>, Threads)> {
        let common = Common::new(workers, mailbox::INBOX_CHAINS)?;
        let mut threads = Vec::new();
        let (ready, started) = mpsc::channel();
        for me in 0..workers {
            let cpu = (workers <= cpus.len()).then(|| cpus[me]);
            let (common, settings, ready) = (common.clone(), settings.clone(), ready.clone());
            let uring = matches!(backend, Choice::Uring { .. });
            let main = move || {
                if let Some(cpu) = cpu {
                    pin(cpu);
                }
                let bell = common.bells[me].clone();
                if uring {
                    run(Uring::new(wake_of(&bell)), me, settings, common, &ready);
                } else {
                    run(Epoll::new(wake_of(&bell)), me, settings, common, &ready);
                }
            };
            threads.push(std::thread::Builder::new().name(format!("worker-{me}")).spawn(main)?);
        }
        drop(ready);
        for _ in 0..workers {
            started.recv().unwrap_or_else(|_| Err(io::Error::other("a worker ended at once")))?;
        }
        Ok((Arc::new(Self { common, turn: AtomicUsize::new(0) }), Threads(threads)))
    }

    /// The worker that a new session should go to.
    pub fn place(&self) -> usize {
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let sessions = |worker: usize| self.common.placed[worker].load(Ordering::Relaxed);
        let load = |worker: usize| self.common.stats[worker].load_permille.get();
        placement::place(first, self.common.placed.len(), sessions, load)
    }

    /// Hands a connection to a worker, which looks for it when it is [rung](Self::ring), if not before.
    ///
    /// # Errors
    /// The worker's queue is full.
    pub fn adopt(&self, worker: usize, handover: Box<Handover>) -> Result<(), Box<Handover>> {
        match self.common.commands[worker].push(Command::Adopt(handover)) {
            Ok(()) => {
                self.common.placed[worker].fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(Command::Adopt(handover)) => Err(handover),
            Err(_) => unreachable!("what was pushed comes back"),
        }
    }

    /// Asks a worker for some of its sessions: those from slot `from` on, as many as `rows`, which is empty, has room
    /// for. The answer comes at the end of its turn; none when it has ended.
    ///
    /// # Errors
    /// The worker's queue is full; gives `rows` back.
    pub fn list(&self, worker: usize, from: u32, rows: Vec<Client>) -> Result<oneshot::Receiver<Page>, Vec<Client>> {
        let (reply, page) = oneshot::channel();
        match self.common.commands[worker].push(Command::List(Request { from, rows, reply })) {
            Ok(()) => {
                self.common.bells[worker].ring();
                Ok(page)
            }
            Err(Command::List(request)) => Err(request.rows),
            Err(_) => unreachable!("what was pushed comes back"),
        }
    }

    pub fn ring(&self, worker: usize) {
        self.common.bells[worker].ring();
    }

    pub fn pop_event(&self) -> Option<Event> {
        let event = self.common.events.pop()?;
        let Event::Closed(end) = &event;
        self.common.placed[usize::from(end.worker)].fetch_sub(1, Ordering::Relaxed);
        Some(event)
    }

    pub fn stats(&self) -> &Arc<[Arc<WorkerStats>]> {
        &self.common.stats
    }

    /// Chains that wait in the inbox of a worker.
    pub fn inbox_depth(&self, worker: usize) -> usize {
        self.common.inboxes[worker].len()
    }

    /// Tells every worker that the relay will stop: Restarting to all, who go on.
    pub fn drain(&self, reconnect_spread: Duration) {
        self.order(|| Command::Drain { reconnect_spread });
    }

    /// Tells every worker to stop: Restarting to all who have not heard it, then whatever peers take within `flush`.
    pub fn stop(&self, flush: Duration, reconnect_spread: Duration) {
        self.order(|| Command::Stop { flush, reconnect_spread });
    }

    fn order(&self, command: impl Fn() -> Command) {
        for (commands, bell) in self.common.commands.iter().zip(&*self.common.bells) {
            let mut command = command();
            // A full queue is being worked off; there is no other order that this one could lose against.
            while let Err(back) = commands.push(command) {
                command = back;
                bell.ring();
                std::thread::sleep(Duration::from_millis(1));
            }
            bell.ring();
        }
    }
}

impl Threads {
    pub fn finished(&self) -> bool {
        self.0.iter().all(JoinHandle::is_finished)
    }

    pub fn join(self) {
        for thread in self.0 {
            // A worker that panicked has ended the process.
            let _ = thread.join();
        }
    }
}

fn run<D: Driver<Socket = OwnedFd>>(
    driver: io::Result<D>,
    me: usize,
    settings: Settings,
    common: Arc<Common<OwnedFd>>,
    ready: &mpsc::Sender<io::Result<()>>,
) {
    let driver = match driver {
        Ok(driver) => driver,
        Err(e) => {
            let _ = ready.send(Err(e));
            return;
        }
    };
    let _ = ready.send(Ok(()));
    let mut worker = Worker::new(driver, me as u16, settings, common);
    loop {
        match worker.turn() {
            Ok(Next::Turn) => {}
            Ok(Next::Finished) => return,
            Err(e) => {
                // Its clients would be stuck for ever: better to be restarted.
                eprintln!("derpring: worker {me}: its kernel interface failed: {e}; ending the relay");
                std::process::exit(1);
            }
        }
    }
}

fn wake_of(bell: &Arc<Doorbell>) -> Arc<WakeHandle> {
    bell.wake.clone()
}

/// A thread that cannot be pinned works all the same.
fn pin(cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    if let Err(e) = rustix::thread::sched_setaffinity(None, &set) {
        tracing::debug!(cpu, error = %e, "not pinned");
    }
}
