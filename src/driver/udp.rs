//! Datagrams that are answered: a batch is received in one system call and its answers leave in another, each from the
//! address that was asked.
//!
//! A socket on all addresses would otherwise answer from whichever address routing prefers, and the NAT in front of
//! the client, which knows nothing of that address, would drop the answer.
#![allow(unsafe_code)]

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::limits::{STUN_ANSWER_MAX, STUN_BATCH, STUN_REQUEST_MAX};

/// Makes the socket tell which local address each datagram was sent to.
///
/// # Errors
/// It is not a UDP socket of IPv4 or IPv6.
pub fn tell_local_address(socket: BorrowedFd<'_>) -> io::Result<()> {
    let (level, option) = match socket2::SockRef::from(&socket).domain()? {
        socket2::Domain::IPV6 => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
        _ => (libc::IPPROTO_IP, libc::IP_PKTINFO),
    };
    let on: libc::c_int = 1;
    // SAFETY: the option value is a live c_int of the stated size.
    let r = unsafe {
        let size = size_of::<libc::c_int>() as libc::socklen_t;
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), size)
    };
    if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A datagram that has come.
#[derive(Debug)]
pub struct Datagram<'a> {
    /// Cut off where `whole` is false.
    pub bytes: &'a [u8],
    pub whole: bool,
    pub from: SocketAddr,
}

/// Room for datagrams and their answers, made once.
pub struct Batch {
    slots: Box<[Slot]>,
    filled: usize,
    /// What the kernel is shown, made anew for every call: nothing in here outlives it.
    headers: Vec<libc::mmsghdr>,
}

struct Slot {
    part: libc::iovec,
    /// Room for either family.
    peer: libc::sockaddr_in6,
    peer_len: libc::socklen_t,
    asked: Asked,
    control: Control,
    whole: bool,
    len: usize,
    answer_len: usize,
    answer: [u8; STUN_ANSWER_MAX],
    datagram: [u8; STUN_REQUEST_MAX],
}

/// Where a datagram was sent to.
#[derive(Clone, Copy)]
enum Asked {
    Unknown,
    V4(libc::in_pktinfo),
    V6(libc::in6_pktinfo),
}

/// Room for one message of either kind, aligned as the kernel wants it.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL]);

// SAFETY: pure arithmetic.
const CONTROL: usize = unsafe { libc::CMSG_SPACE(size_of::<libc::in6_pktinfo>() as u32) } as usize;
const _: () = assert!(align_of::<Control>() >= align_of::<libc::cmsghdr>());
const _: () = assert!(size_of::<libc::in6_pktinfo>() >= size_of::<libc::in_pktinfo>());
const _: () = assert!(
    size_of::<libc::sockaddr_in6>() >= size_of::<libc::sockaddr_in>()
        && align_of::<libc::sockaddr_in6>() >= align_of::<libc::sockaddr_in>()
);

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    pub fn new() -> Self {
        Self {
            slots: (0..STUN_BATCH).map(|_| Slot::new()).collect(),
            filled: 0,
            headers: Vec::with_capacity(STUN_BATCH),
        }
    }

    /// Takes what waits, up to [`STUN_BATCH`] datagrams, in place of what was there; 0: nothing waits.
    ///
    /// # Errors
    /// The kernel cannot receive.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.filled = 0;
        self.headers.clear();
        let slots = self.slots.as_mut_ptr();
        for at in 0..STUN_BATCH {
            // SAFETY: there are so many slots, and between here and the call nobody else looks at them.
            let header = unsafe {
                let slot = slots.add(at);
                (*slot).peer_len = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
                Slot::header(slot, (&raw mut (*slot).datagram).cast(), STUN_REQUEST_MAX, CONTROL)
            };
            self.headers.push(header);
        }
        let count = loop {
            // SAFETY: every header names buffers of `slots` with their lengths, which live and are borrowed by nobody
            // else during the call.
            let r = unsafe {
                let len = self.headers.len() as libc::c_uint;
                let flags = libc::MSG_DONTWAIT as _;
                libc::recvmmsg(socket.as_raw_fd(), self.headers.as_mut_ptr(), len, flags, std::ptr::null_mut())
            };
            match usize::try_from(r) {
                Ok(count) => break count,
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error if error.kind() == io::ErrorKind::WouldBlock => break 0,
                    error => return Err(error),
                },
            }
        };
        for (slot, header) in self.slots.iter_mut().zip(&self.headers[..count]) {
            slot.took(header);
        }
        self.filled = count;
        Ok(count)
    }

    /// Asks for an answer to each datagram, by its number; `Some`: so many bytes of the room are one.
    pub fn answer(&mut self, mut reply: impl FnMut(usize, Datagram<'_>, &mut [u8; STUN_ANSWER_MAX]) -> Option<usize>) {
        for (at, slot) in self.slots[..self.filled].iter_mut().enumerate() {
            slot.answer_len = 0;
            let Some(from) = slot.peer() else { continue };
            let datagram = Datagram { bytes: &slot.datagram[..slot.len], whole: slot.whole, from };
            slot.answer_len = reply(at, datagram, &mut slot.answer).unwrap_or(0).min(STUN_ANSWER_MAX);
        }
    }

    /// Sends the answers, and says of each, by the number of its datagram, what became of it. What does not fit into
    /// the socket is lost, as datagrams may be.
    pub fn send(&mut self, socket: BorrowedFd<'_>, mut done: impl FnMut(usize, io::Result<()>)) {
        self.headers.clear();
        let mut numbers = [0_u8; STUN_BATCH];
        let slots = self.slots.as_mut_ptr();
        for at in 0..self.filled {
            // SAFETY: so many slots were filled, and between here and the call nobody else looks at them.
            let header = unsafe {
                let slot = slots.add(at);
                if (*slot).answer_len == 0 {
                    continue;
                }
                let control = (*slot).asked.write(&mut (*slot).control);
                Slot::header(slot, (&raw mut (*slot).answer).cast(), (*slot).answer_len, control)
            };
            numbers[self.headers.len()] = at as u8;
            self.headers.push(header);
        }
        let mut sent = 0;
        while sent < self.headers.len() {
            let rest = &mut self.headers[sent..];
            // SAFETY: every header names buffers of `slots` with their lengths, which live during the call.
            let r = unsafe {
                let flags = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _;
                libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as libc::c_uint, flags)
            };
            match usize::try_from(r) {
                Ok(count) => {
                    let count = count.max(1);
                    numbers[sent..sent + count].iter().for_each(|at| done(usize::from(*at), Ok(())));
                    sent += count;
                }
                // It is about the first of the rest, and the others need not share its fate.
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => {
                        done(usize::from(numbers[sent]), Err(error));
                        sent += 1;
                    }
                },
            }
        }
    }
}

