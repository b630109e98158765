//! TLS: records of both versions that a stranger has spoilt, and handshakes.

use std::io::{Read, Write};
use std::sync::{Arc, OnceLock};

use derpring::config::TlsMode;
use derpring::limits::HANDSHAKE_IN_MAX;
use derpring::tls::handshake::{Handshake, Step};
use derpring::tls::record::{APPLICATION_DATA, MAX_RECORD};
use derpring::tls::{Flow, Opened, RecordLayer, TlsFault, Transport, identity};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::crypto::cipher::{AeadKey, Iv};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, ConnectionTrafficSecrets, DigitallySignedStruct, Error, ExtractedSecrets,
    ServerConfig, SignatureScheme,
};

use super::Choices;

/// TLS 1.3 records: what was sealed comes out, and nothing that was changed on the way does.
///
/// The input: what happens to each of some records, then bytes that nobody sealed.
pub fn record(data: &[u8]) {
    let mut choices = Choices(data);
    let (mut relay, mut client) = (layer(1, 2), layer(2, 1));
    let mut sealed = 0_u8;
    for _ in 0..choices.byte() % 8 {
        let what = choices.byte();
        let content = if what & 0x80 == 0 { APPLICATION_DATA } else { choices.byte() };
        let len = choices.word() % 300;
        let message = choices.bytes(len);
        let (mut wire, mut plain) = (Vec::new(), [0; 512]);
        client.seal_message(content, message, &mut wire).expect("the client's records");
        // Zeros behind the content type are padding, so a type of zero is none.
        let inner = [message, &[content]].concat();
        let padding = inner.iter().rev().take_while(|byte| **byte == 0).count();
        let inner = inner[..inner.len() - padding].split_last();
        let data = inner.filter(|(content, _)| **content == APPLICATION_DATA).map(|(_, data)| data);
        sealed += 1;
        match what & 3 {
            0 => {}
            1 => {
                let at = choices.word() % wire.len();
                wire[at] ^= 1 << (what >> 2 & 7);
                let opened = relay.open(&wire, &mut plain);
                assert!(matches!(opened, Err(_) | Ok(Opened::Need)), "a changed record opened: {opened:?}");
                return;
            }
            2 => {
                wire.truncate(choices.word() % wire.len());
                assert_eq!(relay.open(&wire, &mut plain), Ok(Opened::Need), "a part of a record");
                return;
            }
            _ => wire.extend_from_slice(choices.bytes(7)),
        }
        match relay.open(&wire, &mut plain) {
            Ok(Opened::Data { len, used }) => {
                assert!(used <= wire.len() && len <= used);
                assert_eq!(Some(&plain[..len]), data);
            }
            Ok(Opened::Control { .. }) => assert_eq!(data, None, "data was taken for something else"),
            Ok(Opened::Closed) | Err(_) => {
                assert!(data.is_none() || sealed > 1, "an untouched record was refused");
                return;
            }
            Ok(Opened::Need) => panic!("the record is whole"),
        }
    }
    let wire = choices.0;
    let opened = relay.open(wire, &mut vec![0; wire.len()]);
    assert!(matches!(opened, Ok(Opened::Need) | Err(_)), "what nobody sealed opened: {opened:?}");
    assert!(opened != Ok(Opened::Need) || wire.len() < MAX_RECORD, "waiting for more than a record");
}

/// A TLS 1.2 connection whose records are changed, cut and mixed with others: what comes out is what was sealed, as
/// far as it comes.
pub fn tls12(data: &[u8]) {
    let mut choices = Choices(data);
    let (mut relay, mut client) = connect12();
    let (mut sent, mut received, mut wire, mut out) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut spoilt = false;
    let mut over = None;
    while over.is_none() && !choices.is_empty() {
        let what = choices.byte();
        match what & 7 {
            0..=3 => {
                let len = choices.word() % 500;
                let plain = choices.bytes(len);
                client.writer().write_all(plain).expect("the client's buffer");
                sent.extend_from_slice(plain);
                client.write_tls(&mut wire).expect("a vector takes everything");
            }
            4 if !wire.is_empty() => {
                let at = choices.word() % wire.len();
                wire[at] ^= what | 1;
                spoilt = true;
            }
            5 => {
                wire.truncate(choices.word());
                spoilt = true;
            }
            6 => {
                let len = usize::from(choices.byte());
                wire.extend_from_slice(choices.bytes(len));
                spoilt = true;
            }
            7 => {
                client.send_close_notify();
                client.write_tls(&mut wire).expect("a vector takes everything");
            }
            _ => {}
        }
        // Now and then more is waited for.
        if what & 0x40 == 0 {
            match relay.open_into(&mut wire, &mut received) {
                Ok(Flow::Open) => {}
                Ok(Flow::Closed) => over = Some(None),
                Err(fault) => over = Some(Some(fault)),
            }
        }
        assert!(sent.starts_with(&received), "something came out that was not sent");
    }
    assert!(spoilt || !matches!(over, Some(Some(_))), "an honest connection was ended: {over:?}");
    if over.is_none() {
        relay.seal_into(b"still here", &mut out).expect("an open connection seals");
    }
    relay.farewell(over.flatten(), &mut out);
    assert!(!out.is_empty() || matches!(over, Some(Some(TlsFault::PeerAlert(_)))), "no last word");
}

