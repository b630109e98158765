//! Streams over tokio's own epoll, where io_uring is not allowed.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::task::{Poll, Waker};

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::LocalSet;

use super::entrance::Listening;
use super::host::{Host, Stream};
use crate::limits;

pub(super) struct Tokio;

/// A runtime for this thread.
pub(super) struct Runtime {
    tokio: tokio::runtime::Runtime,
    local: LocalSet,
}

impl Runtime {
    pub fn new() -> io::Result<Self> {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { tokio, local: LocalSet::new() })
    }

    pub fn run(&self, main: impl Future<Output = ()>) {
        self.local.block_on(&self.tokio, main);
    }
}

pub(super) struct Listener {
    socket: Socket,
    closed: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A stream in the type that all have here: it does nothing with a socket that only TCP can.
fn in_common(stream: UnixStream) -> io::Result<TcpStream> {
    TcpStream::from_std(OwnedFd::from(stream.into_std()?).into())
}

impl Host for Tokio {
    type Listener = Listener;
    type Stream = TcpStream;

    fn listener(&self, listener: Listening) -> io::Result<Listener> {
        let socket = match listener {
            Listening::Tcp(tcp) => {
                tcp.set_nonblocking(true)?;
                Socket::Tcp(TcpListener::from_std(tcp)?)
            }
            Listening::Unix(unix) => {
                unix.set_nonblocking(true)?;
                Socket::Unix(UnixListener::from_std(unix)?)
            }
        };
        Ok(Listener { socket, closed: Cell::new(false), waiting: RefCell::default() })
    }

    async fn accept(&self, listener: &Listener) -> io::Result<(TcpStream, Option<SocketAddr>)> {
        poll_fn(|cx| {
            if listener.closed.get() {
                return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
            }
            *listener.waiting.borrow_mut() = Some(cx.waker().clone());
            match &listener.socket {
                Socket::Tcp(tcp) => tcp.poll_accept(cx).map_ok(|(stream, peer)| (stream, Some(peer))),
                Socket::Unix(unix) => unix.poll_accept(cx).map(|accepted| Ok((in_common(accepted?.0)?, None))),
            }
        })
        .await
    }

    fn close(&self, listener: &Listener) {
        listener.closed.set(true);
        if let Some(waiting) = listener.waiting.take() {
            waiting.wake();
        }
    }

    fn release(&self, stream: TcpStream) -> io::Result<OwnedFd> {
        Ok(stream.into_std()?.into())
    }
}

impl Stream for TcpStream {
    /// The buffer grows only once there is something to read.
    async fn read(&self, mut buf: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        loop {
            if let Err(error) = self.readable().await {
                return (Err(error), buf);
            }
            buf.reserve(limits::EDGE_READ);
            match self.try_read_buf(&mut buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return (result, buf),
            }
        }
    }

    async fn write_all(&self, buf: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        let mut done = 0;
        while done < buf.len() {
            if let Err(error) = self.writable().await {
                return (Err(error), buf);
            }
            match self.try_write(&buf[done..]) {
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return (Err(error), buf),
            }
        }
        (Ok(()), buf)
    }

    fn local_ip(&self) -> Option<IpAddr> {
        self.local_addr().ok().map(|address| address.ip())
    }

    fn shutdown(&self, how: Shutdown) {
        // It fails when the peer was faster, and then there is nothing left to end.
        let _ = SockRef::from(self).shutdown(how);
    }
}
