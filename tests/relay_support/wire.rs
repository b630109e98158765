//! One connection as bytes: plain, or TLS with rustls' client driven by hand.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};
use socket2::{Domain, SockRef, Socket, Type};

use super::ground::PATIENCE;
use super::process::Relay;

/// What the frames travel in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Plain,
    Tls12,
    Tls13,
}

impl Mode {
    pub const ALL: [Self; 3] = [Self::Plain, Self::Tls12, Self::Tls13];
}

/// How the relay ended a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// End of the stream; under TLS without a word.
    Fin,
    CloseNotify,
    /// A fatal alert.
    Alert(rustls::AlertDescription),
    Reset,
}

pub struct Wire {
    pub socket: TcpStream,
    pub tls: Option<Box<ClientConnection>>,
    ended: Option<End>,
}

impl Wire {
    /// Connected, and past the handshake under TLS.
    pub fn open(relay: &Relay, mode: Mode) -> Self {
        Self::over(connect(relay.addr, None).unwrap(), mode)
    }

    pub fn over(socket: TcpStream, mode: Mode) -> Self {
        let tls = (mode != Mode::Plain).then(|| Box::new(client(mode)));
        let mut wire = Self { socket, tls, ended: None };
        while wire.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
            wire.flush().unwrap();
            wire.feed().unwrap();
            assert_eq!(wire.ended, None, "expected a TLS handshake");
        }
        // The last flight of the client.
        wire.flush().unwrap();
        wire
    }

    /// Sends `bytes`, under TLS as one record where they fit.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sealed = self.seal(bytes);
        self.socket.write_all(&sealed)
    }

    /// What [`Self::write`] would send.
    pub fn seal(&mut self, bytes: &[u8]) -> Vec<u8> {
        let Some(tls) = &mut self.tls else { return bytes.to_vec() };
        tls.writer().write_all(bytes).unwrap();
        let mut sealed = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut sealed).unwrap();
        }
        sealed
    }

    /// Sends `bytes`, however many, and takes in what comes meanwhile: neither side can be kept waiting by the other.
    pub fn pump(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let sealed = self.seal(bytes);
        self.socket.set_nonblocking(true)?;
        let result = self.pump_sealed(&sealed, out);
        self.socket.set_nonblocking(false)?;
        result
    }

    fn pump_sealed(&mut self, mut sealed: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        while !sealed.is_empty() {
            let socket = self.socket.try_clone()?;
            let mut fds = [PollFd::new(&socket, PollFlags::IN | PollFlags::OUT)];
            poll(&mut fds, Some(&Timespec::try_from(PATIENCE).unwrap()))?;
            let ready = fds[0].revents();
            assert!(!ready.is_empty(), "expected the relay to take or give something within {PATIENCE:?}");
            if ready.contains(PollFlags::OUT) {
                match self.socket.write(sealed) {
                    Ok(n) => sealed = &sealed[n..],
                    Err(e) if is_timeout(&e) => {}
                    Err(e) => return Err(e),
                }
            }
            if ready.contains(PollFlags::IN) {
                self.take_in(out)?;
            }
        }
        Ok(())
    }

    fn take_in(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        if self.tls.is_none() {
            let mut buf = [0; 64 * 1024];
            return match self.socket.read(&mut buf) {
                Ok(n) => {
                    out.extend_from_slice(&buf[..n]);
                    Ok(())
                }
                Err(e) if is_timeout(&e) => Ok(()),
                Err(e) => Err(e),
            };
        }
        match self.feed() {
            Err(e) if !is_timeout(&e) => return Err(e),
            _ => {}
        }
        while self.take(out).is_some_and(|n| n > 0) {}
        Ok(())
    }

    /// Sends bytes as they are, beside TLS.
    pub fn write_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes)
    }

    /// Appends what has come to `out`; waits for at least a byte. `Some`: nothing comes any more.
    pub fn read(&mut self, out: &mut Vec<u8>) -> Option<End> {
        loop {
            if self.take(out).is_some_and(|n| n > 0) {
                return None;
            }
            if let Some(end) = &self.ended {
                return Some(end.clone());
            }
            if self.tls.is_none() {
                return self.read_plain(out);
            }
            match self.feed() {
                Ok(()) => {}
                Err(e) if is_timeout(&e) => panic!("expected something from the relay within {PATIENCE:?}"),
                Err(e) => panic!("expected bytes or an end, got {e}"),
            }
        }
    }

    fn read_plain(&mut self, out: &mut Vec<u8>) -> Option<End> {
        let mut buf = [0; 64 * 1024];
        match self.socket.read(&mut buf) {
            Ok(0) => self.ended = Some(End::Fin),
            Ok(n) => {
                out.extend_from_slice(&buf[..n]);
                return None;
            }
            Err(e) if is_timeout(&e) => panic!("expected something from the relay within {PATIENCE:?}"),
            Err(e) if is_reset(&e) => self.ended = Some(End::Reset),
            Err(e) => panic!("expected bytes or an end, got {e}"),
        }
        self.ended.clone()
    }

    /// Moves opened bytes to `out`.
    fn take(&mut self, out: &mut Vec<u8>) -> Option<usize> {
        let tls = self.tls.as_mut()?;
        let mut buf = [0; 64 * 1024];
        match tls.reader().read(&mut buf) {
            Ok(0) => {
                self.ended.get_or_insert(End::CloseNotify);
                Some(0)
            }
            Ok(n) => {
                out.extend_from_slice(&buf[..n]);
                Some(n)
            }
            Err(_) => None,
        }
    }

    /// One read of the socket under TLS, and what rustls has to say to it.
    fn feed(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        match tls.read_tls(&mut self.socket) {
            Ok(0) => {
                self.ended.get_or_insert(End::Fin);
                return Ok(());
            }
            Ok(_) => {}
            Err(e) if is_reset(&e) => {
                self.ended.get_or_insert(End::Reset);
                return Ok(());
            }
            Err(e) => return Err(e),
        }
        match tls.process_new_packets() {
            Ok(_) => {}
            Err(rustls::Error::AlertReceived(alert)) => {
                self.ended.get_or_insert(End::Alert(alert));
            }
            Err(e) => panic!("expected TLS from the relay, got {e}"),
        }
        // An answer of TLS itself, such as a key update. A relay that has closed does not want it.
        let _ = self.flush();
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let sealed = self.seal(&[]);
        self.socket.write_all(&sealed)
    }

    pub fn local_port(&self) -> u16 {
        self.socket.local_addr().unwrap().port()
    }
}

