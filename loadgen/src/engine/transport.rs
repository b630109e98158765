//! One connection: a non-blocking socket, with or without TLS.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::poller::Interest;
use super::transit;
use crate::derp::ws::WebSocket;
use crate::error::ConnError;
use crate::tls::record::{RecordLayer, StreamWriter};

/// Reads in a row from one connection, so that a fast one does not keep the others waiting.
const READS_PER_TURN: usize = 4;

pub struct Transport {
    stream: TcpStream,
    tls: Option<Box<RecordLayer>>,
    /// Set when the login is complete: until then, the login speaks for itself.
    pub websocket: Option<Box<WebSocket>>,
    /// The start of a record whose end has not come.
    carry: Vec<u8>,
    /// What the socket did not take.
    pending: Vec<u8>,
    /// What the poller was last told to watch.
    pub watched: Interest,
    /// Whether what arrives is read as soon as it does.
    pub reads: bool,
    /// Whether the kernel notes when it has what arrives.
    notes_arrivals: bool,
}

impl Transport {
    /// Begins to connect; the socket becomes writable when that is over.
    pub fn connect(addr: SocketAddr) -> Result<Self, ConnError> {
        let family = match addr {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        rustix::net::sockopt::set_tcp_nodelay(&socket, true)?;
        match rustix::net::connect(&socket, &addr) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(Self {
            stream: socket.into(),
            tls: None,
            websocket: None,
            carry: Vec::new(),
            pending: Vec::new(),
            watched: Interest::BOTH,
            reads: true,
            notes_arrivals: false,
        })
    }

    pub fn connected(&self) -> Result<(), ConnError> {
        match self.stream.take_error()? {
            Some(err) => Err(err.into()),
            None => Ok(()),
        }
    }

    /// Soon it is known when the kernel had what is received.
    pub fn note_arrivals(&mut self) -> Result<(), ConnError> {
        transit::note_arrivals(&self.stream)?;
        self.notes_arrivals = true;
        Ok(())
    }

    /// From here on everything is in records. `leftover` was received behind the handshake.
    pub fn start_tls(&mut self, records: RecordLayer, leftover: Vec<u8>) {
        self.tls = Some(Box::new(records));
        self.carry = leftover;
    }

    /// Hands on what has arrived, at most `limit` bytes of it. `buf` is any scratch space; the
    /// larger, the fewer system calls. With each piece goes the time at which the kernel had all of it, if that is
    /// noted.
    pub fn receive(
        &mut self,
        buf: &mut [u8],
        mut limit: usize,
        mut on_plain: impl FnMut(&[u8], Option<Instant>) -> Result<(), ConnError>,
    ) -> Result<(), ConnError> {
        for _ in 0..READS_PER_TURN {
            if limit == 0 {
                break;
            }
            let held = self.carry.len();
            buf[..held].copy_from_slice(&self.carry);
            let room = limit.min(buf.len() - held);
            let (read, arrived) = match self.read(&mut buf[held..held + room]) {
                Ok((0, _)) => return Err(ConnError::Closed),
                Ok(read) => read,
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => break,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                Err(err) => return Err(err.into()),
            };
            limit -= read;
            let full = read == room;
            let bytes = &mut buf[..held + read];
            let Self { websocket, tls, carry, .. } = self;
            let mut on_plain = |plain: &[u8]| match websocket {
                None => on_plain(plain, arrived),
                Some(websocket) => websocket.open(plain, &mut |plain: &[u8]| on_plain(plain, arrived)),
            };
            match tls {
                None => on_plain(bytes)?,
                Some(tls) => {
                    let used = tls.open(bytes, &mut on_plain)?;
                    carry.clear();
                    carry.extend_from_slice(&bytes[used..]);
                    if tls.is_closed() {
                        return Err(ConnError::Closed);
                    }
                }
            }
            if !full {
                break;
            }
        }
        Ok(())
    }

    /// Writes whatever `fill` puts, in one system call if the socket takes it. `scratch` is any
    /// empty buffer.
    pub fn write(&mut self, scratch: &mut Vec<u8>, fill: impl FnOnce(&mut StreamWriter<'_>)) -> Result<(), ConnError> {
        scratch.clear();
        self.write_behind(scratch, fill)
    }

    /// As `write`, but sends what `scratch` already holds ahead of it, as it is.
    pub fn write_behind(
        &mut self,
        scratch: &mut Vec<u8>,
        fill: impl FnOnce(&mut StreamWriter<'_>),
    ) -> Result<(), ConnError> {
        if let Some(websocket) = &mut self.websocket {
            // The length of a message goes ahead of it: a copy that only WebSockets pay for.
            let mut stream = Vec::new();
            let mut writer = StreamWriter::new(None, &mut stream)?;
            fill(&mut writer);
            writer.finish();
            let mut writer = StreamWriter::new(self.tls.as_deref_mut(), scratch)?;
            websocket.seal(&mut stream, |piece| writer.put(piece));
            writer.finish();
            return self.write_raw(scratch);
        }
        let mut writer = StreamWriter::new(self.tls.as_deref_mut(), scratch)?;
        fill(&mut writer);
        writer.finish();
        self.write_raw(scratch)
    }

    pub fn write_raw(&mut self, mut bytes: &[u8]) -> Result<(), ConnError> {
        if self.pending.is_empty() {
            let written = self.try_write(bytes)?;
            bytes = &bytes[written..];
        }
        self.pending.extend_from_slice(bytes);
        Ok(())
    }

    /// Tries again to write what the socket did not take.
    pub fn flush(&mut self) -> Result<(), ConnError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let pending = std::mem::take(&mut self.pending);
        let written = self.try_write(&pending)?;
        self.pending = pending;
        self.pending.drain(..written);
        Ok(())
    }

    /// The socket is full: more would only queue up here.
    pub fn is_blocked(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The relay waits for something that even an empty write brings.
    pub fn owes_write(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.owes_key_update())
            || self.websocket.as_ref().is_some_and(|websocket| websocket.owes_write())
    }

    fn read(&mut self, buf: &mut [u8]) -> io::Result<(usize, Option<Instant>)> {
        if self.notes_arrivals { transit::read(&self.stream, buf) } else { Ok((self.stream.read(buf)?, None)) }
    }

    fn try_write(&mut self, bytes: &[u8]) -> Result<usize, ConnError> {
        let mut written = 0;
        while written < bytes.len() {
            match self.stream.write(&bytes[written..]) {
                Ok(count) => written += count,
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => break,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err.into()),
            }
        }
        Ok(written)
    }
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