const _: () = assert!(STUN_BATCH <= 256, "numbers within a batch are bytes");

impl Slot {
    fn new() -> Self {
        Self {
            part: libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 },
            // SAFETY: all bit patterns of sockaddr_in6 are valid, zero among them.
            peer: unsafe { zeroed() },
            peer_len: 0,
            asked: Asked::Unknown,
            control: Control([0; CONTROL]),
            whole: false,
            len: 0,
            answer_len: 0,
            answer: [0; STUN_ANSWER_MAX],
            datagram: [0; STUN_REQUEST_MAX],
        }
    }

    /// A message of one part, to or from the slot's peer, whose pointers all lead into the slot.
    ///
    /// # Safety
    /// The slot and `len` bytes at `bytes` must be there for as long as the message is used, and not be borrowed.
    unsafe fn header(slot: *mut Self, bytes: *mut libc::c_void, len: usize, control: usize) -> libc::mmsghdr {
        // SAFETY: the caller vouches for the slot; all bit patterns of mmsghdr are valid, zero among them.
        unsafe {
            (*slot).part = libc::iovec { iov_base: bytes, iov_len: len };
            let mut header: libc::mmsghdr = zeroed();
            header.msg_hdr.msg_name = (&raw mut (*slot).peer).cast();
            header.msg_hdr.msg_namelen = (*slot).peer_len;
            header.msg_hdr.msg_iov = &raw mut (*slot).part;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = (&raw mut (*slot).control).cast();
            header.msg_hdr.msg_controllen = control as _;
            header
        }
    }

    /// Notes what the kernel wrote.
    fn took(&mut self, header: &libc::mmsghdr) {
        self.peer_len = header.msg_hdr.msg_namelen;
        self.len = (header.msg_len as usize).min(STUN_REQUEST_MAX);
        self.whole = header.msg_hdr.msg_flags & libc::MSG_TRUNC == 0;
        // SAFETY: the header is that of this slot, whose control buffer the kernel has just filled as far as it says.
        self.asked = unsafe { Asked::read(&header.msg_hdr) };
    }

    fn peer(&self) -> Option<SocketAddr> {
        let peer = &self.peer;
        let len = self.peer_len as usize;
        match libc::c_int::from(peer.sin6_family) {
            libc::AF_INET6 if len >= size_of::<libc::sockaddr_in6>() => {
                let ip = Ipv6Addr::from(peer.sin6_addr.s6_addr);
                let port = u16::from_be(peer.sin6_port);
                Some(SocketAddrV6::new(ip, port, peer.sin6_flowinfo, peer.sin6_scope_id).into())
            }
            libc::AF_INET if len >= size_of::<libc::sockaddr_in>() => {
                // SAFETY: sockaddr_in is neither longer nor more strictly aligned, and has no invalid bit patterns.
                let peer = unsafe { *(&raw const self.peer).cast::<libc::sockaddr_in>() };
                let ip = Ipv4Addr::from(peer.sin_addr.s_addr.to_ne_bytes());
                Some((ip, u16::from_be(peer.sin_port)).into())
            }
            _ => None,
        }
    }
}

