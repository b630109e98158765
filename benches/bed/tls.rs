//! Both ends of a TLS 1.3 connection, made by a real handshake in memory.

use std::io::Read;
use std::sync::Arc;

use derpring::config::TlsMode;
use derpring::tls::handshake::{Handshake, Step};
use derpring::tls::identity;
use derpring::tls::{RecordLayer, Transport};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, ServerConfig, SignatureScheme, SupportedCipherSuite,
};

/// Makes connections of one suite to one server.
#[derive(Debug)]
pub struct Handshaker {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Handshaker {
    /// AES-128-GCM, the suite that Go's clients ask for first where the processor helps with AES.
    pub fn aes128() -> Self {
        Self::with(cipher_suite::TLS13_AES_128_GCM_SHA256)
    }

    fn with(suite: SupportedCipherSuite) -> Self {
        let mode = TlsMode::SelfSigned { hostname: "127.0.0.1".to_owned() };
        let server = identity::load(&mode, &[7; 32]).expect("a certificate can be made").expect("TLS is on").config;
        let provider = CryptoProvider { cipher_suites: vec![suite], ..default_provider() };
        let verifier = Arc::new(AnyCertificate(provider.signature_verification_algorithms));
        let mut client = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the suite is of TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        client.enable_secret_extraction = true;
        client.resumption = rustls::client::Resumption::disabled();
        Self { server, client: Arc::new(client) }
    }

    /// The relay's end and the client's.
    pub fn connect(&self) -> (Transport, Transport) {
        let name = ServerName::try_from("127.0.0.1").expect("an address is a name");
        let mut client = ClientConnection::new(self.client.clone(), name).expect("the client's configuration");
        let mut server = Handshake::new(self.server.clone()).expect("the server's configuration");
        let (mut up, mut down) = (Vec::new(), Vec::new());
        let relay = loop {
            while client.wants_write() {
                client.write_tls(&mut up).expect("a vector takes everything");
            }
            let step = server.advance(&mut up, &mut down).expect("the handshake");
            // The session ticket that may stand behind the handshake is read here too: records are counted from there.
            let mut unread = &down[..];
            while !unread.is_empty() {
                client.read_tls(&mut unread).expect("a slice gives everything");
                client.process_new_packets().expect("the handshake");
            }
            down.clear();
            if let Step::Done(established) = step {
                break established.transport;
            }
        };
        assert!(!client.is_handshaking() && up.is_empty() && client.reader().read(&mut [0]).is_err());
        let secrets = client.dangerous_extract_secrets().expect("extraction is allowed");
        let records = RecordLayer::new(secrets, None).expect("a suite of TLS 1.3");
        (relay, Transport::Tls13(Box::new(records)))
    }
}

/// Believes every server, but not without its signature.
#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
