//! What both kernel drivers do with a TCP socket.
#![allow(unsafe_code)]

use std::io::{self, IoSlice};
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};

use super::Nanos;
use crate::limits;

/// CLOCK_MONOTONIC: the same for all threads.
#[inline]
pub fn monotonic() -> Nanos {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// Makes a socket fit for a worker. Options that this kind of socket does not have are left as they are.
///
/// # Errors
/// The descriptor is not usable.
pub fn prepare(socket: &OwnedFd) -> io::Result<()> {
    rustix::io::ioctl_fionbio(socket, true)?;
    let lowat = limits::NOTSENT_LOWAT as libc::c_int;
    // SAFETY: the option value is a live c_int of the stated size.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_NOTSENT_LOWAT,
            (&raw const lowat).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
    }
    Ok(())
}

/// Sends without blocking; a full socket is `Ok(0)`.
///
/// # Errors
/// The connection is broken.
#[inline]
pub fn send(socket: BorrowedFd<'_>, parts: &[IoSlice<'_>]) -> io::Result<usize> {
    let mut none = SendAncillaryBuffer::default();
    loop {
        match sendmsg(socket, parts, &mut none, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(n) => return Ok(n),
            Err(rustix::io::Errno::INTR) => {}
            // EWOULDBLOCK is EAGAIN on Linux.
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::NOBUFS) => return Ok(0),
            Err(e) => return Err(e.into()),
        }
    }
}

/// Bytes in the send queue that the peer has not acknowledged.
pub fn unacknowledged(socket: &OwnedFd) -> Option<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ writes one c_int to the given address.
    let r = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    (r == 0).then_some(bytes.max(0) as u32)
}

/// Smoothed round-trip time by TCP_INFO.
pub fn round_trip(socket: &OwnedFd) -> Option<Duration> {
    // SAFETY: all bit patterns of tcp_info are valid, zero among them.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `info`.
    let r = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut len)
    };
    (r == 0).then(|| Duration::from_micros(u64::from(info.tcpi_rtt)))
}

/// Sends nothing more and receives nothing more; tells the peer at once.
pub fn shutdown(socket: &OwnedFd) {
    let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
}
