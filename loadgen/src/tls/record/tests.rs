//! Our records against a rustls server.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::{ServerConfig, ServerConnection};

use super::*;
use crate::cli::{Cipher, Version};
use crate::tls::config::{Trust, client};
use crate::tls::handshake::Handshake;

struct Both {
    server: ServerConnection,
    client: RecordLayer,
}

fn connect(version: Version, cipher: Cipher) -> Both {
    let cert = rcgen::generate_simple_self_signed(vec!["derp.test".into()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(cert.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.cert.der().clone()], key.into())
        .unwrap();
    let mut server = ServerConnection::new(Arc::new(config)).unwrap();
    let config = client(Trust::Any, None, version, cipher).unwrap();
    let name = ServerName::try_from("derp.test").unwrap();
    let mut handshake = Handshake::new(&config, &name).unwrap();
    let mut out = Vec::new();
    let mut complete = handshake.feed(&[], &mut out).unwrap();
    while server.is_handshaking() || !complete {
        push(&mut server, &out);
        out.clear();
        // One byte at a time: nothing may depend on how the network cuts the stream.
        for byte in pull(&mut server) {
            complete = handshake.feed(&[byte], &mut out).unwrap();
        }
    }
    push(&mut server, &out);
    let mut established = handshake.finish().unwrap();
    let open = established.records.open::<TlsError>(&mut established.leftover, |_| Ok(()));
    assert_eq!(open.unwrap(), established.leftover.len());
    Both { server, client: established.records }
}

fn push(server: &mut ServerConnection, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        server.read_tls(&mut bytes).unwrap();
        server.process_new_packets().unwrap();
    }
}

fn pull(server: &mut ServerConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while server.wants_write() {
        server.write_tls(&mut bytes).unwrap();
    }
    bytes
}

impl Both {
    /// The client writes `message` in pieces, the server reads it.
    fn up(&mut self, message: &[u8], piece: usize) {
        let mut out = Vec::new();
        let mut writer = StreamWriter::new(Some(&mut self.client), &mut out).unwrap();
        for piece in message.chunks(piece) {
            writer.put(piece);
        }
        writer.finish();
        let mut seen = Vec::new();
        let mut rest = &out[..];
        while !rest.is_empty() {
            self.server.read_tls(&mut rest).unwrap();
            self.server.process_new_packets().unwrap();
            let _ = self.server.reader().read_to_end(&mut seen);
        }
        assert_eq!(seen, message);
    }

    /// The server writes `message`, the client reads it in two cuts.
    fn down(&mut self, message: &[u8], cut: usize) {
        self.server.set_buffer_limit(None);
        self.server.writer().write_all(message).unwrap();
        let mut bytes = pull(&mut self.server);
        let cut = cut.min(bytes.len());
        let mut seen = Vec::new();
        let mut on_plain = |plain: &[u8]| {
            seen.extend_from_slice(plain);
            Ok::<(), TlsError>(())
        };
        let used = self.client.open(&mut bytes[..cut], &mut on_plain).unwrap();
        let rest = self.client.open(&mut bytes[used..], &mut on_plain).unwrap();
        assert_eq!(used + rest, bytes.len());
        assert_eq!(seen, message);
    }
}

#[test]
fn every_version_and_cipher_carries_data_both_ways() {
    let message: Vec<u8> = (0..40_000u32).map(|i| i as u8).collect();
    for version in [Version::V12, Version::V13] {
        for cipher in [Cipher::Aes128, Cipher::Aes256, Cipher::Chacha20] {
            let mut both = connect(version, cipher);
            for len in [1, MAX_PLAIN - 1, MAX_PLAIN, MAX_PLAIN + 1, 40_000] {
                both.up(&message[..len], 7000);
                both.up(&message[..len], len);
                both.down(&message[..len], len / 2);
            }
            both.up(&[], 1);
        }
    }
}

#[test]
fn records_cut_at_every_byte() {
    let mut both = connect(Version::V13, Cipher::Aes128);
    for cut in 0..60 {
        both.down(b"0123456789", cut);
    }
}

#[test]
fn key_updates_both_ways() {
    let mut both = connect(Version::V13, Cipher::Aes128);
    both.server.refresh_traffic_keys().unwrap();
    both.down(b"under the relay's second key", 10);
    assert!(both.client.owes_key_update());
    both.up(b"under our second key", 100);
    assert!(!both.client.owes_key_update());
    both.client.records_per_key = 1;
    for _ in 0..3 {
        both.up(b"a key for every record", 100);
        both.down(b"and on", 3);
    }
}

#[test]
fn a_changed_byte_does_not_open() {
    for version in [Version::V12, Version::V13] {
        let mut both = connect(version, Cipher::Aes128);
        both.server.writer().write_all(b"data").unwrap();
        let mut bytes = pull(&mut both.server);
        *bytes.last_mut().unwrap() ^= 1;
        let result = both.client.open::<TlsError>(&mut bytes, |_| Ok(()));
        assert!(matches!(result, Err(TlsError::Unopenable)));
    }
}

#[test]
fn close_notify_is_seen() {
    let mut both = connect(Version::V13, Cipher::Aes128);
    both.server.send_close_notify();
    both.down(b"", 5);
    assert!(both.client.is_closed());
}
