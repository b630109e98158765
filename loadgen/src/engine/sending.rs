//! What the connections take: bursts that a window or a schedule allows.

use super::flows::When;
use super::{Conn, Engine, watch};
use crate::error::{ConnError, Error};
use crate::traffic::schedule::Schedule;

/// Writes of one schedule in one turn: whoever is late still has to receive.
const DUE_PER_TURN: usize = 64;
/// Writes of one blocked sender that are remembered; what is due beyond them is never sent.
const MAX_BACKLOG: usize = 1 << 16;

/// Links that take turns by a schedule.
pub struct Paced {
    schedule: Schedule,
    links: Vec<usize>,
    /// Whether its lateness is that of the measured packets.
    measured: bool,
}

impl Paced {
    pub fn new(schedule: Schedule, links: Vec<usize>, measured: bool) -> Self {
        Self { schedule, links, measured }
    }

    pub fn due(&self) -> u64 {
        self.schedule.due()
    }
}

impl Engine<'_> {
    pub(super) fn send_ready(&mut self) -> Result<(), Error> {
        while let Some(link) = self.flows.next_ready() {
            while self.flows.may_send(link) && !self.is_blocked(link) {
                let now = self.now();
                self.send_or_break(link, now)?;
            }
        }
        Ok(())
    }

    pub(super) fn send_replies(&mut self) -> Result<(), Error> {
        for (link, time) in self.flows.take_replies() {
            self.send_or_defer(link, time)?;
        }
        Ok(())
    }

    pub(super) fn send_due(&mut self) -> Result<(), Error> {
        for index in 0..self.paced.len() {
            for _ in 0..DUE_PER_TURN {
                let now = self.now();
                let paced = &mut self.paced[index];
                let Some((write, due)) = paced.schedule.take(now) else {
                    break;
                };
                let link = paced.links[(write % paced.links.len() as u64) as usize];
                if paced.measured {
                    self.stats.late(now - due);
                }
                self.send_or_defer(link, due)?;
            }
        }
        Ok(())
    }

    /// For between two pieces of other work: the schedule waits for one of them, not for all. Only within a phase: its
    /// end decides what is measured.
    pub(super) fn send_due_between(&mut self) -> Result<(), Error> {
        let now = self.now();
        if self.loads() && now >= self.step.begin && now < self.phase_end { self.send_due() } else { Ok(()) }
    }

    /// One write for each link that fills what time is left, so that none of them makes the
    /// schedule wait.
    pub(super) fn send_beside(&mut self) -> Result<(), Error> {
        for _ in 0..self.flows.beside_count() {
            let Some(link) = self.flows.next_beside() else {
                break;
            };
            if self.flows.may_send(link) && !self.is_blocked(link) {
                let now = self.now();
                self.send_or_break(link, now)?;
                if !self.is_blocked(link) {
                    self.flows.wake(link);
                }
            }
        }
        for index in 0..self.floods.len() {
            let link = self.floods[index];
            if !self.is_blocked(link) {
                let now = self.now();
                self.send_or_break(link, now)?;
            }
        }
        Ok(())
    }

    pub(super) fn has_room_to_flood(&self) -> bool {
        self.floods.iter().any(|link| !self.is_blocked(*link))
    }

    /// The sender's socket has room again.
    pub(super) fn unblocked(&mut self, conn: usize) -> Result<(), ConnError> {
        if !self.sends() {
            return Ok(());
        }
        while !self.conn_is_blocked(conn)
            && let Some((link, due)) = self.backlogs[conn].pop_front()
        {
            self.send(link, due)?;
        }
        for link in self.flows.links_from(conn) {
            self.flows.wake(link);
        }
        Ok(())
    }

    /// Writes that were kept count as unsent.
    pub(super) fn drop_backlogs(&mut self) {
        for backlog in &mut self.backlogs {
            let packets = backlog.drain(..).map(|(link, _)| self.flows.burst_of(link)).sum();
            self.stats.unsent(packets);
        }
    }

    /// Keeps a write that is due for when the socket has room again.
    fn send_or_defer(&mut self, link: usize, due: u64) -> Result<(), Error> {
        if !self.is_blocked(link) {
            return self.send_or_break(link, due);
        }
        let backlog = &mut self.backlogs[self.flows.sender(link)];
        if backlog.len() < MAX_BACKLOG {
            backlog.push_back((link, due));
        } else {
            self.stats.unsent(self.flows.burst_of(link));
        }
        Ok(())
    }

    fn send_or_break(&mut self, link: usize, time: u64) -> Result<(), Error> {
        let sender = self.flows.sender(link);
        self.send(link, time).or_else(|source| self.broken(sender, source))
    }

    fn send(&mut self, link: usize, time: u64) -> Result<(), ConnError> {
        let sender = self.flows.sender(link);
        let written = self.plan.transit.then(|| self.now());
        let Conn::Up(up) = &mut self.conns[sender] else {
            return Ok(());
        };
        let transport = &mut up.0;
        let (flows, stats) = (&mut self.flows, &mut self.stats);
        let when = When { due: time, written: written.unwrap_or(time) };
        let mut bytes = 0;
        transport.write(&mut self.tx, |writer| bytes = flows.put_burst(link, when, writer, stats))?;
        self.stats.wrote(self.layout.links[link].class, bytes);
        watch(&self.poller, sender, transport)
    }

    fn is_blocked(&self, link: usize) -> bool {
        self.conn_is_blocked(self.flows.sender(link))
    }

    fn conn_is_blocked(&self, conn: usize) -> bool {
        match &self.conns[conn] {
            Conn::Up(up) => up.0.is_blocked(),
            _ => true,
        }
    }
}
