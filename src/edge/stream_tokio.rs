//! Streams over tokio's own epoll, where io_uring is not allowed.

use std::future::Future;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use super::entrance::Listening;
use super::host::{Host, Stream};
use crate::limits;

pub(super) struct Tokio;

pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(AsyncFd<UnixListener>),
}

pub(super) fn unix(listener: UnixListener) -> io::Result<AsyncFd<UnixListener>> {
    listener.set_nonblocking(true)?;
    AsyncFd::with_interest(listener, Interest::READABLE)
}

/// A blocking stream, in the type that all streams have here: it does nothing with a socket that only TCP can.
///
/// Unlike one of TCP, a unix socket that was shut down says of an accept only that nobody is there.
pub(super) async fn accept_unix(listener: &AsyncFd<UnixListener>) -> io::Result<std::net::TcpStream> {
    loop {
        let mut ready = listener.readable().await?;
        if ready.ready().is_read_closed() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        if let Ok(accepted) = ready.try_io(|listener| listener.get_ref().accept()) {
            return accepted.map(|(stream, _)| OwnedFd::from(stream).into());
        }
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
            Listening::Unix(listener) => unix(listener).map(Listener::Unix),
        }
    }

    async fn accept(&self, listener: &Listener) -> io::Result<(TcpStream, Option<SocketAddr>)> {
        match listener {
            Listener::Tcp(tcp) => tcp.accept().await.map(|(stream, peer)| (stream, Some(peer))),
            Listener::Unix(unix) => {
                let stream = accept_unix(unix).await?;
                stream.set_nonblocking(true)?;
                Ok((TcpStream::from_std(stream)?, None))
            }
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
