//! Streams over tokio's own epoll, where io_uring is not allowed.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::OwnedFd;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

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

impl Host for Tokio {
    type Listener = TcpListener;
    type Stream = TcpStream;

    fn listener(&self, listener: std::net::TcpListener) -> io::Result<TcpListener> {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    }

    async fn accept(&self, listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
        listener.accept().await
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
