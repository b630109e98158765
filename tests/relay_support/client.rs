//! A DERP client in the fewest words: it logs in, writes bytes, and cuts what comes into frames.

use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::frames::{self, Frame, Key, Public, frame, hex};
use super::process::Relay;
use super::wire::{End, Mode, Wire, connect_with};

/// A KeepAlive comes at least a minute behind the one before it or the login; a little less by another clock.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(55);

/// What a client says of itself when it comes.
#[derive(Clone)]
pub struct Visit<'a> {
    relay: PhantomData<&'a Relay>,
    addr: SocketAddr,
    public: Public,
    pub mode: Mode,
    pub key: Key,
    json: String,
    headers: String,
    from: Option<IpAddr>,
    receive: Option<usize>,
}

/// With a key of its own, in TLS 1.3 where the relay has TLS.
pub fn visit(relay: &Relay) -> Visit<'_> {
    visit_at(relay.addr, relay.public, if relay.tls { Mode::Tls13 } else { Mode::Plain })
}

/// Whichever relay is there.
pub fn visit_at<'a>(addr: SocketAddr, public: Public, mode: Mode) -> Visit<'a> {
    Visit {
        relay: PhantomData,
        addr,
        public,
        mode,
        key: Key::fresh(),
        json: r#"{"version":2,"CanAckPings":true}"#.to_owned(),
        headers: String::new(),
        from: None,
        receive: None,
    }
}

impl Visit<'_> {
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    pub fn key(mut self, key: &Key) -> Self {
        self.key = key.clone();
        self
    }

    /// The plaintext of ClientInfo.
    pub fn json(mut self, json: &str) -> Self {
        json.clone_into(&mut self.json);
        self
    }

    pub fn mesh(self, mesh_key: &str) -> Self {
        self.json(&format!(r#"{{"meshKey":"{mesh_key}","version":2}}"#))
    }

    /// A line of the request, without its end.
    pub fn header(mut self, line: &str) -> Self {
        self.headers.push_str(line);
        self.headers.push_str("\r\n");
        self
    }

    pub fn from(mut self, ip: IpAddr) -> Self {
        self.from = Some(ip);
        self
    }

    /// How much the kernel may take in for a client that does not read.
    pub fn receive_buffer(mut self, bytes: usize) -> Self {
        self.receive = Some(bytes);
        self
    }

    pub fn request(&self) -> Vec<u8> {
        let start = "GET /derp HTTP/1.1\r\nHost: relay.example\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n";
        format!("{start}{}\r\n", self.headers).into_bytes()
    }

    pub fn client_info(&self) -> Vec<u8> {
        static NONCE: AtomicU64 = AtomicU64::new(1);
        let nonce = frames::noise(NONCE.fetch_add(1, Ordering::Relaxed), 24).try_into().unwrap();
        self.key.client_info(&self.public, nonce, &self.json)
    }

    /// Connected, past the TLS handshake; nothing said.
    pub fn connect(&self) -> Client {
        let socket = connect_with(self.addr, self.from, self.receive)
            .unwrap_or_else(|e| panic!("expected {} to accept: {e}", self.addr));
        self.over(socket)
    }

    /// On a connection that is there already.
    pub fn over(&self, socket: TcpStream) -> Client {
        let since = Instant::now();
        let wire = Wire::over(socket, self.mode);
        Client { wire, key: self.key.clone(), relay: self.public, input: Vec::new(), at: 0, since, keep_alives: 0 }
    }

    pub fn log_in(&self) -> Client {
        self.log_in_on(self.connect())
    }

    pub fn log_in_on(&self, mut client: Client) -> Client {
        client.send(&self.request());
        client.expect_greeting();
        client.send(&self.client_info());
        client.expect_server_info();
        client
    }
}

/// What comes next on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Frame(Frame),
    /// With so many bytes of an unfinished frame before it.
    End(End, usize),
}

pub struct Client {
    pub wire: Wire,
    pub key: Key,
    relay: Public,
    input: Vec<u8>,
    at: usize,
    since: Instant,
    keep_alives: u32,
}

