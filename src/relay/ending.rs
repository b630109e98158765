//! How a relay ends: whom it tells, whom it waits for, and in which order it lets go.
//!
//! ```text
//! stop:      not ready · no listeners · logins end · Restarting ·    drain time    · flush · the end
//! takeover:  listeners are the other one's ·         Restarting · logins finish,
//!                                                                 drain time    · flush · the end
//! ```

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tracing::info;

use super::{Order, Relay};
use crate::control::takeover::Successor;
use crate::edge::Workers;
use crate::limits;

/// Reconnects after a restart are spread over at least this time, so that a region's clients do not come back at once.
const RECONNECT_SPREAD: Duration = Duration::from_secs(10);

/// How often it looks whether everybody has gone.
const LOOK: Duration = Duration::from_millis(20);

/// What a stop of a service may take beyond what it has announced.
const MARGIN: Duration = Duration::from_secs(20);

impl Relay {
    /// Ends in good order. Another stop among `orders` ends a drain.
    pub fn end(mut self, first: Order, orders: &Receiver<Order>) {
        let began = Instant::now();
        match first {
            Order::Stop => self.begin_stop(),
            Order::Succeeded(successor) => self.begin_leaving(successor),
        }
        let leaving = matches!(first, Order::Succeeded(_));
        self.drain(leaving, orders);
        let spread = self.reconnect_spread();
        // The edge ends first: what it hands over after the workers have ended would be nobody's.
        self.edge.join();
        self.crew.pool.stop(self.config.flush_on_stop, spread);
        while !self.threads.finished() {
            while self.crew.pop_event().is_some() {}
            std::thread::sleep(Duration::from_millis(2));
        }
        self.threads.join();
        while self.crew.pop_event().is_some() {}
        self.admin.end();
        if let Some(acme) = self.acme {
            acme.stop();
        }
        info!(seconds = began.elapsed().as_secs_f32(), "stopped");
    }

    /// Nobody new comes in, and who is on the way in ends.
    fn begin_stop(&mut self) {
        // Whoever asks whether to send clients here is told first, and until the end.
        self.admin.stopping();
        self.notify.stopping();
        // First of all, so that nobody is given what is about to be closed.
        self.giver = None;
        self.open.close();
        self.edge.stop_accepting();
        self.end_stun();
        self.edge.cut_logins();
    }

    /// Who is on the way in comes in; from here on others come to the successor.
    fn begin_leaving(&mut self, successor: Successor) {
        info!(successor = successor.pid, "another relay has taken over the listening sockets");
        self.open.close();
        self.edge.stop_accepting();
        self.end_stun();
        self.admin.leaving();
        self.notify.main_pid(successor.pid);
        self.giver = None;
    }

    /// A question that it has read is answered, the next one is for whoever has the sockets.
    fn end_stun(&mut self) {
        if let Some(stun) = self.stun.take() {
            stun.stop();
        }
    }

    /// Tells everybody, and lets sessions go on for a while.
    fn drain(&mut self, leaving: bool, orders: &Receiver<Order>) {
        let time = self.config.drain_time;
        if time.is_zero() && !leaving {
            return;
        }
        let began = Instant::now();
        self.crew.pool.drain(self.reconnect_spread());
        info!(sessions = self.sessions(), seconds = time.as_secs(), "draining: clients are told to come back");
        let (mut said, mut since) = (began, began);
        loop {
            let logins = leaving && !self.edge.is_quiet() && began.elapsed() < limits::LOGIN_DEADLINE;
            if logins {
                // Who comes in last has the same time as the others.
                since = Instant::now();
            }
            let lasted = since.elapsed();
            if !logins && (lasted >= time || self.sessions() == 0) {
                break;
            }
            if said.elapsed() >= limits::DRAIN_PROGRESS || said == began {
                let left = time.saturating_sub(lasted);
                self.notify.extend(limits::DRAIN_PROGRESS + self.config.flush_on_stop + MARGIN);
                if said != began {
                    info!(sessions = self.sessions(), seconds_left = left.as_secs(), "draining");
                }
                said = Instant::now();
            }
            while self.crew.pop_event().is_some() {}
            match orders.recv_timeout(LOOK) {
                Ok(Order::Stop) => break,
                // It stops, and has given its sockets at the last moment: their names are the other one's.
                Ok(Order::Succeeded(_)) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(LOOK),
            }
        }
        info!(sessions = self.sessions(), seconds = began.elapsed().as_secs_f32(), "the drain is over");
    }

    /// Who can come back elsewhere at once may take as long as it has.
    fn reconnect_spread(&self) -> Duration {
        self.config.drain_time.max(RECONNECT_SPREAD)
    }

    fn sessions(&self) -> u64 {
        self.crew.pool.stats().iter().map(|worker| worker.connections.get()).sum()
    }
}
