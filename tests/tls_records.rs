//! The TLS 1.3 record layer against rustls as the client: after a real handshake in memory, whatever a client may do.

use std::io::{Read, Write};
use std::sync::Arc;

use derpring::tls::handshake::{Handshake, Step};
use derpring::tls::record::{ALERT, APPLICATION_DATA, HANDSHAKE, HEADER_LEN, MAX_PLAINTEXT, MAX_RECORD, TRAILER_LEN};
use derpring::tls::{Alert, Flow, Opened, RecordLayer, TlsFault, Transport};
use rustls::crypto::aws_lc_rs::{self, cipher_suite};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, SupportedCipherSuite};

const SUITES: [SupportedCipherSuite; 3] = [
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
];

/// A connection of which the client is rustls and the server is ours.
struct Line {
    client: ClientConnection,
    server: Transport,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    client_got: Vec<u8>,
}

impl Line {
    fn new(suite: SupportedCipherSuite) -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let made = rcgen::generate_simple_self_signed(["derp.test".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        server.enable_secret_extraction = true;
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let mut provider = (*provider).clone();
        provider.cipher_suites = vec![suite];
        let client = ClientConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("derp.test").unwrap();
        let mut line = Self {
            client: ClientConnection::new(client.into(), name).unwrap(),
            server: Transport::Plain,
            to_server: Vec::new(),
            to_client: Vec::new(),
            client_got: Vec::new(),
        };
        line.client.set_buffer_limit(None);
        let mut handshake = Handshake::new(server.into()).unwrap();
        let transport = loop {
            line.client_writes();
            match handshake.advance(&mut line.to_server, &mut line.to_client).unwrap() {
                Step::Done(established) => break established.transport,
                Step::NeedInput => line.client_reads(),
            }
        };
        line.server = transport;
        line.client_reads();
        assert!(!line.client.is_handshaking());
        line
    }

    fn client_writes(&mut self) {
        while self.client.wants_write() {
            self.client.write_tls(&mut self.to_server).unwrap();
        }
    }

    /// # Panics
    /// When the client finds fault with what it was sent.
    fn client_reads(&mut self) {
        let bytes = std::mem::take(&mut self.to_client);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            self.client.read_tls(&mut rest).unwrap();
            let state = self.client.process_new_packets().unwrap();
            let mut data = vec![0; state.plaintext_bytes_to_read()];
            self.client.reader().read_exact(&mut data).unwrap();
            self.client_got.append(&mut data);
        }
    }

    fn client_sends(&mut self, data: &[u8]) {
        self.client.writer().write_all(data).unwrap();
        self.client_writes();
    }

    fn server_gets(&mut self) -> Result<(Vec<u8>, Flow), TlsFault> {
        let mut plain = Vec::new();
        let flow = self.server.open_into(&mut self.to_server, &mut plain)?;
        Ok((plain, flow))
    }

    fn server_sends(&mut self, data: &[u8]) {
        self.server.seal_into(data, &mut self.to_client).unwrap();
    }

    fn client_gets(&mut self, len: usize) -> Vec<u8> {
        self.client_reads();
        assert_eq!(self.client_got.len(), len);
        std::mem::take(&mut self.client_got)
    }

    fn records(&mut self) -> &mut RecordLayer {
        match &mut self.server {
            Transport::Tls13(records) => records,
            other => panic!("not TLS 1.3: {other:?}"),
        }
    }
}

fn data(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
}

#[test]
fn data_passes_both_ways_in_every_suite() {
    for suite in SUITES {
        let mut line = Line::new(suite);
        for len in [1, 100, MAX_PLAINTEXT - 1, MAX_PLAINTEXT, MAX_PLAINTEXT + 1, 100_000] {
            line.client_sends(&data(len));
            assert_eq!(line.server_gets().unwrap(), (data(len), Flow::Open), "{suite:?}, {len} bytes in");
            line.server_sends(&data(len));
            assert_eq!(line.client_gets(len), data(len), "{suite:?}, {len} bytes out");
        }
    }
}

#[test]
fn records_may_be_cut_anywhere() {
    let mut line = Line::new(SUITES[0]);
    line.client_sends(&data(300));
    line.client_sends(&data(7));
    let wire = std::mem::take(&mut line.to_server);
    let mut got = Vec::new();
    for byte in wire {
        line.to_server.push(byte);
        got.extend(line.server_gets().unwrap().0);
    }
    assert_eq!(got, [data(300), data(7)].concat());
}

