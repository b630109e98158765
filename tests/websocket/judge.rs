//! A DERP client on top of tungstenite, which refuses whatever RFC 6455 forbids a server.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;

use rustls::{ClientConnection, StreamOwned};
use tungstenite::client::ClientRequestBuilder;
use tungstenite::error::ProtocolError;
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::Frame as WsFrame;
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::{Error, Message, WebSocket};

use crate::relay_support::frames::{self, Frame, Key, Public};
use crate::relay_support::wire::{connect_with, is_reset};
use crate::relay_support::*;

/// What Go's WebSocket library takes in one message unless told otherwise, and Tailscale's client does not tell it.
const CLIENTS_TAKE: usize = 32 * 1024;

pub enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buf),
            Self::Tls(tls) => tls.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(buf),
            Self::Tls(tls) => tls.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Tls(tls) => tls.flush(),
        }
    }
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    Frame(Frame),
    Pong(Vec<u8>),
    /// A Close frame, which tungstenite answers when it is asked for more.
    Close(Option<u16>),
    /// The connection is over. Clean: both had said Close.
    End {
        clean: bool,
    },
}

pub struct Judge {
    pub ws: WebSocket<Stream>,
    pub key: Key,
    relay: Public,
    input: Vec<u8>,
}

impl Judge {
    pub fn log_in(relay: &Relay, mode: Mode) -> Self {
        Self::log_in_with(relay, mode, None)
    }

    /// `receive`: bytes that the kernel may take in for a test that does not read.
    pub fn log_in_with(relay: &Relay, mode: Mode, receive: Option<usize>) -> Self {
        let mut judge = Self::open(relay, mode, receive);
        judge.expect(&frames::frame(frames::SERVER_KEY, &[frames::MAGIC, &judge.relay]));
        let client_info = visit(relay).key(&judge.key).client_info();
        judge.send(&client_info);
        let Heard::Frame(Frame { kind: frames::SERVER_INFO, payload }) = judge.next() else {
            panic!("expected ServerInfo");
        };
        let says = judge.key.open_server_info(&judge.relay, &payload);
        assert_eq!(says.as_deref(), Some(r#"{"version":2}"#), "what ServerInfo says");
        judge
    }

    fn open(relay: &Relay, mode: Mode, receive: Option<usize>) -> Self {
        let socket = connect_with(relay.addr, None, receive).unwrap();
        let wire = Wire::over(socket, mode);
        let stream = match wire.tls {
            Some(tls) => Stream::Tls(Box::new(StreamOwned::new(*tls, wire.socket))),
            None => Stream::Plain(wire.socket),
        };
        let address = format!("ws://{}/derp", relay.addr).parse().unwrap();
        let request = ClientRequestBuilder::new(address).with_sub_protocol("derp");
        let (ws, answer) = tungstenite::client(request, stream).unwrap_or_else(|e| panic!("expected a WebSocket: {e}"));
        assert_eq!(answer.headers().get("sec-websocket-protocol").map(|value| value.as_bytes()), Some(&b"derp"[..]));
        assert_eq!(answer.headers().get("sec-websocket-extensions"), None);
        Self { ws, key: Key::fresh(), relay: relay.public, input: Vec::new() }
    }

    pub fn public(&self) -> Public {
        self.key.public
    }

    /// Sends bytes as one message.
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        let sent = self.ws.send(Message::binary(bytes.to_vec()));
        sent.unwrap_or_else(|e| panic!("expected the relay to take {} bytes: {e}", bytes.len()));
    }

    #[track_caller]
    pub fn send_to(&mut self, to: &Public, data: &[u8]) {
        self.send(&frames::send_packet(to, data));
    }

    /// Sends a fragment of a message.
    #[track_caller]
    pub fn send_fragment(&mut self, bytes: &[u8], first: bool, last: bool) {
        self.try_send_fragment(bytes, first, last).unwrap();
    }

    pub fn try_send_fragment(&mut self, bytes: &[u8], first: bool, last: bool) -> tungstenite::Result<()> {
        let opcode = OpCode::Data(if first { Data::Binary } else { Data::Continue });
        self.ws.send(Message::Frame(WsFrame::message(bytes.to_vec(), opcode, last)))
    }

    /// Asks for the end with this code.
    pub fn close(&mut self, code: u16) {
        self.ws.close(Some(CloseFrame { code: CloseCode::from(code), reason: "enough".into() })).unwrap();
    }

    #[track_caller]
    pub fn next(&mut self) -> Heard {
        loop {
            if let Some(frame) = self.take_frame() {
                return Heard::Frame(frame);
            }
            match self.ws.read() {
                Ok(Message::Binary(bytes)) => {
                    assert!(bytes.len() <= CLIENTS_TAKE, "a message of {} bytes, more than clients take", bytes.len());
                    self.input.extend_from_slice(&bytes);
                }
                Ok(Message::Pong(data)) => return Heard::Pong(data.to_vec()),
                Ok(Message::Close(frame)) => return Heard::Close(frame.map(|frame| frame.code.into())),
                Ok(other) => panic!("the relay sent {other:?}"),
                Err(Error::ConnectionClosed | Error::AlreadyClosed) => return Heard::End { clean: true },
                Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => {
                    return Heard::End { clean: false };
                }
                // The latter under TLS, where the relay had no room to say that it ends.
                Err(Error::Io(e)) if is_reset(&e) || e.kind() == ErrorKind::UnexpectedEof => {
                    return Heard::End { clean: false };
                }
                Err(e) => panic!("expected something from the relay, got {e}"),
            }
        }
    }

    fn take_frame(&mut self) -> Option<Frame> {
        let len: [u8; 4] = self.input.get(1..5)?.try_into().unwrap();
        let end = 5 + u32::from_be_bytes(len) as usize;
        let payload = self.input.get(5..end)?.to_vec();
        let kind = self.input[0];
        self.input.drain(..end);
        Some(Frame { kind, payload })
    }

    #[track_caller]
    pub fn frame(&mut self) -> Frame {
        match self.next() {
            Heard::Frame(frame) => frame,
            other => panic!("expected a frame, got {other:?}"),
        }
    }

    /// The next frame is exactly these bytes.
    #[track_caller]
    pub fn expect(&mut self, bytes: &[u8]) {
        let wanted = Heard::Frame(Frame { kind: bytes[0], payload: bytes[5..].to_vec() });
        assert_eq!(self.next(), wanted, "left: what came, right: what was expected");
    }

    /// The connection works, and the relay has nothing to say but the pong.
    #[track_caller]
    pub fn expect_quiet(&mut self) {
        self.send(&frames::ping(b"quietly?"));
        self.expect(&frames::pong(b"quietly?"));
    }

    /// A Close with this code comes next, and behind our answer the end.
    #[track_caller]
    pub fn expect_close(&mut self, code: u16) {
        assert_eq!(self.next(), Heard::Close(Some(code)));
        assert!(matches!(self.next(), Heard::End { .. }));
    }
}

/// The same relay with TLS and without, and each way of reaching them.
pub fn relays(ground: Ground, args: &[&str]) -> [(Relay, &'static [Mode]); 2] {
    [
        (Relay::start(ground, args), &[Mode::Plain][..]),
        (Relay::start_tls(ground, args), &[Mode::Tls12, Mode::Tls13][..]),
    ]
}
