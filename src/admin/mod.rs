//! The admin thread: pages for scrapers, probes and people, and a summary line a minute.
//!
//! One thread on plain tokio, at a lower priority than workers, serves all of it. It reads counters, which are cells,
//! and asks workers for their sessions page by page; nothing here makes a worker wait, and a slow or silent client
//! costs one bounded place.

mod access;
mod check;
mod clients;
mod desk;
mod health;
mod html;
mod listen;
mod pages;
mod query;
mod roster;
mod serve;
mod state;
mod summary;
mod traffic;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Runtime};

use crate::config::AdminConfig;
use crate::edge::be_nice;
use crate::edge::debug::Question;
pub use listen::{Door, ListenError, open};
use serve::{Listener, Places};
pub use state::{About, Parts};
use state::{Phase, State};

/// The running thread.
pub struct Admin {
    state: Arc<State>,
    thread: JoinHandle<()>,
}

impl Admin {
    /// Serves on `doors` once it is [opened](Self::open), and answers what comes from the main listener.
    ///
    /// # Errors
    /// The thread, or what its runtime needs, cannot be had.
    pub fn start(parts: Parts, doors: Vec<Door>, questions: tokio::sync::mpsc::Receiver<Question>) -> io::Result<Self> {
        let state = Arc::new(State::new(parts));
        let (ready, started) = mpsc::channel();
        let inner = state.clone();
        let main = move || {
            be_nice();
            match prepare(doors) {
                Ok((runtime, listeners)) => {
                    // Who started it waits for this.
                    let _ = ready.send(Ok(()));
                    runtime.block_on(run(inner, listeners, questions));
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        };
        let thread = std::thread::Builder::new().name("admin".to_owned()).spawn(main)?;
        started.recv().unwrap_or_else(|_| Err(io::Error::other("the admin thread ended at once")))?;
        Ok(Self { state, thread })
    }

    /// Begins to answer.
    pub fn open(&self) {
        self.state.phase.send_replace(Phase::Running);
    }

    /// For whoever changes it while it runs.
    pub fn reins(&self) -> Reins {
        Reins { state: Arc::clone(&self.state) }
    }

    /// The relay is about to stop: it is not ready from here on, and what streams ends.
    pub fn stopping(&self) {
        self.state.phase.send_replace(Phase::Stopping);
    }

    /// The same; and another relay answers at the listeners, which are left as they are.
    pub fn leaving(&self) {
        self.state.phase.send_replace(Phase::Leaving);
    }

    /// Ends the thread, and every connection to it.
    pub fn end(self) {
        self.state.phase.send_replace(Phase::Over);
        // A thread that panicked has said so.
        let _ = self.thread.join();
    }
}

/// Changes a running admin thread.
pub struct Reins {
    state: Arc<State>,
}

impl Reins {
    /// Who may ask from now on. Its addresses do not count: listeners stay where they are.
    pub fn admit(&self, access: AdminConfig) {
        self.state.access.store(Arc::new(access));
    }

    pub fn debug_key(&self, file: Option<PathBuf>) {
        self.state.debug_key.store(file.map(Arc::new));
    }

    /// What is shown as the limit.
    pub fn limit_clients(&self, max: usize) {
        self.state.collector.limit_clients(max as u64);
    }
}

fn prepare(doors: Vec<Door>) -> io::Result<(Runtime, Vec<Listener>)> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let listeners = {
        let _inside = runtime.enter();
        doors.into_iter().map(Listener::new).collect::<io::Result<_>>()?
    };
    Ok((runtime, listeners))
}

async fn run(state: Arc<State>, listeners: Vec<Listener>, questions: tokio::sync::mpsc::Receiver<Question>) {
    let places = Arc::new(Places::new());
    let mut phase = state.phase.subscribe();
    tokio::spawn(desk::serve(state.clone(), questions));
    tokio::spawn(summary::run(state.clone()));
    // The state lives as long as this, and its sender with it.
    let _ = phase.wait_for(|phase| *phase != Phase::Starting).await;
    let accept = |listener| tokio::spawn(serve::accept(state.clone(), listener, places.clone()));
    let accepting: Vec<_> = listeners.into_iter().map(accept).collect();
    let _ = phase.wait_for(|phase| matches!(phase, Phase::Leaving | Phase::Over)).await;
    // Between two connections: none is lost.
    accepting.iter().for_each(tokio::task::JoinHandle::abort);
    let _ = phase.wait_for(|phase| *phase == Phase::Over).await;
}
