//! Descriptors inside sockets that do not lend them, and those that the process was born with.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

/// The descriptor of a socket that tokio-uring owns, for calls that are not its business.
pub fn of_uring_stream(stream: &tokio_uring::net::TcpStream) -> BorrowedFd<'_> {
    // SAFETY: the stream closes its descriptor when it is dropped and not before, and the borrow ends before that.
    unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) }
}

/// The first descriptor that a service manager passes.
const FIRST_PASSED: RawFd = 3;

/// Takes the `count` descriptors that this process was started with behind its standard ones. Only once: whoever asks
/// again gets none.
///
/// # Errors
/// One of them is not open; none is taken then.
pub fn passed(count: u16) -> io::Result<Vec<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let numbers = FIRST_PASSED..FIRST_PASSED + RawFd::from(count);
    for number in numbers.clone() {
        // SAFETY: the borrow ends with this statement, and the calls fail on a number that is not open.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        fcntl_getfd(fd)?;
        fcntl_setfd(fd, FdFlags::CLOEXEC)?;
    }
    // SAFETY: they are open. Whoever counts them for this process vouches that it was born with them, so nothing here
    // has made them and owns them. And they are taken once.
    Ok(numbers.map(|number| unsafe { OwnedFd::from_raw_fd(number) }).collect())
}