/// One bit of any byte of a record is enough: nothing of it is accepted, and the client is told.
#[test]
fn a_flipped_bit_is_never_accepted() {
    for suite in SUITES {
        let len = {
            let mut line = Line::new(suite);
            line.client_sends(&data(40));
            line.to_server.len()
        };
        for at in 0..len {
            let mut line = Line::new(suite);
            line.client_sends(&data(40));
            line.to_server[at] ^= 1 << (at % 8);
            // A length that grew makes the record wait for bytes that belong to the next.
            line.client_sends(&vec![0; MAX_PLAINTEXT]);
            line.client_sends(&vec![0; MAX_PLAINTEXT]);
            line.client_sends(&vec![0; MAX_PLAINTEXT]);
            line.client_sends(&vec![0; MAX_PLAINTEXT]);
            // The version in a header is not looked at, but authenticated.
            let fault = line.server_gets().expect_err("a damaged record");
            let TlsFault::Forbidden(alert) = fault else { panic!("byte {at}: {fault}") };
            assert!(
                matches!(alert, Alert::BadRecordMac | Alert::UnexpectedMessage | Alert::RecordOverflow),
                "byte {at}: {alert}"
            );
            line.server.farewell(Some(fault), &mut line.to_client);
            let bytes = std::mem::take(&mut line.to_client);
            line.client.read_tls(&mut &bytes[..]).unwrap();
            let told = line.client.process_new_packets().expect_err("the client is told");
            assert!(matches!(told, rustls::Error::AlertReceived(_)), "byte {at}: {told}");
        }
    }
}

#[test]
fn the_client_changes_its_key() {
    for suite in SUITES {
        let mut line = Line::new(suite);
        for round in 0..5 {
            line.client.refresh_traffic_keys().unwrap();
            line.client_sends(&data(50 + round));
            assert_eq!(line.server_gets().unwrap().0, data(50 + round));
            // rustls asks us to change ours too; we do, before our next data.
            assert!(line.records().key_update_due());
            line.server_sends(&data(60));
            assert!(!line.records().key_update_due());
            assert_eq!(line.client_gets(60), data(60));
        }
    }
}

#[test]
fn our_key_changes_before_its_limit() {
    let mut line = Line::new(SUITES[0]);
    line.records().set_rekey_after(10);
    for round in 0..100 {
        line.server_sends(&data(round));
        assert_eq!(line.client_gets(round), data(round));
    }
}

#[test]
fn close_notify_ends_the_stream_and_is_answered() {
    let mut line = Line::new(SUITES[0]);
    line.client_sends(b"last");
    line.client.send_close_notify();
    line.client_writes();
    assert_eq!(line.server_gets().unwrap(), (b"last".to_vec(), Flow::Closed));
    line.server.farewell(None, &mut line.to_client);
    let bytes = std::mem::take(&mut line.to_client);
    line.client.read_tls(&mut &bytes[..]).unwrap();
    let state = line.client.process_new_packets().unwrap();
    assert!(state.peer_has_closed());
}

/// Two of our record layers, one as the client: for what rustls never sends.
fn pair() -> (RecordLayer, RecordLayer) {
    use rustls::crypto::cipher::{AeadKey, Iv};
    use rustls::{ConnectionTrafficSecrets, ExtractedSecrets};
    let secrets = |n: u8| ConnectionTrafficSecrets::Aes256Gcm { key: AeadKey::from([n; 32]), iv: Iv::copy(&[n; 12]) };
    let end = |tx, rx| RecordLayer::new(ExtractedSecrets { tx: (0, secrets(tx)), rx: (0, secrets(rx)) }, None).unwrap();
    (end(1, 2), end(2, 1))
}

/// What the server makes of one record with this inner content.
fn judged(content: u8, message: &[u8]) -> Result<Opened, TlsFault> {
    let (mut client, mut server) = pair();
    let mut wire = Vec::new();
    client.seal_message(content, message, &mut wire).unwrap();
    opened(&mut server, &wire)
}

fn opened(server: &mut RecordLayer, wire: &[u8]) -> Result<Opened, TlsFault> {
    server.open(wire, &mut [0; MAX_RECORD])
}

#[test]
fn padding_is_taken_off() {
    let (mut client, mut server) = pair();
    // The content type, then zeros: TLSInnerPlaintext with padding, sealed as if its last zero were a content type.
    let mut inner = b"hello".to_vec();
    inner.push(APPLICATION_DATA);
    inner.extend_from_slice(&[0; 100]);
    let mut wire = Vec::new();
    client.seal_message(0, &inner, &mut wire).unwrap();
    let mut plain = [0; 200];
    assert_eq!(server.open(&wire, &mut plain), Ok(Opened::Data { len: 5, used: wire.len() }));
    assert_eq!(&plain[..5], b"hello");
}

