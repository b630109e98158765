//! Streams over tokio's own epoll, where io_uring is not allowed.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::watch;
use tokio::task::LocalSet;

use super::entrance::Listening;
use super::host::{Host, Stream};
use crate::limits;

pub(super) struct Tokio;

pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(Unix),
}

/// A unix socket that was shut down wakes nobody who waits for a peer, as one of TCP does: it is told apart.
pub(super) struct Unix {
    listener: UnixListener,
    closed: Arc<watch::Sender<bool>>,
}

impl Unix {
    pub fn new(listener: std::os::unix::net::UnixListener, closed: Arc<watch::Sender<bool>>) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener: UnixListener::from_std(listener)?, closed })
    }

    /// Non-blocking, and in the type that all streams have here: it does nothing with a socket that only TCP can.
    pub async fn accept(&self) -> io::Result<std::net::TcpStream> {
        let mut closed = self.closed.subscribe();
        let mut closed = pin!(closed.wait_for(|closed| *closed));
        // In this order: tokio would look for peers of a socket that is shut down for ever.
        let accepted = poll_fn(|cx| match closed.as_mut().poll(cx) {
            Poll::Ready(_) => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
            Poll::Pending => self.listener.poll_accept(cx),
        });
        let (stream, _) = accepted.await?;
        Ok(OwnedFd::from(stream.into_std()?).into())
    }
}

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

impl Host for Tokio {
    type Listener = Listener;
    type Stream = TcpStream;

    fn listener(&self, listener: Listening) -> io::Result<Listener> {
        match listener {
            Listening::Tcp(tcp) => {
                tcp.set_nonblocking(true)?;
                TcpListener::from_std(tcp).map(Listener::Tcp)
            }
            Listening::Unix(listener, closed) => Unix::new(listener, closed).map(Listener::Unix),
        }
    }

    async fn accept(&self, listener: &Listener) -> io::Result<(TcpStream, Option<SocketAddr>)> {
        match listener {
            Listener::Tcp(tcp) => tcp.accept().await.map(|(stream, peer)| (stream, Some(peer))),
            Listener::Unix(unix) => Ok((TcpStream::from_std(unix.accept().await?)?, None)),
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

    fn shutdown(&self, how: Shutdown) {
        // It fails when the peer was faster, and then there is nothing left to end.
        let _ = SockRef::from(self).shutdown(how);
    }
}
