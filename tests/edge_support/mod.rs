//! A relay's edge with workers that only collect, and the client's side of a login.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crypto_box::aead::Aead;
use crypto_box::{PublicKey, SalsaBox, SecretKey};
use derpring::edge::{Backend, EdgeConfig, EdgeHandle, Stats, Workers, start};
use derpring::proto::key::NodeKey;
use derpring::proto::login::Keys;
use derpring::stats::CloseReason;
use derpring::worker::bridge::{Event, Handover, SessionEnd, Totals};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, SupportedProtocolVersion};

pub const PATIENCE: Duration = Duration::from_secs(10);
const SERVER_PRIVATE: [u8; 32] = [7; 32];

/// Workers that take what they get and keep it.
#[derive(Default)]
pub struct Collector {
    got: Mutex<VecDeque<Box<Handover>>>,
    news: Condvar,
    pub events: Mutex<VecDeque<Event>>,
    /// So many times the queue is full.
    pub refuse: AtomicUsize,
}

impl Collector {
    pub fn take(&self) -> Box<Handover> {
        let guard = self.got.lock().unwrap();
        let (mut got, late) = self.news.wait_timeout_while(guard, PATIENCE, |got| got.is_empty()).unwrap();
        assert!(!late.timed_out(), "no session was handed over");
        got.pop_front().unwrap()
    }

    pub fn is_empty(&self) -> bool {
        self.got.lock().unwrap().is_empty()
    }

    pub fn close(&self, session: Handover) {
        let end = SessionEnd {
            worker: 0,
            identity: session.identity,
            reason: CloseReason::PeerClosed,
            lived: Duration::ZERO,
            totals: Totals::default(),
        };
        self.events.lock().unwrap().push_back(Event::Closed(end));
    }
}

impl Workers for Collector {
    fn place(&self, key: &NodeKey) -> usize {
        usize::from(key.0[0])
    }

    fn adopt(&self, worker: usize, handover: Box<Handover>) -> Result<(), Box<Handover>> {
        assert_eq!(worker, self.place(&handover.identity.key));
        if self.refuse.load(Ordering::Relaxed) > 0 {
            self.refuse.fetch_sub(1, Ordering::Relaxed);
            return Err(handover);
        }
        self.got.lock().unwrap().push_back(handover);
        self.news.notify_all();
        Ok(())
    }

    fn ring(&self, _: usize) {}

    fn pop_event(&self) -> Option<Event> {
        self.events.lock().unwrap().pop_front()
    }
}

pub struct Relay {
    pub addr: SocketAddr,
    pub workers: Arc<Collector>,
    pub handle: EdgeHandle,
}

impl Relay {
    pub fn start(uring: bool, change: impl FnOnce(&mut EdgeConfig)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let mut config = EdgeConfig::new(vec![listener], Arc::new(Keys::new(SERVER_PRIVATE)));
        config.edges = 2;
        if !uring {
            config.use_uring = Err("not wanted".to_owned());
        }
        change(&mut config);
        let workers = Arc::new(Collector::default());
        let handle = start(config, workers.clone()).unwrap();
        match handle.backend() {
            Backend::Uring => assert!(uring),
            Backend::Tokio(why) if uring => eprintln!("io_uring is not to be had here: {why}"),
            Backend::Tokio(why) => assert_eq!(why, "not wanted"),
        }
        Self { addr, workers, handle }
    }

    pub fn connect(&self) -> TcpStream {
        patient(TcpStream::connect(self.addr).unwrap())
    }

    /// From another address of this machine.
    pub fn connect_from(&self, ip: &str) -> TcpStream {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let ip: IpAddr = ip.parse().unwrap();
        socket.bind(&SocketAddr::new(ip, 0).into()).unwrap();
        socket.connect(&self.addr.into()).unwrap();
        patient(socket.into())
    }

    pub fn sum(&self, count: impl Fn(&Stats) -> u64) -> u64 {
        self.handle.stats().iter().map(|stats| count(stats)).sum()
    }

