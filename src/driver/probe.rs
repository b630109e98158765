//! Which backend works here: tried, not guessed from a version.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::uring::Uring;
use super::{Driver, End, Sink, WakeHandle};

/// What the relay runs on, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// `incremental`: one buffer serves several receives.
    Uring {
        incremental: bool,
    },
    Epoll {
        why: String,
    },
}

/// Does once everything that the io_uring driver does all day: ring, buffer ring, multishot receive, cancel, wake.
///
/// # Errors
/// The first step that failed, as a sentence for the operator.
pub fn uring() -> Result<Choice, String> {
    // A ring has a single issuer: the probe has a thread of its own.
    std::thread::spawn(try_uring).join().unwrap_or_else(|_| Err("the probe failed".into()))
}

fn try_uring() -> Result<Choice, String> {
    let explain = |step: &str, e: &io::Error| {
        let remedy = match e.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                "; a container's seccomp profile or kernel.io_uring_disabled forbids it: allow io_uring_setup, \
                 io_uring_enter and io_uring_register"
            }
            Some(libc::ENOSYS | libc::EINVAL) => "; Linux 6.1 or later is needed",
            Some(libc::ENOMEM) => "; raise the locked-memory limit (ulimit -l)",
            _ => "",
        };
        format!("{step}: {e}{remedy}")
    };
    let wake = Arc::new(WakeHandle::new().map_err(|e| explain("eventfd", &e))?);
    let mut driver = Uring::new(wake.clone()).map_err(|e| explain("io_uring setup", &e))?;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|e| explain("socketpair", &e.into()))?;
    driver.attach(0, ours).map_err(|e| explain("attach", &e))?;
    let mut seen = Seen::default();
    for message in [b"one", b"two"] {
        send(&theirs, message).map_err(|e| explain("send", &e))?;
        run(&mut driver, &mut seen, |seen| seen.bytes.ends_with(message))
            .map_err(|e| explain("multishot receive", &e))?;
    }
    wake.wake();
    run(&mut driver, &mut seen, |_| true).map_err(|e| explain("wake", &e))?;
    driver.detach(0, &mut seen);
    run(&mut driver, &mut seen, |seen| seen.detached).map_err(|e| explain("cancel", &e))?;
    Ok(Choice::Uring { incremental: driver.is_incremental() })
}

fn send(socket: &OwnedFd, message: &[u8]) -> io::Result<()> {
    super::socket::send(std::os::fd::AsFd::as_fd(socket), &[IoSlice::new(message)]).map(drop)
}

fn run(driver: &mut Uring, seen: &mut Seen, done: impl Fn(&Seen) -> bool) -> io::Result<()> {
    const TURNS: u32 = 20;
    for _ in 0..TURNS {
        driver.turn(Duration::from_millis(50), seen)?;
        if let Some(end) = seen.ended {
            return Err(io::Error::other(format!("the receive ended ({end:?})")));
        }
        if done(seen) {
            return Ok(());
        }
    }
    Err(io::Error::other("nothing came within a second"))
}

#[derive(Default)]
struct Seen {
    bytes: Vec<u8>,
    ended: Option<End>,
    detached: bool,
}

impl Sink for Seen {
    fn awake(&mut self, _: super::Nanos) {}

    fn received<D: Driver>(&mut self, _: &mut D, _: u32, bytes: &mut [u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn settle<D: Driver>(&mut self, _: &mut D) {}

    fn answer<D: Driver>(&mut self, _: &mut D) {}

    fn writable(&mut self, _: u32) {}

    fn ended(&mut self, _: u32, end: End) {
        self.ended = Some(end);
    }

    fn detached(&mut self, _: u32) {
        self.detached = true;
    }
}

#[cfg(test)]
mod tests {
    /// Whatever this machine allows, the answer is one of the two and says why.
    #[test]
    fn the_probe_answers() {
        match super::uring() {
            Ok(choice) => assert!(matches!(choice, super::Choice::Uring { .. })),
            Err(why) => assert!(!why.is_empty()),
        }
    }
}
