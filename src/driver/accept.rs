//! Waiting for connections on io_uring, in a way that can end without losing one.
//!
//! An accept in flight may win a connection at any moment, also while it is being cancelled, and a listening socket may
//! be shared with a process that goes on. So nothing is in flight here but a poll, and the accept itself never waits.
//! The poll is exclusive: one connection wakes one of those who wait, and not all.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use io_uring::{IoUring, opcode, types};
use rustix::net::{SocketAddrAny, SocketFlags, acceptfrom_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The poll, its cancellation, and room to spare.
const ENTRIES: u32 = 4;
const POLL: u64 = 1;
const CANCEL: u64 = 2;

/// A ring with one poll in it. It belongs to the thread that made it.
pub struct Acceptor {
    ring: IoUring,
    /// Non-blocking.
    listener: OwnedFd,
    waiting: bool,
}

impl Acceptor {
    /// # Errors
    /// No ring can be had.
    pub fn new(listener: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&listener, true)?;
        let ring = IoUring::builder().setup_coop_taskrun().setup_single_issuer().build(ENTRIES)?;
        Ok(Self { ring, listener, waiting: false })
    }

    /// For the runtime of this thread: readable when a wait has ended.
    ///
    /// # Errors
    /// No descriptor is left, or there is no runtime.
    pub fn events(&self) -> io::Result<AsyncFd<OwnedFd>> {
        let fd = self.ring_fd().try_clone_to_owned()?;
        // SAFETY: the descriptor is the result's own: it stays the same one, and open, as long as that is registered.
        unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(Into::into)
    }

    fn ring_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring closes its descriptor when it is dropped, and the borrow ends before that.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }

    pub fn is_waiting(&self) -> bool {
        self.waiting
    }

    /// Begins to wait for a connection, unless it waits already.
    ///
    /// # Errors
    /// The kernel takes no request now.
    pub fn wait(&mut self) -> io::Result<()> {
        if !self.waiting {
            const EVENTS: u32 = (libc::EPOLLIN | libc::EPOLLEXCLUSIVE) as u32;
            self.submit(&opcode::PollAdd::new(types::Fd(self.listener.as_raw_fd()), EVENTS).build().user_data(POLL))?;
            self.waiting = true;
        }
        Ok(())
    }

    /// Ends the wait, if there is one: [`Self::has_ended`] says so soon. It may have been woken all the same, for a
    /// connection that nobody else was woken for: so whoever ends a wait has one accept to make.
    ///
    /// # Errors
    /// The kernel takes no request now.
    pub fn cancel(&mut self) -> io::Result<()> {
        if self.waiting {
            self.submit(&opcode::AsyncCancel::new(POLL).build().user_data(CANCEL))?;
        }
        Ok(())
    }

    /// Whether the wait has ended, for whatever reason; true once for each wait.
    pub fn has_ended(&mut self) -> bool {
        let ended = self.ring.completion().any(|done| done.user_data() == POLL);
        self.waiting &= !ended;
        ended
    }

    /// Takes a connection, a blocking one, if there is any. Does not wait.
    ///
    /// # Errors
    /// Those of `accept`; `WouldBlock` when there is none.
    pub fn accept(&self) -> io::Result<(OwnedFd, Option<SocketAddrAny>)> {
        Ok(acceptfrom_with(self.listener.as_fd(), SocketFlags::CLOEXEC)?)
    }

    fn submit(&mut self, entry: &io_uring::squeue::Entry) -> io::Result<()> {
        // SAFETY: it refers to no memory, and to a descriptor that is open as long as the ring is.
        unsafe { self.ring.submission().push(entry) }.map_err(|_| io::Error::other("the ring is full"))?;
        self.ring.submit().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn stage() -> Option<(Acceptor, TcpListener)> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        match Acceptor::new(listener.try_clone().unwrap().into()) {
            Ok(acceptor) => Some((acceptor, listener)),
            Err(error) => {
                eprintln!("LEFT OUT: io_uring is not available here: {error}");
                None
            }
        }
    }

    fn await_end(acceptor: &mut Acceptor) {
        while !acceptor.has_ended() {
            let patience = Timespec { tv_sec: 20, tv_nsec: 0 };
            let ready = poll(&mut [PollFd::new(&acceptor.ring_fd(), PollFlags::IN)], Some(&patience)).unwrap();
            assert_eq!(ready, 1, "the wait does not end");
        }
        assert!(!acceptor.is_waiting() && !acceptor.has_ended());
    }

    fn would_block<T>(result: &io::Result<T>) -> bool {
        matches!(result, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    #[test]
    fn connections_come_one_by_one() {
        let Some((mut acceptor, listener)) = stage() else { return };
        for _ in 0..3 {
            acceptor.wait().unwrap();
            acceptor.wait().unwrap();
            assert!(!acceptor.has_ended() && would_block(&acceptor.accept()));
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            await_end(&mut acceptor);
            let (_, peer) = acceptor.accept().unwrap();
            assert_eq!(std::net::SocketAddr::try_from(peer.unwrap()).unwrap(), client.local_addr().unwrap());
        }
    }

    /// One connection wakes one of those who wait.
    #[test]
    fn a_connection_does_not_wake_everybody() {
        let Some((mut first, listener)) = stage() else { return };
        let mut second = Acceptor::new(listener.try_clone().unwrap().into()).unwrap();
        for acceptor in [&mut first, &mut second] {
            acceptor.wait().unwrap();
        }
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        await_end(&mut first);
        assert!(!second.has_ended());
        second.cancel().unwrap();
        await_end(&mut second);
    }

    /// Connections that come while waits are cancelled: whoever ends a wait and then accepts once leaves none behind
    /// that the one who goes on was not woken for.
    #[test]
    fn no_connection_is_forgotten_between_two_who_wait() {
        const TURNS: usize = 500;
        let Some((mut leaving, listener)) = stage() else { return };
        let mut staying = Acceptor::new(listener.try_clone().unwrap().into()).unwrap();
        let address = listener.local_addr().unwrap();
        let (mut won, mut left) = (0, 0);
        for turn in 0..TURNS {
            leaving.wait().unwrap();
            staying.wait().unwrap();
            let client = std::thread::spawn(move || TcpStream::connect(address).unwrap());
            (0..turn % 40).for_each(|_| std::thread::yield_now());
            leaving.cancel().unwrap();
            await_end(&mut leaving);
            if would_block(&leaving.accept()) {
                await_end(&mut staying);
                // It may have been woken before, for one that the other took.
                while would_block(&staying.accept()) {
                    staying.wait().unwrap();
                    await_end(&mut staying);
                }
                left += 1;
            } else {
                won += 1;
            }
            drop(client.join().unwrap());
        }
        println!("{won} were won by the one who left, {left} by the one who stayed");
    }
}