    /// Waits for counters, which move a moment after what they count.
    pub fn wait(&self, what: &str, count: impl Fn(&Stats) -> u64, expected: u64) {
        let start = Instant::now();
        while self.sum(&count) != expected {
            assert!(start.elapsed() < PATIENCE, "{what}: {} and not {expected}", self.sum(&count));
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn wait_closed(&self, reason: CloseReason, expected: u64) {
        self.wait(reason.as_str(), |stats| stats.closed(reason), expected);
    }

    /// A login over plain HTTP.
    pub fn log_in(&self, mut stream: TcpStream) -> (TcpStream, Box<Handover>) {
        stream.write_all(&fast_start(&Client::new(1), &[])).unwrap();
        let mut session = self.workers.take();
        assert!(unsaid_key(&mut session), "one write for both");
        (stream, session)
    }
}

pub fn patient(stream: TcpStream) -> TcpStream {
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

pub struct Client {
    private: SecretKey,
    shared: SalsaBox,
}

impl Client {
    pub fn new(seed: u8) -> Self {
        let private = SecretKey::from([seed; 32]);
        let server = PublicKey::from(Keys::new(SERVER_PRIVATE).public().0);
        Self { shared: SalsaBox::new(&server, &private), private }
    }

    pub fn key(&self) -> NodeKey {
        NodeKey(*self.private.public_key().as_bytes())
    }

    pub fn client_info(&self, json: &[u8]) -> Vec<u8> {
        let nonce = [9; 24];
        let sealed = self.shared.encrypt((&nonce).into(), json).unwrap();
        let len = (32 + 24 + sealed.len()) as u32;
        [&[2][..], &len.to_be_bytes(), &self.key().0, &nonce, &sealed].concat()
    }

    /// What ServerInfo says.
    pub fn open(&self, greeting: &[u8]) -> Vec<u8> {
        assert_eq!(greeting[..5], [3, 0, 0, 0, (greeting.len() - 5) as u8]);
        let nonce: [u8; 24] = greeting[5..29].try_into().unwrap();
        self.shared.decrypt((&nonce).into(), &greeting[29..]).unwrap()
    }
}

pub const INFO: &[u8] = br#"{"version":2,"CanAckPings":true,"IsProber":true}"#;
pub const FAST_START: &[u8] =
    b"GET /derp HTTP/1.1\r\nHost: relay.test\r\nUser-Agent: Go-http-client/1.1\r\nConnection: Upgrade\r\n\
Derp-Fast-Start: 1\r\nIdeal-Node: 1a\r\nUpgrade: DERP\r\n\r\n";
pub const UPGRADE: &[u8] = b"GET /derp HTTP/1.1\r\nHost: relay.test\r\nConnection: Upgrade\r\nUpgrade: DERP\r\n\r\n";

/// Everything that a client that starts fast sends, `behind` included.
pub fn fast_start(client: &Client, behind: &[u8]) -> Vec<u8> {
    [FAST_START, &client.client_info(INFO), behind].concat()
}

pub fn server_key() -> Vec<u8> {
    Keys::new(SERVER_PRIVATE).server_key_frame().to_vec()
}

/// Whether ServerKey is left to the worker, in front of ServerInfo; if so, takes it from there.
pub fn unsaid_key(session: &mut Handover) -> bool {
    let info = session.greeting.strip_prefix(&server_key()[..]).map(<[u8]>::to_vec);
    let unsaid = info.is_some();
    session.greeting = info.unwrap_or_else(|| std::mem::take(&mut session.greeting));
    unsaid
}

pub fn switching() -> String {
    let key = Keys::new(SERVER_PRIVATE).public().to_hex();
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\
         Derp-Version: 2\r\nDerp-Public-Key: {key}\r\n\r\n"
    )
}

pub fn expect(stream: &mut impl Read, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(bytes));
}

/// Until the relay ends the connection, in whatever way.
pub fn read_to_end(stream: &mut TcpStream) -> String {
    let mut got = Vec::new();
    let mut buf = [0; 4096];
    loop {
        match stream.read(&mut buf) {
            Ok(0) => break,
            Ok(n) => got.extend_from_slice(&buf[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("the relay does not end this: {error}"),
        }
    }
    String::from_utf8_lossy(&got).into_owned()
}

pub struct Pki {
    cert: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Pki {
    pub fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["relay.test".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        Self { cert: made.cert.der().clone(), key }
    }

    pub fn server(&self) -> Arc<ServerConfig> {
        self.server_with_tickets(2)
    }

    pub fn server_with_tickets(&self, tickets: usize) -> Arc<ServerConfig> {
        let chain = vec![self.cert.clone()];
        let mut config =
            ServerConfig::builder().with_no_client_auth().with_single_cert(chain, self.key.clone_key()).unwrap();
        config.enable_secret_extraction = true;
        config.send_tls13_tickets = tickets;
        Arc::new(config)
    }

    /// One that speaks only this version.
    pub fn server_of(&self, version: &'static SupportedProtocolVersion) -> Arc<ServerConfig> {
        let config = ServerConfig::builder_with_protocol_versions(&[version]).with_no_client_auth();
        let mut config = config.with_single_cert(vec![self.cert.clone()], self.key.clone_key()).unwrap();
        config.enable_secret_extraction = true;
        Arc::new(config)
    }

    pub fn client(&self, version: &'static SupportedProtocolVersion) -> ClientConnection {
        client_of(self.client_config(version))
    }

    /// The client's keys can be had.
    pub fn client_config(&self, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.cert.clone()).unwrap();
        let config = ClientConfig::builder_with_protocol_versions(&[version]).with_root_certificates(roots);
        let mut config = config.with_no_client_auth();
        config.enable_secret_extraction = true;
        Arc::new(config)
    }
}

pub fn client_of(config: Arc<ClientConfig>) -> ClientConnection {
    ClientConnection::new(config, ServerName::try_from("relay.test").unwrap()).unwrap()
}

/// Hands the client what the relay sent.
pub fn deliver(tls: &mut ClientConnection, mut wire: &[u8]) {
    while !wire.is_empty() {
        tls.read_tls(&mut wire).unwrap();
        tls.process_new_packets().unwrap();
    }
}

/// What the client wants to send now.
pub fn flight(tls: &mut ClientConnection) -> Vec<u8> {
    let mut out = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut out).unwrap();
    }
    out
}

/// Reads until the client has `n` bytes of plaintext or, for zero, wants to answer.
pub fn tls_read(tls: &mut ClientConnection, stream: &mut TcpStream, n: usize) -> Vec<u8> {
    let mut plain = Vec::new();
    loop {
        let mut buf = [0; 4096];
        match tls.reader().read(&mut buf) {
            Ok(got) => plain.extend_from_slice(&buf[..got]),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
        if (n > 0 && plain.len() >= n) || (n == 0 && tls.wants_write()) {
            return plain;
        }
        assert_ne!(tls.read_tls(stream).unwrap(), 0, "the relay ended the connection");
        tls.process_new_packets().unwrap();
    }
}
