//! The loop of the STUN thread.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::warn;

use crate::control::logging::Limiter;
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
        let mut polled = vec![PollFd::from_borrowed_fd(ends, PollFlags::IN)];
        polled.extend(sockets.iter().map(|socket| PollFd::new(socket, PollFlags::IN)));
        loop {
            // Interrupted, or out of memory: looking at all sockets is right in any case.
            let all = poll(&mut polled, None).is_err();
            if !polled[0].revents().is_empty() {
                return;
            }
            for (socket, polled) in sockets.iter().zip(&polled[1..]) {
                if (all || !polled.revents().is_empty())
                    && let Err(error) = self.serve(socket)
                {
                    self.failed(socket, &error);
                    // A socket that fails at once every time must not take a core.
                    rest(end, STUN_REST);
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

/// For so long, or until `end` is rung.
fn rest(end: &WakeHandle, time: Duration) {
    let ends = end.fd();
    let time = Timespec { tv_sec: time.as_secs() as _, tv_nsec: time.subsec_nanos().into() };
    // However it ends, whoever rested looks for the end next.
    let _ = poll(&mut [PollFd::from_borrowed_fd(ends, PollFlags::IN)], Some(&time));
}
