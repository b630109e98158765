//! What the edge needs of a runtime: listeners, and streams over owned buffers.
//!
//! Owned, because io_uring keeps the buffer while an operation is in flight. For the same reason no future made here
//! may be dropped before it is done: a read ends by shutting its socket down.

use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::OwnedFd;

use super::entrance::Listening;

pub(super) trait Host: 'static {
    type Listener: 'static;
    type Stream: Stream;

    fn listener(&self, listener: Listening) -> io::Result<Self::Listener>;

    /// Waits for a connection, or for [`Self::close`]: then it takes the one that it was woken for, or fails. The peers
    /// of a unix socket have no address.
    async fn accept(&self, listener: &Self::Listener) -> io::Result<(Self::Stream, Option<SocketAddr>)>;

    /// Ends [`Self::accept`], now and from now on. The socket itself is as it was: another process may go on with it.
    fn close(&self, listener: &Self::Listener);

    /// Takes the descriptor, non-blocking, out of a stream with no operation in flight.
    fn release(&self, stream: Self::Stream) -> io::Result<OwnedFd>;
}

pub(super) trait Stream: 'static {
    /// Appends what one read gives, at most [`crate::limits::EDGE_READ`] bytes; zero is the end.
    async fn read(&self, buf: Vec<u8>) -> (io::Result<usize>, Vec<u8>);

    async fn write_all(&self, buf: Vec<u8>) -> (io::Result<()>, Vec<u8>);

    /// The address that the peer connected to.
    fn local_ip(&self) -> Option<IpAddr>;

    /// Also ends operations that are in flight, with `Shutdown::Both`.
    fn shutdown(&self, how: Shutdown);
}
