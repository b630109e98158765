//! The loop of the STUN thread.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::warn;

use crate::control::logging::Limiter;
use crate::driver::Nanos;
use crate::driver::socket::monotonic;
use crate::driver::udp::{Batch, Datagram};
use crate::driver::wake::WakeHandle;
use crate::limits::{STUN_ANSWER_MAX, STUN_BATCH, STUN_ERROR_LOG, STUN_REST, STUN_TURN};
use crate::proto::stun::{Clients, Outcome, answer};
use crate::stats::StunResult;

use super::networks::Networks;
use super::stats::Stats;

pub struct Server {
    clients: Clients,
    stats: Arc<Stats>,
    networks: Networks,
    batch: Batch,
    /// What each answer of the batch is, and who it goes to.
    answers: [(StunResult, Option<SocketAddr>); STUN_BATCH],
    read_lines: Limiter,
    write_lines: Limiter,
}

impl Server {
    pub fn new(clients: Clients, stats: Arc<Stats>) -> Self {
        Self {
            clients,
            stats,
            networks: Networks::new(),
            batch: Batch::new(),
            answers: [(StunResult::NotStun, None); STUN_BATCH],
            read_lines: Limiter::new(STUN_ERROR_LOG),
            write_lines: Limiter::new(STUN_ERROR_LOG),
        }
    }

    /// Until `end` is rung.
    pub fn run(mut self, sockets: &[UdpSocket], end: &WakeHandle) {
        let ends = end.fd();
        let mut seats: Vec<Seat<'_>> = sockets.iter().map(|socket| Seat { socket, rests_until: 0 }).collect();
        let mut polled = Vec::with_capacity(1 + seats.len());
        loop {
            let now = monotonic();
            let wake = seats.iter().map(|seat| seat.rests_until).filter(|until| *until > now).min();
            let wait = wake.map(|until| timespec(until - now));
            polled.clear();
            polled.push(PollFd::from_borrowed_fd(ends, PollFlags::IN));
            polled.extend(
                seats.iter().filter(|seat| seat.is_awake(now)).map(|seat| PollFd::new(seat.socket, PollFlags::IN)),
            );
            // Interrupted, or out of memory: looking at all sockets is right in any case.
            let all = poll(&mut polled, wait.as_ref()).is_err();
            if !polled[0].revents().is_empty() {
                return;
            }
            for (seat, polled) in seats.iter_mut().filter(|seat| seat.is_awake(now)).zip(&polled[1..]) {
                if !all && polled.revents().is_empty() {
                    continue;
                }
                let served = self.serve(seat.socket);
                // Somebody who has the same socket has shut it down: there is always "something", and never anything.
                let over = polled.revents().contains(PollFlags::HUP).then(|| io::ErrorKind::NotConnected.into());
                if let Some(error) = served.err().or(over) {
                    self.failed(seat.socket, &error);
                    seat.rests_until = monotonic() + STUN_REST.as_nanos() as Nanos;
                }
            }
        }
    }

    /// Answers what waits, and leaves to the next turn what is more than a socket's share.
    fn serve(&mut self, socket: &UdpSocket) -> io::Result<()> {
        for _ in 0..STUN_TURN {
            let count = self.batch.receive(socket.as_fd())?;
            self.answer();
            self.send(socket);
            if count < STUN_BATCH {
                break;
            }
        }
        Ok(())
    }

    fn answer(&mut self) {
        let Self { clients, stats, networks, batch, answers, .. } = self;
        let now = monotonic();
        batch.answer(|at, Datagram { bytes, whole, from }, room: &mut [u8; STUN_ANSWER_MAX]| {
            let Some((len, outcome)) = answer(bytes, from, *clients, room).filter(|_| whole) else {
                stats.add(StunResult::NotStun, from);
                return None;
            };
            if !networks.admit(from.ip(), now) {
                stats.add(StunResult::RateLimited, from);
                return None;
            }
            let result = match outcome {
                Outcome::Mapped => StunResult::Answered,
                Outcome::Refused => StunResult::Refused,
            };
            answers[at] = (result, Some(from));
            Some(len)
        });
    }

    fn send(&mut self, socket: &UdpSocket) {
        let Self { stats, batch, answers, write_lines, .. } = self;
        batch.send(socket.as_fd(), |at, sent| {
            let (result, Some(to)) = answers[at] else { return };
            match sent {
                Ok(()) => stats.add(result, to),
                Err(error) => {
                    stats.add(StunResult::WriteError, to);
                    if let Some(left_out) = write_lines.pass() {
                        warn!(%to, %error, left_out, "cannot send a STUN answer");
                    }
                }
            }
        });
    }

    fn failed(&self, socket: &UdpSocket, error: &io::Error) {
        self.stats.read_errors.add(1);
        if let Some(left_out) = self.read_lines.pass() {
            let address = socket.local_addr().ok().map(tracing::field::display);
            warn!(address, %error, left_out, "cannot receive on a STUN socket, will go on trying");
        }
    }
}

/// A socket, which rests for a while when it fails: one that fails at once every time must not take a core, nor the
/// others their turns.
struct Seat<'a> {
    socket: &'a UdpSocket,
    rests_until: Nanos,
}

impl Seat<'_> {
    fn is_awake(&self, now: Nanos) -> bool {
        self.rests_until <= now
    }
}

fn timespec(nanos: Nanos) -> Timespec {
    let time = Duration::from_nanos(nanos);
    Timespec { tv_sec: time.as_secs() as _, tv_nsec: time.subsec_nanos().into() }
}
