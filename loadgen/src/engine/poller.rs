//! epoll, with a timer as exact as the kernel has one.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags};

const TIMER: u64 = u64::MAX;
const EVENTS: usize = 1024;

/// Level-triggered readiness by token.
pub struct Poller {
    epoll: OwnedFd,
    timer: OwnedFd,
    events: Vec<Event>,
}

#[derive(Clone, Copy, Debug)]
pub struct Ready {
    pub token: usize,
    pub read: bool,
    pub write: bool,
    /// The connection is over in both directions.
    pub failed: bool,
}

/// What a connection is watched for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Interest {
    pub read: bool,
    pub write: bool,
}

impl Interest {
    pub const BOTH: Self = Self { read: true, write: true };
}

/// How exactly a wait must end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Precision {
    /// Within a millisecond.
    Coarse,
    /// As soon as the kernel can: epoll's own timeout counts in milliseconds, timerfd does not.
    Fine,
}

impl Poller {
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN)?;
        Ok(Self { epoll, timer, events: Vec::with_capacity(EVENTS) })
    }

    pub fn add(&self, fd: impl AsFd, token: usize, interest: Interest) -> io::Result<()> {
        let data = EventData::new_u64(token as u64);
        Ok(epoll::add(&self.epoll, fd, data, flags(interest))?)
    }

    pub fn set(&self, fd: impl AsFd, token: usize, interest: Interest) -> io::Result<()> {
        let data = EventData::new_u64(token as u64);
        Ok(epoll::modify(&self.epoll, fd, data, flags(interest))?)
    }

    /// Waits until something is ready or `limit` has passed.
    pub fn wait(&mut self, limit: Duration, precision: Precision) -> io::Result<()> {
        let fine = precision == Precision::Fine && !limit.is_zero();
        if fine {
            // Setting the timer anew also takes back an expiry that nobody has read.
            let value = Itimerspec { it_interval: timespec(Duration::ZERO), it_value: timespec(limit) };
            rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &value)?;
        }
        let coarse = Duration::from_millis(limit.as_micros().div_ceil(1000) as u64);
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&timespec(coarse))) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// How many of the last wait's events `ready` can give.
    pub fn count(&self) -> usize {
        self.events.len()
    }

    pub fn ready(&self, index: usize) -> Option<Ready> {
        let Event { data, flags } = self.events[index];
        // Errors and hang-ups show as reads and writes that fail.
        let failed = flags.intersects(EventFlags::ERR | EventFlags::HUP);
        (data.u64() != TIMER).then(|| Ready {
            token: data.u64() as usize,
            read: failed || flags.contains(EventFlags::IN),
            write: failed || flags.contains(EventFlags::OUT),
            failed,
        })
    }
}

fn flags(interest: Interest) -> EventFlags {
    let mut flags = EventFlags::empty();
    flags.set(EventFlags::IN, interest.read);
    flags.set(EventFlags::OUT, interest.write);
    flags
}

fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() }
}
