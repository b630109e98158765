//! Certificates that are replaced while clients are connected.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned};

use super::place::{Place, Reloading};
use crate::relay_support::ground::PATIENCE;
use crate::relay_support::process::command;
use crate::relay_support::*;

const NAME: &str = "relay.example";

#[test]
fn a_new_certificate_is_seen_and_old_connections_stay() {
    let place = Place::new();
    let first = pair(&place, NAME);
    let text = format!("hostname = [\"{NAME}\"]\ncert.mode = \"manual\"\n");
    let mut relay = place.start(&text, &[]);
    let address = relay.relay.addr;
    let mut open = Https::open(address);
    assert_eq!(open.leaf, first);
    assert!(open.get("/derp/probe").starts_with("HTTP/1.1 200"));

    let second = pair(&place, NAME);
    relay.wait("a client to see the new certificate", |_| Https::open(address).leaf == second);
    relay.relay.expect_line("certificates=\"relay.example\"");
    assert!(open.get("/derp/probe").starts_with("HTTP/1.1 200"), "the open connection goes on");

    // A pair that cannot be used stays as it was, while the rest of the configuration counts.
    fs::write(place.path("relay.example.key"), "nonsense").unwrap();
    relay.wait("a refusal", |relay| relay.reloads().1 == 1);
    let line = relay.relay.expect_line("reloaded but for certificates, which stay");
    assert!(line.contains("relay.example.key"), "{line}");
    place.write(&format!("max_clients = 9\n{text}"));
    relay.wait("the new limit", |relay| relay.metric("derpring_clients_limit") == 9.0);
    assert_eq!(Https::open(address).leaf, second);
    assert!(open.get("/derp/probe").starts_with("HTTP/1.1 200"));

    let third = pair(&place, NAME);
    relay.wait("it to be mended", |_| Https::open(address).leaf == third);
}

/// derper's command line has no file of its own, and its certificates are read again all the same.
#[test]
fn under_derpers_command_line_too() {
    let place = Place::new();
    let first = pair(&place, NAME);
    let args = [
        "derper".to_owned(),
        "-a=127.0.0.1:0".to_owned(),
        "-certmode=manual".to_owned(),
        format!("-hostname={NAME}"),
        format!("-certdir={}", place.dir.path().display()),
        format!("-c={}", place.path("derper.key").display()),
        "-stun=false".to_owned(),
        "-http-port=-1".to_owned(),
    ];
    let admin = format!("unix:{}", place.path("admin").display());
    let relay = Relay::spawn(command().args(args).env("DERPRING_ADMIN_LISTEN", admin));
    let mut relay = Reloading::of(relay, place.path("admin"));
    let address = relay.relay.addr;
    assert_eq!(Https::open(address).leaf, first);
    let second = pair(&place, NAME);
    relay.wait("a client to see the new certificate", |_| Https::open(address).leaf == second);
    relay.hangup();
    assert!(relay.relay.is_running(), "derper dies of this");
}

/// A new pair of files in the relay's directory; the certificate.
fn pair(place: &Place, name: &str) -> Vec<u8> {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    for (extension, text) in [("key", made.signing_key.serialize_pem()), ("crt", made.cert.pem())] {
        let (new, file) = (place.path("new"), place.path(&format!("{name}.{extension}")));
        fs::write(&new, text).unwrap();
        fs::rename(new, file).unwrap();
    }
    made.cert.der().to_vec()
}

/// A connection that takes whatever certificate it is shown, and remembers it.
struct Https {
    stream: StreamOwned<ClientConnection, TcpStream>,
    leaf: Vec<u8>,
}

impl Https {
    fn open(address: SocketAddr) -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let seen = Arc::new(Seen { provider: Arc::clone(&provider), leaf: Mutex::default() });
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.dangerous().with_custom_certificate_verifier(seen.clone()).with_no_client_auth();
        let name = ServerName::try_from(NAME).unwrap();
        let mut tls = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut tcp = TcpStream::connect(address).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        while tls.is_handshaking() {
            tls.complete_io(&mut tcp).unwrap();
        }
        let leaf = seen.leaf.lock().unwrap().clone();
        Self { stream: StreamOwned::new(tls, tcp), leaf }
    }

    /// The head of an answer, on the same connection each time.
    fn get(&mut self, path: &str) -> String {
        write!(self.stream, "GET {path} HTTP/1.1\r\nHost: {NAME}\r\n\r\n").unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        String::from_utf8(head).unwrap()
    }
}

#[derive(Debug)]
struct Seen {
    provider: Arc<CryptoProvider>,
    leaf: Mutex<Vec<u8>>,
}

impl ServerCertVerifier for Seen {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        *self.leaf.lock().unwrap() = leaf.to_vec();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
