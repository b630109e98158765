//! Streams over tokio-uring.
//!
//! Two rules come from it: the ring is set up with COOP_TASKRUN and SINGLE_ISSUER (with DEFER_TASKRUN it hangs), and
//! a socket is shut down before it is dropped with a read in flight (the descriptor would stay until the peer speaks).

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::{self, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{DupFlags, Errno, dup3, fcntl_dupfd_cloexec, ioctl_fionbio};
use socket2::SockRef;
use tokio::io::unix::AsyncFd;
use tokio_uring::buf::BoundedBuf;
use tokio_uring::net::TcpStream;

use super::entrance::Listening;
use super::host::{Host, Stream};
use crate::driver::accept::Acceptor;
use crate::driver::fd::of_uring_stream;
use crate::limits;

/// Operations that wait for the kernel in one batch.
const ENTRIES: u32 = 256;

/// Long enough for a busy machine, short enough for a start.
const PROBE_TIME: Duration = Duration::from_secs(2);

/// Whether io_uring works here: a runtime starts, and one read on a socket pair completes.
///
/// # Errors
/// The reason why not, for the operator.
pub(super) fn probe() -> Result<(), String> {
    // A thread of its own: a ring belongs to the thread that made it.
    let probe = std::thread::Builder::new().name("uring-probe".to_owned()).spawn(read_once);
    let ended = probe.map(std::thread::JoinHandle::join).map_err(|e| format!("no thread: {e}"))?;
    ended.unwrap_or_else(|_| Err("tokio-uring panicked".to_owned()))
}

fn read_once() -> Result<(), String> {
    let runtime = Runtime::new().map_err(|e| format!("a ring cannot be set up: {e}"))?;
    let (ours, mut theirs) = UnixStream::pair().map_err(|e| format!("no socket pair: {e}"))?;
    let ours = tokio_uring::net::UnixStream::from_std(ours);
    theirs.write_all(b"!").map_err(|e| format!("no socket pair: {e}"))?;
    let read = async { tokio::time::timeout(PROBE_TIME, ours.read(Vec::with_capacity(1))).await };
    match runtime.0.block_on(read) {
        Ok((Ok(1), buf)) if buf == b"!" => Ok(()),
        Ok((Ok(n), _)) => Err(format!("a read gave {n} bytes for 1")),
        Ok((Err(error), _)) => Err(format!("a read failed: {error}")),
        Err(_) => Err("a read did not complete".to_owned()),
    }
}

/// A runtime for this thread.
pub(super) struct Runtime(tokio_uring::Runtime);

impl Runtime {
    pub fn new() -> io::Result<Self> {
        let mut ring = tokio_uring::uring_builder();
        ring.setup_coop_taskrun().setup_single_issuer().setup_cqsize(limits::EDGE_COMPLETIONS);
        let mut builder = tokio_uring::builder();
        builder.entries(ENTRIES).uring_builder(&ring);
        tokio_uring::Runtime::new(&builder).map(Self)
    }

    pub fn run(&self, main: impl Future<Output = ()>) {
        self.0.block_on(main);
    }
}

pub(super) struct Uring {
    spare: RefCell<Option<OwnedFd>>,
}

impl Uring {
    pub fn new() -> Self {
        Self { spare: RefCell::new(spare()) }
    }
}

/// Not tokio-uring's own: its accept cannot be taken back.
pub(super) struct Listener {
    /// Of the acceptor's ring.
    events: AsyncFd<OwnedFd>,
    acceptor: RefCell<Acceptor>,
    closed: Cell<bool>,
    /// A unix socket: its peers have no address.
    unix: bool,
}

impl Listener {
    /// Until somebody may be there, or it is closed.
    async fn ready(&self) -> io::Result<()> {
        loop {
            {
                let mut acceptor = self.acceptor.borrow_mut();
                if !acceptor.is_waiting() {
                    if self.closed.get() {
                        return Ok(());
                    }
                    acceptor.wait()?;
                }
                if acceptor.has_ended() {
                    return Ok(());
                }
            }
            let mut event = self.events.readable().await?;
            if self.acceptor.borrow_mut().has_ended() {
                return Ok(());
            }
            event.clear_ready();
        }
    }
}

impl Host for Uring {
    type Listener = Listener;
    type Stream = TcpStream;

    fn listener(&self, listener: Listening) -> io::Result<Listener> {
        let (socket, unix) = match listener {
            Listening::Tcp(tcp) => (OwnedFd::from(tcp), false),
            Listening::Unix(unix) => (OwnedFd::from(unix), true),
        };
        let acceptor = Acceptor::new(socket)?;
        let events = acceptor.events()?;
        Ok(Listener { events, acceptor: RefCell::new(acceptor), closed: Cell::new(false), unix })
    }

    /// Looks before it waits: to wait costs more than an accept, and in a crowd somebody is there already.
    async fn accept(&self, listener: &Listener) -> io::Result<(TcpStream, Option<SocketAddr>)> {
        loop {
            if listener.closed.get() {
                listener.ready().await?;
            }
            let accepted = listener.acceptor.borrow().accept();
            match accepted {
                // None yet, or somebody else was faster.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !listener.closed.get() => {
                    listener.ready().await?;
                }
                Err(error) => return Err(error),
                // A type for all: nothing is done with a socket that only TCP can.
                Ok((socket, _)) if listener.unix => return Ok((TcpStream::from_std(socket.into()), None)),
                Ok((socket, peer)) => {
                    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
                    let peer = Some(peer.ok_or(io::ErrorKind::NotConnected)?);
                    return Ok((TcpStream::from_std(socket.into()), peer));
                }
            }
        }
    }

    fn close(&self, listener: &Listener) {
        listener.closed.set(true);
        if let Err(error) = listener.acceptor.borrow_mut().cancel() {
            tracing::error!(%error, "an edge cannot end its wait for connections");
        }
    }

    /// tokio-uring never gives a descriptor back, so a duplicate leaves. Each edge keeps a descriptor in reserve for
    /// it, which the duplicate replaces when there is no other: else logins would fail just when the limit is reached.
    fn release(&self, stream: TcpStream) -> io::Result<OwnedFd> {
        let fd = of_uring_stream(&stream);
        let duplicate = match fcntl_dupfd_cloexec(fd, 0) {
            Err(Errno::MFILE) => {
                let mut spare = self.spare.take().ok_or(Errno::MFILE)?;
                dup3(fd, &mut spare, DupFlags::CLOEXEC)?;
                spare
            }
            duplicate => duplicate?,
        };
        ioctl_fionbio(&duplicate, true)?;
        drop(stream);
        let mut reserve = self.spare.borrow_mut();
        if reserve.is_none() {
            *reserve = spare();
        }
        Ok(duplicate)
    }
}

/// Something that only takes up a descriptor.
fn spare() -> Option<OwnedFd> {
    eventfd(0, EventfdFlags::CLOEXEC).ok()
}

impl Stream for TcpStream {
    async fn read(&self, mut buf: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        let len = buf.len();
        buf.reserve(limits::EDGE_READ);
        let (result, part) = TcpStream::read(self, buf.slice(len..len + limits::EDGE_READ)).await;
        (result, part.into_inner())
    }

    async fn write_all(&self, buf: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        TcpStream::write_all(self, buf).await
    }

    fn local_ip(&self) -> Option<IpAddr> {
        let address = SockRef::from(&of_uring_stream(self)).local_addr().ok()?;
        address.as_socket().map(|address| address.ip())
    }

    fn shutdown(&self, how: Shutdown) {
        // It fails when the peer was faster, and then there is nothing left to end.
        let _ = TcpStream::shutdown(self, how);
    }
}