#[test]
fn what_tls_forbids_is_refused_by_its_name() {
    let forbidden = |alert| Err(TlsFault::Forbidden(alert));
    // Only padding, no content type.
    assert_eq!(judged(0, &[0; 10]), forbidden(Alert::UnexpectedMessage));
    // ChangeCipherSpec and nonsense inside the encryption.
    assert_eq!(judged(20, &[1]), forbidden(Alert::UnexpectedMessage));
    assert_eq!(judged(99, b"x"), forbidden(Alert::UnexpectedMessage));
    // Handshake messages that no client may send now: Finished, a long KeyUpdate, an empty fragment.
    assert_eq!(judged(HANDSHAKE, &[20, 0, 0, 32]), forbidden(Alert::UnexpectedMessage));
    assert_eq!(judged(HANDSHAKE, &[24, 0, 0, 2, 0, 0]), forbidden(Alert::UnexpectedMessage));
    assert_eq!(judged(HANDSHAKE, &[24, 0, 0, 1, 7]), forbidden(Alert::DecodeError));
    assert_eq!(judged(HANDSHAKE, &[]), forbidden(Alert::UnexpectedMessage));
    // Alerts: an end, a warning that means nothing, an error, a stump.
    assert_eq!(judged(ALERT, &[1, 0]), Ok(Opened::Closed));
    assert!(matches!(judged(ALERT, &[1, 90]), Ok(Opened::Control { .. })));
    assert_eq!(judged(ALERT, &[2, 20]), Err(TlsFault::PeerAlert(20)));
    assert_eq!(judged(ALERT, &[1]), forbidden(Alert::DecodeError));
    // Outer types and lengths.
    let (_, mut server) = pair();
    assert_eq!(opened(&mut server, &[22, 3, 3, 0, 20, 0]), forbidden(Alert::UnexpectedMessage));
    assert_eq!(opened(&mut server, &[23, 3, 3, 0x41, 1]), forbidden(Alert::RecordOverflow));
    assert_eq!(opened(&mut server, &[23, 3, 3, 0, 16]), forbidden(Alert::BadRecordMac));
}

#[test]
fn the_largest_record_is_accepted_and_a_longer_one_is_refused_at_its_header() {
    let (mut client, mut server) = pair();
    let mut wire = Vec::new();
    client.seal_message(APPLICATION_DATA, &data(MAX_PLAINTEXT), &mut wire).unwrap();
    let mut plain = vec![0; MAX_RECORD];
    assert_eq!(server.open(&wire, &mut plain), Ok(Opened::Data { len: MAX_PLAINTEXT, used: wire.len() }));
    assert_eq!(plain[..MAX_PLAINTEXT], data(MAX_PLAINTEXT));
    let [high, low] = (MAX_PLAINTEXT as u16 + 257).to_be_bytes();
    assert_eq!(opened(&mut server, &[23, 3, 3, high, low]), Err(TlsFault::Forbidden(Alert::RecordOverflow)));
}

/// What is sealed apart from where it lies is the same record, whatever is around it, and leaves the plaintext alone.
#[test]
fn sealed_apart_is_the_same_record() {
    let ((mut apart, _), (mut in_place, _)) = (pair(), pair());
    for len in [0, 1, 15, 16, 17, 1443, MAX_PLAINTEXT - 1, MAX_PLAINTEXT] {
        let plain = data(len);
        let mut record = vec![0xaa; HEADER_LEN + len + TRAILER_LEN];
        apart.seal(&plain, &mut record).unwrap();
        let mut same = [vec![0; HEADER_LEN], plain.clone(), vec![0; TRAILER_LEN]].concat();
        assert_eq!(in_place.seal_in_place(&mut same, HEADER_LEN, HEADER_LEN + len), Ok(0..same.len()));
        assert_eq!(record, same, "{len} bytes");
        assert_eq!(plain, data(len));
    }
}

#[test]
fn a_record_that_does_not_fit_is_our_fault_and_not_the_peers() {
    let (mut client, mut server) = pair();
    let mut wire = Vec::new();
    client.seal_message(APPLICATION_DATA, b"hello", &mut wire).unwrap();
    assert_eq!(server.open(&wire, &mut [0; 5]), Err(TlsFault::Ours), "there is no room for the content type");
    assert_eq!(server.open(&wire, &mut [0; 6]), Ok(Opened::Data { len: 5, used: wire.len() }));
}

#[test]
fn a_key_update_may_come_in_pieces_and_nothing_between_them() {
    let mut line = Line::new(SUITES[0]);
    // The client's own records come from rustls; pieces must come from keys of ours, so only the refusal is shown here.
    let (mut client, mut server) = pair();
    let mut wire = Vec::new();
    client.seal_message(HANDSHAKE, &[24, 0], &mut wire).unwrap();
    assert!(matches!(opened(&mut server, &wire), Ok(Opened::Control { .. })));
    let mut wire = Vec::new();
    client.seal_message(APPLICATION_DATA, b"between", &mut wire).unwrap();
    assert_eq!(opened(&mut server, &wire), Err(TlsFault::Forbidden(Alert::UnexpectedMessage)));
    // Whole, from rustls, it is taken.
    line.client.refresh_traffic_keys().unwrap();
    line.client_sends(b"after");
    assert_eq!(line.server_gets().unwrap().0, b"after");
}
