//! Descriptors inside sockets that do not lend them.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

/// The descriptor of a socket that tokio-uring owns, for calls that are not its business.
pub fn of_uring_stream(stream: &tokio_uring::net::TcpStream) -> BorrowedFd<'_> {
    // SAFETY: the stream closes its descriptor when it is dropped and not before, and the borrow ends before that.
    unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) }
}