/// From a loopback address of the test's choice, if given.
pub fn connect(to: SocketAddr, from: Option<IpAddr>) -> io::Result<TcpStream> {
    connect_with(to, from, None)
}

/// `receive`: bytes that the kernel may take in for a test that does not read.
pub fn connect_with(to: SocketAddr, from: Option<IpAddr>, receive: Option<usize>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM.cloexec(), None)?;
    if let Some(from) = from {
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    if let Some(bytes) = receive {
        socket.set_recv_buffer_size(bytes)?;
    }
    socket.connect_timeout(&to.into(), PATIENCE)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket.into())
}

/// Closes with a reset.
pub fn reset(socket: TcpStream) {
    SockRef::from(&socket).set_linger(Some(std::time::Duration::ZERO)).unwrap();
}

pub fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

pub fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

fn client(mode: Mode) -> ClientConnection {
    static CONFIGS: OnceLock<[Arc<ClientConfig>; 2]> = OnceLock::new();
    let configs = CONFIGS.get_or_init(|| [&rustls::version::TLS12, &rustls::version::TLS13].map(config));
    let config = configs[usize::from(mode == Mode::Tls13)].clone();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut conn = ClientConnection::new(config, name).unwrap();
    conn.set_buffer_limit(None);
    conn
}

fn config(version: &'static rustls::SupportedProtocolVersion) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[version]).unwrap();
    let mut config =
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider))).with_no_client_auth();
    // Each connection stands for another machine.
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}

/// The relay's certificate is not what these tests are about; its signatures are checked all the same.
#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
