//! Logins from fresh keys by a schedule, each closed as soon as it is complete.

use super::dial::{Dial, Scratch};
use super::poller::{Interest, Ready};
use super::{Engine, Phase};
use crate::derp::login::Identity;
use crate::error::{self, ConnError, Error};
use crate::traffic::schedule::Schedule;

/// Tokens from here on are attempts.
pub const FIRST_TOKEN: usize = 1 << 40;
/// Attempts in progress at a time; a relay that keeps more waiting has failed those beyond.
pub const MAX_ATTEMPTS: usize = 2048;

#[derive(Default)]
pub struct Churn {
    schedule: Option<Schedule>,
    attempts: Vec<Option<Box<Attempt>>>,
    free: Vec<usize>,
}

struct Attempt {
    dial: Dial,
    /// Its time counts from here, not from when the generator came to it.
    due: u64,
    target: usize,
    /// Begun in the measured time.
    measured: bool,
}

impl Churn {
    pub fn start(&mut self, schedule: Schedule) {
        self.schedule = Some(schedule);
    }

    pub fn stop(&mut self) {
        self.schedule = None;
    }

    pub fn due(&self) -> Option<u64> {
        self.schedule.as_ref().map(Schedule::due)
    }

    pub fn is_drained(&self) -> bool {
        self.attempts.len() == self.free.len()
    }

    fn place(&mut self) -> Option<usize> {
        if let Some(slot) = self.free.pop() {
            return Some(slot);
        }
        (self.attempts.len() < MAX_ATTEMPTS).then(|| {
            self.attempts.push(None);
            self.attempts.len() - 1
        })
    }
}

impl Engine<'_> {
    pub(super) fn begin_logins(&mut self) -> Result<(), Error> {
        loop {
            let now = self.now();
            let Some((number, due)) = self.churn.schedule.as_mut().and_then(|schedule| schedule.take(now)) else {
                return Ok(());
            };
            let measured = self.phase == Phase::Measure;
            self.stats.churn.started += u64::from(measured);
            let target = (number % self.plan.targets.len() as u64) as usize;
            let Some(slot) = self.churn.place() else {
                self.stats.churn.failed(measured, || format!("{MAX_ATTEMPTS} logins were already in progress"));
                continue;
            };
            match self.begin_login(slot, target) {
                Ok(dial) => {
                    self.churn.attempts[slot] = Some(Box::new(Attempt { dial, due, target, measured }));
                }
                Err(err) => {
                    self.churn.free.push(slot);
                    self.stats.churn.failed(measured, || format!("connecting: {}", error::chain(&err)));
                }
            }
            self.send_due_between()?;
        }
    }

    fn begin_login(&mut self, slot: usize, target: usize) -> Result<Dial, ConnError> {
        let identity = Identity::random().map_err(crate::derp::login::LoginError::Random)?;
        let dial = Dial::start(&self.plan.targets[target], identity, self.now())?;
        self.poller.add(&dial.transport, FIRST_TOKEN + slot, Interest::BOTH)?;
        Ok(dial)
    }

    pub(super) fn on_churn(&mut self, ready: Ready) {
        let slot = ready.token - FIRST_TOKEN;
        let Some(attempt) = &mut self.churn.attempts[slot] else {
            return;
        };
        let scratch = Scratch { rx: &mut self.rx, tx: &mut self.tx };
        let target = &self.plan.targets[attempt.target];
        let stage = attempt.dial.waiting_for();
        let result = attempt.dial.advance(target, ready, scratch).and_then(|complete| {
            super::watch(&self.poller, ready.token, &mut attempt.dial.transport)?;
            Ok(complete)
        });
        match result {
            Ok(false) => {}
            Ok(true) => self.end_login(slot, None),
            Err(err) => self.end_login(slot, Some((stage, err))),
        }
    }

    pub(super) fn check_logins(&mut self, now: u64) {
        let limit = self.plan.login_timeout.as_nanos() as u64;
        for slot in 0..self.churn.attempts.len() {
            if let Some(attempt) = &self.churn.attempts[slot]
                && now.saturating_sub(attempt.dial.started) > limit
            {
                let stage = attempt.dial.waiting_for();
                self.end_login(slot, Some((stage, ConnError::Timeout)));
            }
        }
    }

    /// Closes the connection; the kernel takes it out of the poller.
    fn end_login(&mut self, slot: usize, failure: Option<(&'static str, ConnError)>) {
        let now = self.now();
        let Some(attempt) = self.churn.attempts[slot].take() else {
            return;
        };
        self.churn.free.push(slot);
        match failure {
            None if attempt.measured => self.stats.churn.done(now - attempt.due),
            None => {}
            Some((stage, err)) => {
                self.stats.churn.failed(attempt.measured, || format!("{stage}: {}", error::chain(&err)));
            }
        }
    }
}
