//! One connection's bytes between its socket and its login.

use std::net::Shutdown;
use std::rc::Rc;

use super::guests::Guest;
use super::host::Stream;
use crate::limits;
use crate::proto::ws::{self, CloseCode, Unframer};
use crate::stats::CloseReason;
use crate::tls::{Flow, TlsFault, Transport};

pub(super) struct Wire<S> {
    pub guest: Rc<Guest<S>>,
    pub transport: Transport,
    /// From the socket, not opened.
    pub wire_in: Vec<u8>,
    /// Opened, not used. With a WebSocket, what its messages carried.
    pub plain_in: Vec<u8>,
    /// Cuts what is opened into messages, once the connection is a WebSocket.
    pub websocket: Option<Box<Unframer>>,
    /// To the socket, sealed. Sent before each read, so that what is said together leaves together.
    pub out: Vec<u8>,
    /// The peer has said that nothing follows.
    pub closed: bool,
}

impl<S: Stream> Wire<S> {
    pub fn new(guest: Rc<Guest<S>>) -> Self {
        Self {
            guest,
            transport: Transport::Plain,
            wire_in: Vec::new(),
            plain_in: Vec::new(),
            websocket: None,
            out: Vec::new(),
            closed: false,
        }
    }

    /// Waits for more in `plain_in`.
    pub async fn fill(&mut self) -> Result<(), CloseReason> {
        if self.closed {
            return Err(CloseReason::PeerClosed);
        }
        self.read().await?;
        self.open().await
    }

    /// Waits for more in `wire_in`.
    pub async fn read(&mut self) -> Result<(), CloseReason> {
        self.flush().await?;
        let (result, buf) = self.guest.stream.read(std::mem::take(&mut self.wire_in)).await;
        self.wire_in = buf;
        match (self.guest.cut(), result) {
            (Some(reason), _) => Err(reason),
            (None, Ok(0)) => Err(CloseReason::PeerClosed),
            (None, Ok(_)) => Ok(()),
            (None, Err(_)) => Err(CloseReason::PeerReset),
        }
    }

    /// Moves what has come from `wire_in` to `plain_in`.
    pub async fn open(&mut self) -> Result<(), CloseReason> {
        let mut messages = Vec::new();
        let plain = if self.websocket.is_some() { &mut messages } else { &mut self.plain_in };
        match self.transport.open_into(&mut self.wire_in, plain) {
            Ok(flow) => self.closed |= flow == Flow::Closed,
            Err(fault) => {
                self.part(Some(fault)).await;
                return Err(CloseReason::BadRecord);
            }
        }
        self.unframe(messages).await
    }

    /// Both directions are WebSocket messages from here on, what has come behind the request included.
    pub async fn begin_websocket(&mut self) -> Result<(), CloseReason> {
        self.websocket = Some(Box::default());
        let messages = std::mem::take(&mut self.plain_in);
        self.unframe(messages).await
    }

    async fn unframe(&mut self, mut messages: Vec<u8>) -> Result<(), CloseReason> {
        let Some(unframer) = &mut self.websocket else { return Ok(()) };
        let mut at = 0;
        let (reason, code) = loop {
            match unframer.next(&mut messages, at) {
                ws::Step::Data { start, end } => {
                    self.plain_in.extend_from_slice(&messages[start..end]);
                    at = end;
                }
                ws::Step::Ping { used } => at = used,
                ws::Step::Need => {
                    if !unframer.owes_pong() {
                        return Ok(());
                    }
                    let sealed = self.transport.seal_into(unframer.pong(), &mut self.out);
                    unframer.forget_pong();
                    return sealed.map_err(|_| CloseReason::Internal);
                }
                ws::Step::Closed { code } => break (CloseReason::PeerClosed, code),
                ws::Step::Forbidden(code) => break (CloseReason::BadWebSocket, Some(code as u16)),
            }
        };
        self.end_websocket(code).await;
        Err(reason)
    }

    /// Says the last words of a WebSocket.
    pub async fn end_websocket(&mut self, code: Option<u16>) {
        self.websocket = None;
        let _ = self.say(&ws::close(code));
        self.part(None).await;
    }

    pub fn say(&mut self, data: &[u8]) -> Result<(), CloseReason> {
        if self.websocket.is_some() {
            let (header, len) = ws::header(data.len());
            self.seal(&header[..len])?;
        }
        self.seal(data)
    }

    fn seal(&mut self, data: &[u8]) -> Result<(), CloseReason> {
        self.transport.seal_into(data, &mut self.out).map_err(|_| CloseReason::Internal)
    }

    pub async fn flush(&mut self) -> Result<(), CloseReason> {
        if self.out.is_empty() {
            return Ok(());
        }
        let (result, mut buf) = self.guest.stream.write_all(std::mem::take(&mut self.out)).await;
        buf.clear();
        self.out = buf;
        match (self.guest.cut(), result) {
            (Some(reason), _) => Err(reason),
            (None, Ok(())) => Ok(()),
            (None, Err(_)) => Err(CloseReason::WriteError),
        }
    }

    /// Says the last words; the other direction stays open.
    pub async fn part(&mut self, fault: Option<TlsFault>) {
        if self.websocket.take().is_some() {
            let _ = self.seal(&ws::close(Some(CloseCode::Normal as u16)));
        }
        self.transport.farewell(fault, &mut self.out);
        if self.flush().await.is_ok() {
            self.guest.stream.shutdown(Shutdown::Write);
        }
    }

    /// Reads what still comes and throws it away. Closing on unread bytes would be a reset, which can overtake our
    /// last words. The caller has set a short deadline.
    pub async fn linger(&mut self) {
        let mut left = limits::LINGER_BYTES;
        while left > 0 && self.guest.cut().is_none() {
            self.wire_in.clear();
            let (result, buf) = self.guest.stream.read(std::mem::take(&mut self.wire_in)).await;
            self.wire_in = buf;
            match result {
                Ok(n @ 1..) => left = left.saturating_sub(n),
                _ => return,
            }
        }
    }
}
