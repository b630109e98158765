//! What the connections take: bursts that a window or the schedule allows.

use super::{Conn, Engine, Phase, watch};
use crate::error::{ConnError, Error};

/// Writes of the schedule in one turn: whoever is late still has to receive.
const DUE_PER_TURN: usize = 64;

impl Engine<'_> {
    pub(super) fn send_ready(&mut self) -> Result<(), Error> {
        while let Some(pair) = self.pairs.next_ready() {
            while self.pairs.may_send(pair) && !self.is_blocked(pair) {
                let now = self.now();
                self.send(pair, now).map_err(|source| self.broken(pair, source))?;
            }
        }
        Ok(())
    }

    pub(super) fn send_due(&mut self) -> Result<(), Error> {
        for _ in 0..DUE_PER_TURN {
            let now = self.now();
            let Some(schedule) = &mut self.schedule else {
                break;
            };
            let Some((write, due)) = schedule.take(now) else {
                break;
            };
            self.stats.late(now - due);
            let pair = (write % self.pairs.len() as u64) as usize;
            if self.is_blocked(pair) {
                self.pairs.defer(pair, due, &mut self.stats);
            } else {
                self.send(pair, due).map_err(|source| self.broken(pair, source))?;
            }
        }
        Ok(())
    }

    /// The sender's socket has room again.
    pub(super) fn unblocked(&mut self, pair: usize) -> Result<(), ConnError> {
        if !matches!(self.phase, Phase::Warmup | Phase::Measure) {
            return Ok(());
        }
        self.pairs.wake(pair);
        while !self.is_blocked(pair)
            && let Some(due) = self.pairs.deferred(pair)
        {
            self.send(pair, due)?;
        }
        Ok(())
    }

    fn send(&mut self, pair: usize, time: u64) -> Result<(), ConnError> {
        let Conn::Up(up) = &mut self.conns[pair] else {
            return Ok(());
        };
        let transport = &mut up.0;
        let pairs = &mut self.pairs;
        transport.write(&mut self.tx, |writer| pairs.put_burst(pair, time, writer))?;
        watch(&self.poller, pair, transport)
    }

    fn is_blocked(&self, pair: usize) -> bool {
        match &self.conns[pair] {
            Conn::Up(up) => up.0.is_blocked(),
            _ => true,
        }
    }
}
