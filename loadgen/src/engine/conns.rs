//! What the connections bring: logins, packets, errors.

use super::dial::{Dial, Scratch};
use super::poller::Ready;
use super::{Conn, Engine, watch};
use crate::derp::frame::{header, kind};
use crate::error::{ConnError, Error, Who};
use crate::traffic::Violation;

impl Engine<'_> {
    /// Keeps as many logins in progress as the plan allows.
    pub(super) fn dial_more(&mut self) -> Result<(), Error> {
        while self.dialing < self.plan.login_concurrency && self.up + self.dialing < self.conns.len() {
            let token = self.up + self.dialing;
            let identity = self.identities[token].clone();
            let dial = Dial::start(&self.plan.target, identity, self.now())
                .and_then(|dial| {
                    self.poller.add(&dial.transport, token, true)?;
                    Ok(dial)
                })
                .map_err(|source| self.login_failed(token, "connecting", source))?;
            self.conns[token] = Conn::Dialing(Box::new(dial));
            self.dialing += 1;
        }
        Ok(())
    }

    pub(super) fn on_ready(&mut self, ready: Ready) -> Result<(), Error> {
        let result = match &self.conns[ready.token] {
            Conn::Waiting => Ok(()),
            Conn::Dialing(_) => return self.on_dialing(ready),
            Conn::Up(_) => self.on_up(ready),
        };
        result.map_err(|source| self.broken(ready.token, source))
    }

    fn on_dialing(&mut self, ready: Ready) -> Result<(), Error> {
        let Conn::Dialing(dial) = &mut self.conns[ready.token] else {
            return Ok(());
        };
        let stage = dial.waiting_for();
        let scratch = Scratch { rx: &mut self.rx, tx: &mut self.tx };
        let result = dial.advance(&self.plan.target, ready, scratch).and_then(|complete| {
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
        self.stats.logins.saturating_record(now - started);
        self.dialing -= 1;
        self.up += 1;
        self.progress.show(self.up);
        if let Conn::Dialing(dial) = std::mem::replace(&mut self.conns[ready.token], Conn::Waiting) {
            self.conns[ready.token] = Conn::Up(Box::new(dial.finish()));
        }
        Ok(())
    }

    fn on_up(&mut self, ready: Ready) -> Result<(), ConnError> {
        let who = self.who(ready.token);
        let Conn::Up(up) = &mut self.conns[ready.token] else {
            return Ok(());
        };
        let (transport, deframer) = &mut **up;
        if ready.read {
            let mut pongs: Vec<[u8; 8]> = Vec::new();
            let Self { pairs, stats, clock, last_arrival, .. } = self;
            transport.receive(&mut self.rx, |plain| {
                // One look at the clock for all that came in one record.
                let now = clock.elapsed().as_nanos() as u64;
                deframer.feed(plain, |kind, payload| {
                    match kind {
                        kind::RECV_PACKET => {
                            let Who::Receiver(pair) = who else {
                                return Err(Violation::Misdelivered.into());
                            };
                            pairs.on_packet(pair, payload, now, stats)?;
                            *last_arrival = now;
                        }
                        kind::PING => pongs.extend(payload.first_chunk::<8>()),
                        other => stats.other_frame(other),
                    }
                    Ok::<(), ConnError>(())
                })
            })?;
            if !pongs.is_empty() || transport.owes_write() {
                transport.write(&mut self.tx, |writer| {
                    for pong in &pongs {
                        writer.put(&header(kind::PONG, pong.len()));
                        writer.put(pong);
                    }
                })?;
            }
        }
        if ready.write {
            transport.flush()?;
        }
        watch(&self.poller, ready.token, transport)?;
        if ready.write
            && !transport.is_blocked()
            && let Who::Sender(pair) = who
        {
            self.unblocked(pair)?;
        }
        Ok(())
    }

    pub(super) fn login_failed(&self, token: usize, stage: &'static str, source: ConnError) -> Error {
        Error::Login { who: self.who(token), addr: self.plan.target.addr, stage, source: Box::new(source) }
    }

    pub(super) fn broken(&self, token: usize, source: ConnError) -> Error {
        let who = self.who(token);
        match source {
            ConnError::Wrong(source) => Error::Wrong { who, source },
            source => Error::Lost { who, source },
        }
    }

    fn who(&self, token: usize) -> Who {
        let pairs = self.plan.pairs;
        match token {
            _ if token < pairs => Who::Sender(token),
            _ if token < 2 * pairs => Who::Receiver(token - pairs),
            _ => Who::Idle(token - 2 * pairs),
        }
    }
}
