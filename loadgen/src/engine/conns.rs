//! What the connections bring: logins, packets, errors.

use super::dial::{Dial, Scratch};
use super::flows::Came;
use super::poller::{Interest, Ready};
use super::{Conn, Engine, churn, watch};
use crate::derp::frame::{header, kind};
use crate::error::{ConnError, Error, Role, Who};

impl Engine<'_> {
    /// Keeps as many logins in progress as the plan allows.
    pub(super) fn dial_more(&mut self) -> Result<(), Error> {
        while self.dialing < self.logins_at_once.now() && self.up + self.dialing < self.conns.len() {
            let token = self.up + self.dialing;
            let identity = self.identities[token].clone();
            let dial = Dial::start(self.target(token), identity, self.now())
                .and_then(|dial| {
                    self.poller.add(&dial.transport, token, Interest::BOTH)?;
                    Ok(dial)
                })
                .map_err(|source| self.login_failed(token, "connecting", source))?;
            self.conns[token] = Conn::Dialing(Box::new(dial));
            self.dialing += 1;
        }
        Ok(())
    }

    pub(super) fn on_ready(&mut self, ready: Ready) -> Result<(), Error> {
        if ready.token >= churn::FIRST_TOKEN {
            self.on_churn(ready);
            return self.send_due_between();
        }
        let result = match &self.conns[ready.token] {
            Conn::Waiting | Conn::Gone => Ok(()),
            Conn::Dialing(_) => return self.on_dialing(ready),
            Conn::Up(_) => self.on_up(ready),
        };
        result.or_else(|source| self.broken(ready.token, source))
    }

    fn on_dialing(&mut self, ready: Ready) -> Result<(), Error> {
        let target = &self.plan.targets[self.layout.conns[ready.token].target];
        let Conn::Dialing(dial) = &mut self.conns[ready.token] else {
            return Ok(());
        };
        let stage = dial.waiting_for();
        let scratch = Scratch { rx: &mut self.rx, tx: &mut self.tx };
        let result = dial.advance(target, ready, scratch).and_then(|complete| {
            watch(&self.poller, ready.token, &mut dial.transport)?;
            Ok(complete)
        });
        let started = dial.started;
        match result {
            Err(source) => return Err(self.login_failed(ready.token, stage, source)),
            Ok(false) => return Ok(()),
            Ok(true) => {}
        }
        let now = self.now();
        self.logins.saturating_record(now - started);
        self.dialing -= 1;
        self.up += 1;
        let reads = !matches!(self.who(ready.token).role, Role::SlowReceiver | Role::StalledReceiver);
        if let Conn::Dialing(dial) = std::mem::replace(&mut self.conns[ready.token], Conn::Waiting) {
            let mut up = dial.finish();
            up.0.reads = reads;
            if self.plan.transit {
                up.0.note_arrivals().map_err(|source| self.login_failed(ready.token, stage, source))?;
            }
            watch(&self.poller, ready.token, &mut up.0)
                .map_err(|source| self.login_failed(ready.token, stage, source))?;
            self.conns[ready.token] = Conn::Up(Box::new(up));
        }
        Ok(())
    }

    fn on_up(&mut self, ready: Ready) -> Result<(), ConnError> {
        let Conn::Up(up) = &mut self.conns[ready.token] else {
            return Ok(());
        };
        let reads = up.0.reads;
        if ready.failed && !reads {
            return Err(ConnError::Closed);
        }
        if ready.read && reads {
            self.receive(ready.token, usize::MAX)?;
        }
        let Conn::Up(up) = &mut self.conns[ready.token] else {
            return Ok(());
        };
        let transport = &mut up.0;
        if ready.write {
            transport.flush()?;
        }
        watch(&self.poller, ready.token, transport)?;
        if ready.write && !transport.is_blocked() {
            self.unblocked(ready.token)?;
        }
        Ok(())
    }

    /// Takes what has arrived on a connection, at most `limit` bytes of it, and answers pings.
    fn receive(&mut self, token: usize, limit: usize) -> Result<(), ConnError> {
        let Self { conns, flows, stats, clock, last_arrival, rx, tx, .. } = self;
        let Conn::Up(up) = &mut conns[token] else {
            return Ok(());
        };
        let (transport, deframer) = &mut **up;
        let slow = !transport.reads;
        let mut pongs: Vec<[u8; 8]> = Vec::new();
        transport.receive(rx, limit, |plain, arrived| {
            // One look at the clock for all that came in one record.
            let now = clock.elapsed().as_nanos() as u64;
            let arrived = arrived.map(|at| at.saturating_duration_since(*clock).as_nanos() as u64);
            let came = Came { arrived: arrived.unwrap_or(now), now };
            deframer.feed(plain, |kind, payload| {
                match kind {
                    kind::RECV_PACKET => {
                        flows.on_packet(token, payload, came, stats)?;
                        // Nobody waits for the end of what a slow receiver still has before it.
                        *last_arrival = if slow { *last_arrival } else { now };
                    }
                    kind::PING => pongs.extend(payload.first_chunk::<8>()),
                    other => stats.other_frame(other),
                }
                Ok::<(), ConnError>(())
            })
        })?;
        if !pongs.is_empty() || transport.owes_write() {
            transport.write(tx, |writer| {
                for pong in &pongs {
                    writer.put(&header(kind::PONG, pong.len()));
                    writer.put(pong);
                }
            })?;
        }
        Ok(())
    }

    /// Slow receivers read as much as their time allows.
    pub(super) fn read_slowly(&mut self, now: u64) -> Result<(), Error> {
        let passed = now.saturating_sub(self.slow_read_at);
        let allowed = u128::from(self.plan.slow.read) * u128::from(passed) / 1_000_000_000;
        self.slow_read_at = now;
        for index in 0..self.slow_receivers.len() {
            let token = self.slow_receivers[index];
            self.receive(token, allowed as usize).or_else(|source| self.broken(token, source))?;
        }
        Ok(())
    }

    pub(super) fn login_failed(&self, token: usize, stage: &'static str, source: ConnError) -> Error {
        Error::Login { who: self.who(token), addr: self.target(token).addr, stage, source: Box::new(source) }
    }

    /// A relay may end a connection that does not take its packets, and that of who floods it.
    pub(super) fn broken(&mut self, token: usize, source: ConnError) -> Result<(), Error> {
        let who = self.who(token);
        match source {
            ConnError::Wrong(source) => Err(Error::Wrong { who, source }),
            ConnError::Io(_) | ConnError::Closed
                if matches!(who.role, Role::SlowReceiver | Role::StalledReceiver | Role::StalledSender) =>
            {
                self.conns[token] = Conn::Gone;
                self.stats.disconnected(who.role);
                Ok(())
            }
            source => Err(Error::Lost { who, source }),
        }
    }

    fn who(&self, token: usize) -> Who {
        self.layout.conns[token].who
    }

    fn target(&self, token: usize) -> &crate::cli::Target {
        &self.plan.targets[self.layout.conns[token].target]
    }
}
