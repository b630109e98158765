//! The two ends of a packet's way that are not the generator's: its write, and its arrival in the receiver's kernel.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd as _};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;

/// The kernel is to note when it has what arrives. It begins within milliseconds, unless it does so already.
pub fn note_arrivals(socket: &impl AsFd) -> io::Result<()> {
    Ok(setsockopt(socket, sockopt::ReceiveTimestampns, &true)?)
}

/// Reads, and says when the kernel had the last of what was read; nothing, where it has not noted that.
pub fn read(stream: &TcpStream, buf: &mut [u8]) -> io::Result<(usize, Option<Instant>)> {
    let mut control = nix::cmsg_space!(TimeSpec);
    let mut slices = [IoSliceMut::new(buf)];
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::empty())?;
    let noted = message.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::ScmTimestampns(time) => Some(Duration::from(time)),
        _ => None,
    });
    // The kernel notes the time of day, which may be set; of a moment ago, it is only the distance that counts.
    let age = noted.map(|noted| SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + noted).unwrap_or_default());
    Ok((message.bytes, age.and_then(|age| Instant::now().checked_sub(age))))
}

/// When the packets of a link were written, of those that have not arrived.
#[derive(Default)]
pub struct Written(VecDeque<(u64, u64)>);

impl Written {
    pub fn put(&mut self, seq: u64, at: u64) {
        self.0.push_back((seq, at));
    }

    /// When this one was. Packets arrive in their order: those before it are lost.
    pub fn take(&mut self, seq: u64) -> Option<u64> {
        while self.0.front().is_some_and(|(front, _)| *front < seq) {
            self.0.pop_front();
        }
        let (front, at) = *self.0.front()?;
        (front == seq).then(|| {
            self.0.pop_front();
            at
        })
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;
    use std::thread::sleep;

    use super::*;

    #[test]
    fn what_waits_in_the_kernel_came_before_it_is_read() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (receiver, _) = listener.accept().unwrap();
        let mut buf = [0; 16];
        sender.write_all(b"before").unwrap();
        assert_eq!(read(&receiver, &mut buf).unwrap(), (6, None), "nobody asked for it");
        note_arrivals(&receiver).unwrap();
        let wait = Duration::from_millis(30);
        let mut noted = || {
            let written = Instant::now();
            sender.write_all(b"behind").unwrap();
            sleep(wait);
            let (read, arrived) = read(&receiver, &mut buf).unwrap();
            assert_eq!(&buf[..read], b"behind");
            arrived.map(|arrived| (written, arrived))
        };
        let (written, arrived) = (0..100).find_map(|_| noted()).expect("a time");
        assert!(arrived.elapsed() >= wait - Duration::from_millis(1), "{:?}", arrived.elapsed());
        assert!(arrived + Duration::from_millis(1) >= written, "{:?} before it was written", written - arrived);
    }

    #[test]
    fn the_lost_are_forgotten_and_nobody_is_taken_twice() {
        let mut written = Written::default();
        for seq in [3, 4, 6, 7] {
            written.put(seq, 100 * seq);
        }
        assert_eq!([4, 3, 4, 5, 6].map(|seq| written.take(seq)), [Some(400), None, None, None, Some(600)]);
        written.clear();
        assert_eq!(written.take(7), None);
    }
}