/// The beginning of a connection: any bytes, or a good ClientHello with some of them changed, in any pieces.
pub fn handshake(data: &[u8]) {
    let mut choices = Choices(data);
    let what = choices.byte();
    let mut flight = Vec::new();
    if what & 1 == 1 {
        let versions = if what & 2 == 2 { &[&rustls::version::TLS12][..] } else { rustls::ALL_VERSIONS };
        let mut client = client(versions);
        client.write_tls(&mut flight).expect("a vector takes everything");
        for _ in 0..choices.byte() % 6 {
            let at = choices.word() % flight.len();
            flight[at] = choices.byte();
        }
        if what & 4 == 4 {
            flight.truncate(choices.word() % flight.len());
        }
    }
    let piece = choices.word().max(1);
    flight.extend_from_slice(choices.0);
    let mut handshake = Handshake::new(server()).expect("the server's configuration");
    let (mut wire, mut out) = (Vec::new(), Vec::new());
    for piece in flight.chunks(piece) {
        wire.extend_from_slice(piece);
        match handshake.advance(&mut wire, &mut out) {
            Ok(Step::NeedInput) => assert!(wire.len() <= HANDSHAKE_IN_MAX, "more is kept than is allowed"),
            Ok(Step::Done(_)) => panic!("a handshake that nobody finished is done"),
            Err(_) => {
                // Whatever the caller does next, the connection is over.
                assert!(handshake.advance(&mut wire, &mut out).is_err());
                return;
            }
        }
    }
}

fn layer(tx: u8, rx: u8) -> RecordLayer {
    let secrets = |label: u8| ConnectionTrafficSecrets::Chacha20Poly1305 {
        key: AeadKey::from([label; 32]),
        iv: Iv::copy(&[label; 12]),
    };
    let secrets = ExtractedSecrets { tx: (0, secrets(tx)), rx: (0, secrets(rx)) };
    RecordLayer::new(secrets, None).expect("a suite of TLS 1.3")
}

/// The relay's end and the client's of a TLS 1.2 connection.
fn connect12() -> (Transport, ClientConnection) {
    let mut client = client(&[&rustls::version::TLS12]);
    let mut handshake = Handshake::new(server()).expect("the server's configuration");
    let (mut up, mut down) = (Vec::new(), Vec::new());
    let relay = loop {
        while client.wants_write() {
            client.write_tls(&mut up).expect("a vector takes everything");
        }
        let step = handshake.advance(&mut up, &mut down).expect("an honest handshake");
        let mut unread = &down[..];
        while !unread.is_empty() {
            client.read_tls(&mut unread).expect("a slice gives everything");
            client.process_new_packets().expect("an honest handshake");
        }
        down.clear();
        if let Step::Done(established) = step {
            break established.transport;
        }
    };
    assert!(!client.is_handshaking() && client.reader().read(&mut [0]).is_err());
    (relay, client)
}

fn client(versions: &[&'static rustls::SupportedProtocolVersion]) -> ClientConnection {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("suites for these versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    let name = ServerName::try_from("127.0.0.1").expect("an address is a name");
    ClientConnection::new(Arc::new(config), name).expect("the client's configuration")
}

fn server() -> Arc<ServerConfig> {
    static SERVER: OnceLock<Arc<ServerConfig>> = OnceLock::new();
    let made = SERVER.get_or_init(|| {
        let mode = TlsMode::SelfSigned { hostname: "127.0.0.1".to_owned() };
        identity::load(&mode, &[7; 32]).expect("a certificate can be made").expect("TLS is on").config
    });
    made.clone()
}

/// Whose certificate it is does not matter here.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
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
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