impl Client {
    pub fn public(&self) -> Public {
        self.key.public
    }

    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        self.wire.write(bytes).unwrap_or_else(|e| panic!("expected the relay to take {} bytes: {e}", bytes.len()));
    }

    #[track_caller]
    pub fn send_to(&mut self, to: &Public, data: &[u8]) {
        self.send(&frames::send_packet(to, data));
    }

    /// Sends any amount, and takes in what comes meanwhile.
    #[track_caller]
    pub fn pump(&mut self, bytes: &[u8]) {
        let result = self.wire.pump(bytes, &mut self.input);
        result.unwrap_or_else(|e| panic!("expected the relay to take {} bytes: {e}", bytes.len()));
    }

    /// Until `n` bytes are there that have not been taken. `Some`: they never will.
    fn fill(&mut self, n: usize) -> Option<End> {
        while self.input.len() - self.at < n {
            if self.at == self.input.len() || self.at > 1 << 20 {
                self.input.drain(..self.at);
                self.at = 0;
            }
            if let Some(end) = self.wire.read(&mut self.input) {
                return Some(end);
            }
        }
        None
    }

    fn rest(&self) -> &[u8] {
        &self.input[self.at..]
    }

    /// Waits for the next frame or the end. KeepAlives are passed over, but only as many as a client of its age gets.
    pub fn next(&mut self) -> Event {
        let keep_alive = Event::Frame(Frame { kind: frames::KEEP_ALIVE, payload: Vec::new() });
        loop {
            let event = self.next_event();
            if event != keep_alive || self.since.elapsed() < KEEP_ALIVE_EVERY * (self.keep_alives + 1) {
                return event;
            }
            self.keep_alives += 1;
        }
    }

    fn next_event(&mut self) -> Event {
        if let Some(end) = self.fill(5) {
            return Event::End(end, self.rest().len());
        }
        let kind = self.rest()[0];
        let len = u32::from_be_bytes(self.rest()[1..5].try_into().unwrap()) as usize;
        assert!(len <= 1 << 20, "the relay announced a {kind:#04x} of {len} bytes; clients take 1 MiB at most");
        if let Some(end) = self.fill(5 + len) {
            return Event::End(end, self.rest().len());
        }
        let payload = self.rest()[5..5 + len].to_vec();
        self.at += 5 + len;
        Event::Frame(Frame { kind, payload })
    }

    #[track_caller]
    pub fn frame(&mut self) -> Frame {
        match self.next() {
            Event::Frame(frame) => frame,
            Event::End(end, part) => panic!("expected a frame, got {end:?} behind {part} bytes of one"),
        }
    }

    /// The next frame is exactly these bytes.
    #[track_caller]
    pub fn expect(&mut self, bytes: &[u8]) {
        let got = self.next();
        let wanted = Frame { kind: bytes[0], payload: bytes[5..].to_vec() };
        assert_eq!(got, Event::Frame(wanted), "left: what came, right: what was expected");
    }

    /// Nothing but the end comes, at a frame border.
    #[track_caller]
    pub fn expect_end(&mut self) -> End {
        match self.next() {
            Event::End(end, 0) => end,
            other => panic!("expected the end of the connection, got {other:?}"),
        }
    }

    /// The end comes; frames before it are returned, an unfinished one is not.
    pub fn until_end(&mut self) -> (Vec<Frame>, End) {
        let mut frames = Vec::new();
        loop {
            match self.next() {
                Event::Frame(frame) => frames.push(frame),
                Event::End(end, _) => return (frames, end),
            }
        }
    }

    /// Sends a ping that no other is like; everything that came before its pong is returned. What the relay owes for
    /// earlier bytes of this connection has been decided by then; packets may still be on their way.
    #[track_caller]
    pub fn settle(&mut self) -> Vec<Frame> {
        static COUNT: AtomicU64 = AtomicU64::new(1 << 32);
        let data = COUNT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        self.send(&frames::ping(&data));
        let mut before = Vec::new();
        loop {
            match self.next() {
                Event::Frame(frame) if frame.bytes() == frames::pong(&data) => return before,
                Event::Frame(frame) => before.push(frame),
                end => panic!("expected a pong, got {end:?} after {before:?}"),
            }
        }
    }

    /// The connection works, and the relay has nothing to say but the pong.
    #[track_caller]
    pub fn expect_quiet(&mut self) {
        let before = self.settle();
        assert!(before.is_empty(), "expected nothing but a pong, got {before:?}");
    }

    /// The answer to the upgrade, and ServerKey.
    #[track_caller]
    pub fn expect_greeting(&mut self) {
        let head = self.expect_head();
        let wanted = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\nDerp-Version: 2\r\n\
             Derp-Public-Key: {}\r\n\r\n",
            hex(&self.relay)
        );
        assert_eq!(head, wanted, "the answer to the upgrade");
        self.expect_server_key();
    }

    #[track_caller]
    pub fn expect_server_key(&mut self) {
        self.expect(&frame(frames::SERVER_KEY, &[frames::MAGIC, &self.relay]));
    }

    #[track_caller]
    pub fn expect_server_info(&mut self) {
        let frame = self.frame();
        assert_eq!(frame.kind, frames::SERVER_INFO, "expected ServerInfo, got {frame:?}");
        let says = self.key.open_server_info(&self.relay, &frame.payload);
        assert_eq!(says.as_deref(), Some(r#"{"version":2}"#), "what ServerInfo says");
    }

    /// Everything until the end, as text.
    pub fn rest_of_it(&mut self) -> String {
        while self.fill(self.rest().len() + 1).is_none() {}
        String::from_utf8(self.rest().to_vec()).unwrap()
    }

    /// An HTTP head, its blank line included.
    #[track_caller]
    pub fn expect_head(&mut self) -> String {
        let mut n = 1;
        while !self.rest().windows(4).any(|w| w == b"\r\n\r\n") {
            n = n.max(self.rest().len() + 1);
            if let Some(end) = self.fill(n) {
                panic!("expected an HTTP answer, got {end:?} after {:?}", String::from_utf8_lossy(self.rest()));
            }
        }
        let len = self.rest().windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        let head = String::from_utf8(self.rest()[..len].to_vec()).unwrap();
        self.at += len;
        head
    }
}
