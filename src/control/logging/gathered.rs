//! Lines of the log, written in few system calls.

use std::io::{self, Write};
use std::thread;
use std::time::Duration;

/// How long after a write the next lines are gathered: nobody watches a log more closely, and a wave of logins neither
/// wakes the thread that writes nor enters the system for each line. A lone line is written at once.
const PAUSE: Duration = Duration::from_millis(5);

/// Room for what comes in a pause; more is written on the way.
const ROOM: usize = 64 * 1024;

/// What is written waits for [`Write::flush`], which writes all of it and then keeps the thread for [`PAUSE`].
#[derive(Debug)]
pub(super) struct Gathered<W> {
    lines: Vec<u8>,
    to: W,
}

impl<W: Write> Gathered<W> {
    pub(super) fn new(to: W) -> Self {
        Self { lines: Vec::with_capacity(ROOM), to }
    }

    /// Lines that cannot be written are gone: the log must not grow on a full disk.
    fn write_out(&mut self) -> io::Result<()> {
        let written = self.to.write_all(&self.lines);
        self.lines.clear();
        written
    }
}

impl<W: Write> Write for Gathered<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.lines.len() + line.len() > ROOM {
            self.write_out()?;
        }
        if line.len() > ROOM {
            return self.to.write(line);
        }
        self.lines.extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.lines.is_empty() {
            return self.to.flush();
        }
        let written = self.write_out().and_then(|()| self.to.flush());
        thread::sleep(PAUSE);
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts writes; fails those that it was told to.
    #[derive(Default)]
    struct Counted {
        writes: Vec<Vec<u8>>,
        failures: usize,
    }

    impl Write for Counted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.failures > 0 {
                self.failures -= 1;
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.writes.push(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_of_one_flush_are_one_write_in_order() {
        let mut log = Gathered::new(Counted::default());
        log.write_all(b"one\n").unwrap();
        log.write_all(b"two\n").unwrap();
        assert!(log.to.writes.is_empty());
        log.flush().unwrap();
        log.flush().unwrap();
        log.write_all(b"three\n").unwrap();
        log.flush().unwrap();
        assert_eq!(log.to.writes, [b"one\ntwo\n".to_vec(), b"three\n".to_vec()]);
    }

    #[test]
    fn more_than_there_is_room_for_is_written_on_the_way() {
        let mut log = Gathered::new(Counted::default());
        let line = [b'x'; 1000];
        for _ in 0..200 {
            log.write_all(&line).unwrap();
        }
        assert_eq!(log.to.writes.len(), 3);
        log.write_all(&[b'y'; 2 * ROOM]).unwrap();
        log.flush().unwrap();
        assert_eq!(log.lines.capacity(), ROOM);
        assert_eq!(log.to.writes.concat().len(), 200_000 + 2 * ROOM);
    }

    #[test]
    fn lines_that_cannot_be_written_are_not_kept() {
        let mut log = Gathered::new(Counted { failures: 1, ..Default::default() });
        log.write_all(b"lost\n").unwrap();
        assert_eq!(log.flush().unwrap_err().kind(), io::ErrorKind::StorageFull);
        log.write_all(b"kept\n").unwrap();
        log.flush().unwrap();
        assert_eq!(log.to.writes, [b"kept\n".to_vec()]);
    }
}