impl Asked {
    /// # Safety
    /// The control buffer that the header names must be readable for the length that it states.
    unsafe fn read(header: &libc::msghdr) -> Self {
        // SAFETY: the caller vouches for the buffer; the macros stay within it, and the data of a message is read only
        // where the message is long enough, at any alignment.
        unsafe {
            let mut message = libc::CMSG_FIRSTHDR(header);
            while let Some(head) = message.as_ref() {
                let data = libc::CMSG_DATA(message);
                let fits = |size: usize| head.cmsg_len >= libc::CMSG_LEN(size as u32) as _;
                match (head.cmsg_level, head.cmsg_type) {
                    (libc::IPPROTO_IP, libc::IP_PKTINFO) if fits(size_of::<libc::in_pktinfo>()) => {
                        return Self::V4(data.cast::<libc::in_pktinfo>().read_unaligned());
                    }
                    (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if fits(size_of::<libc::in6_pktinfo>()) => {
                        return Self::V6(data.cast::<libc::in6_pktinfo>().read_unaligned());
                    }
                    _ => {}
                }
                message = libc::CMSG_NXTHDR(header, message);
            }
        }
        Self::Unknown
    }

    /// Puts this address into the answer's control message, and returns how long that is. The interface is left to the
    /// routing table, but where an address means nothing without one.
    fn write(self, control: &mut Control) -> usize {
        match self {
            Self::Unknown => 0,
            Self::V4(mut info) => {
                if !Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()).is_link_local() {
                    info.ipi_ifindex = 0;
                }
                put(control, libc::IPPROTO_IP, libc::IP_PKTINFO, info)
            }
            Self::V6(mut info) => {
                if !Ipv6Addr::from(info.ipi6_addr.s6_addr).is_unicast_link_local() {
                    info.ipi6_ifindex = 0;
                }
                put(control, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info)
            }
        }
    }
}

