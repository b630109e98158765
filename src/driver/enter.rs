//! Entering the kernel for a ring: to sleep, or only to fetch what has come.

use std::io;
use std::time::Duration;

use io_uring::{IoUring, types};

/// Submits what is queued and waits at most so long for a completion. Returns whether the kernel was entered.
///
/// A wait of no time fetches what the kernel has, without a system call where it has nothing: asked to wait until now,
/// it would set a timer, sleep, and be woken by it.
///
/// # Errors
/// The ring cannot be used. That nothing came in time, or a signal did, is none.
pub fn enter(ring: &mut IoUring, wait: Duration) -> io::Result<bool> {
    let entered = if wait.is_zero() {
        let queue = ring.submission();
        if queue.is_empty() && !queue.taskrun() && !queue.cq_overflow() {
            return Ok(false);
        }
        drop(queue);
        ring.submitter().submit()
    } else {
        let timeout = types::Timespec::from(wait);
        ring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&timeout))
    };
    match entered {
        Ok(_) => Ok(true),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)) => Ok(true),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    #![allow(unsafe_code)]

    use std::io::Write as _;
    use std::os::fd::AsRawFd as _;
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    use io_uring::opcode;

    use super::*;

    fn ring() -> Option<IoUring> {
        let ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().build(8);
        if ring.is_err() {
            eprintln!("no io_uring here: not tested");
        }
        ring.ok()
    }

    #[test]
    fn without_time_it_fetches_what_has_come_and_enters_for_nothing_else() {
        let Some(mut ring) = ring() else { return };
        assert!(!enter(&mut ring, Duration::ZERO).unwrap(), "nothing is queued");
        let (mut here, there) = UnixStream::pair().unwrap();
        let entry = opcode::PollAdd::new(types::Fd(there.as_raw_fd()), libc::POLLIN as u32).build().user_data(7);
        // SAFETY: the entry points to no memory; the socket lives until its completion has come.
        unsafe { ring.submission().push(&entry) }.unwrap();
        assert!(enter(&mut ring, Duration::ZERO).unwrap(), "the poll is queued");
        assert!(!enter(&mut ring, Duration::ZERO).unwrap(), "nobody has written");
        assert!(ring.completion().next().is_none());
        here.write_all(b"x").unwrap();
        assert!(enter(&mut ring, Duration::ZERO).unwrap(), "the socket is readable");
        assert_eq!(ring.completion().next().map(|entry| entry.user_data()), Some(7));
        assert!(!enter(&mut ring, Duration::ZERO).unwrap());
    }

    #[test]
    fn with_time_it_sleeps_and_an_end_without_news_is_no_error() {
        let Some(mut ring) = ring() else { return };
        let begin = Instant::now();
        assert!(enter(&mut ring, Duration::from_millis(5)).unwrap());
        assert!(begin.elapsed() >= Duration::from_millis(5));
    }
}