fn put<T: Copy>(control: &mut Control, level: libc::c_int, kind: libc::c_int, data: T) -> usize {
    const { assert!(size_of::<T>() <= size_of::<libc::in6_pktinfo>()) };
    let base = control.0.as_mut_ptr();
    // SAFETY: the buffer is aligned for a cmsghdr and has room for it and for the largest `T`, whose place needs no
    // alignment.
    unsafe {
        let len = libc::CMSG_LEN(size_of::<T>() as u32);
        base.cast::<libc::cmsghdr>().write(libc::cmsghdr { cmsg_len: len as _, cmsg_level: level, cmsg_type: kind });
        libc::CMSG_DATA(base.cast()).cast::<T>().write_unaligned(data);
        libc::CMSG_SPACE(size_of::<T>() as u32) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::time::Duration;

    use super::*;

    /// Waits for one datagram to be there, which loopback delivers before `send_to` returns.
    fn pair(listen: &str) -> (UdpSocket, UdpSocket) {
        let relay = UdpSocket::bind(listen).unwrap();
        tell_local_address(relay.as_fd()).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        (relay, client)
    }

    fn echo(batch: &mut Batch, socket: &UdpSocket) -> Vec<(usize, Result<(), i32>)> {
        batch.answer(|_, datagram, room| {
            let len = datagram.bytes.len().min(STUN_ANSWER_MAX);
            room[..len].copy_from_slice(&datagram.bytes[..len]);
            (datagram.whole && len > 0).then_some(len)
        });
        let mut done = Vec::new();
        batch.send(socket.as_fd(), |at, result| done.push((at, result.map_err(|e| e.raw_os_error().unwrap()))));
        done
    }

    #[test]
    fn a_batch_comes_whole_and_its_answers_leave_from_where_they_were_asked() {
        let (relay, client) = pair("0.0.0.0:0");
        let port = relay.local_addr().unwrap().port();
        let mut batch = Batch::new();
        assert_eq!(batch.receive(relay.as_fd()).unwrap(), 0, "nothing waits");
        for host in 1..=5 {
            client.send_to(&[host; 40], (Ipv4Addr::new(127, 0, 0, host), port)).unwrap();
        }
        assert_eq!(batch.receive(relay.as_fd()).unwrap(), 5);
        assert_eq!(echo(&mut batch, &relay).len(), 5);
        for host in 1..=5 {
            let mut answer = [0; 100];
            let (len, from) = client.recv_from(&mut answer).unwrap();
            assert_eq!((answer[0], len, from), (host, 40, (Ipv4Addr::new(127, 0, 0, host), port).into()));
        }
    }

    #[test]
    fn more_than_a_batch_waits_for_the_next() {
        let (relay, client) = pair("127.0.0.1:0");
        let to = relay.local_addr().unwrap();
        for n in 0..STUN_BATCH + 3 {
            client.send_to(&[n as u8; 20], to).unwrap();
        }
        let mut batch = Batch::new();
        assert_eq!(batch.receive(relay.as_fd()).unwrap(), STUN_BATCH);
        let done = echo(&mut batch, &relay);
        assert_eq!(done, (0..STUN_BATCH).map(|at| (at, Ok(()))).collect::<Vec<_>>());
        assert_eq!(batch.receive(relay.as_fd()).unwrap(), 3);
        assert_eq!(echo(&mut batch, &relay).len(), 3);
        assert_eq!(batch.receive(relay.as_fd()).unwrap(), 0);
        assert!(echo(&mut batch, &relay).is_empty(), "what was answered is not answered again");
    }

    #[test]
    fn what_is_too_long_is_cut_and_says_so_and_what_is_empty_is_no_answer() {
        let (relay, client) = pair("127.0.0.1:0");
        let to = relay.local_addr().unwrap();
        client.send_to(&[1; STUN_REQUEST_MAX + 1], to).unwrap();
        client.send_to(&[], to).unwrap();
        client.send_to(&[2; STUN_REQUEST_MAX], to).unwrap();
        let mut batch = Batch::new();
        assert_eq!(batch.receive(relay.as_fd()).unwrap(), 3);
        let mut seen = Vec::new();
        batch.answer(|at, datagram, _| {
            seen.push((at, datagram.bytes.len(), datagram.whole, datagram.from == client.local_addr().unwrap()));
            None
        });
        assert_eq!(seen, [(0, STUN_REQUEST_MAX, false, true), (1, 0, true, true), (2, STUN_REQUEST_MAX, true, true)]);
    }

    /// A socket that may not send to one of them (here: a port that is zero) serves the others.
    #[test]
    fn an_answer_that_cannot_be_sent_does_not_take_others_with_it() {
        let (relay, client) = pair("127.0.0.1:0");
        let to = relay.local_addr().unwrap();
        for n in 1..=3 {
            client.send_to(&[n; 20], to).unwrap();
        }
        let mut batch = Batch::new();
        assert_eq!(batch.receive(relay.as_fd()).unwrap(), 3);
        // The port has the same place in both families' addresses.
        batch.slots[1].peer.sin6_port = 0;
        assert_eq!(echo(&mut batch, &relay), [(0, Ok(())), (1, Err(libc::EINVAL)), (2, Ok(()))]);
    }

    #[test]
    fn a_socket_of_both_families_answers_ipv4_from_where_it_was_asked() {
        let Ok(relay) = UdpSocket::bind("[::]:0") else {
            eprintln!("LEFT OUT: this machine has no IPv6");
            return;
        };
        tell_local_address(relay.as_fd()).unwrap();
        let port = relay.local_addr().unwrap().port();
        let (_, client) = pair("127.0.0.1:0");
        client.send_to(&[9; 20], (Ipv4Addr::new(127, 0, 0, 77), port)).unwrap();
        let six = UdpSocket::bind("[::1]:0").unwrap();
        six.send_to(&[6; 20], (Ipv6Addr::LOCALHOST, port)).unwrap();
        let mut batch = Batch::new();
        assert_eq!(batch.receive(relay.as_fd()).unwrap(), 2);
        assert_eq!(echo(&mut batch, &relay), [(0, Ok(())), (1, Ok(()))]);
        let (_, from) = client.recv_from(&mut [0; 100]).unwrap();
        assert_eq!(from, (Ipv4Addr::new(127, 0, 0, 77), port).into());
        let (_, from) = six.recv_from(&mut [0; 100]).unwrap();
        assert_eq!(from, (Ipv6Addr::LOCALHOST, port).into());
    }
}
