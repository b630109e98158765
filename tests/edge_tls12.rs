//! TLS 1.2 after its handshake: what a peer may no longer send.

mod edge_support;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use derpring::tls::handshake::{Handshake, Step};
use derpring::tls::{Alert, Flow, TlsFault, Transport};
use edge_support::{Pki, deliver, flight};
use rustls::ConnectionTrafficSecrets;

/// The client's sending key, for records that no client would make.
struct Sealer {
    key: LessSafeKey,
    salt: [u8; 4],
    seq: u64,
}

impl Sealer {
    fn record(&mut self, kind: u8, body: &[u8]) -> Vec<u8> {
        let explicit = self.seq.to_be_bytes();
        let nonce = Nonce::assume_unique_for_key([&self.salt[..], &explicit].concat().try_into().unwrap());
        let aad = [&explicit[..], &[kind, 3, 3], &(body.len() as u16).to_be_bytes()].concat();
        let mut sealed = body.to_vec();
        self.key.seal_in_place_append_tag(nonce, Aad::from(&aad), &mut sealed).unwrap();
        self.seq += 1;
        [&[kind, 3, 3][..], &(8 + sealed.len() as u16).to_be_bytes(), &explicit, &sealed].concat()
    }
}

fn established() -> (Transport, Sealer) {
    let pki = Pki::new();
    let mut client = pki.client(&rustls::version::TLS12);
    let mut server = Handshake::new(pki.server()).unwrap();
    let (mut wire_in, mut out) = (Vec::new(), Vec::new());
    let transport = loop {
        wire_in.extend(flight(&mut client));
        let step = server.advance(&mut wire_in, &mut out).unwrap();
        deliver(&mut client, &out);
        out.clear();
        if let Step::Done(established) = step {
            break established.transport;
        }
    };
    let (seq, secrets) = client.dangerous_extract_secrets().unwrap().tx;
    let ConnectionTrafficSecrets::Aes256Gcm { key, iv } = secrets else { panic!("another suite") };
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_ref()).unwrap());
    (transport, Sealer { key, salt: iv.as_ref()[..4].try_into().unwrap(), seq })
}

/// rustls kept the half message, and indexed by it into the empty input that comes with the next record to seal: one
/// client could end the relay.
#[test]
fn half_of_a_handshake_message_in_mid_connection() {
    for body in [&[1][..], &[1, 0, 1], &[0, 0, 0, 0], &[1, 0, 0, 8, 3, 3]] {
        let (mut transport, mut sealer) = established();
        let mut wire = [sealer.record(23, b"before"), sealer.record(22, body), sealer.record(23, b"behind")].concat();
        let mut plain = Vec::new();
        let fault = TlsFault::Forbidden(Alert::UnexpectedMessage);
        assert_eq!(transport.open_into(&mut wire, &mut plain), Err(fault), "{body:?}");
        assert_eq!(plain, b"before");
        let mut out = Vec::new();
        transport.seal_into(b"x", &mut out).unwrap();
        transport.farewell(Some(fault), &mut out);
        assert!(!out.is_empty());
    }
}

#[test]
fn data_and_close_notify_go_through_however_they_are_cut() {
    let (mut transport, mut sealer) = established();
    let wire = [sealer.record(23, b"one"), sealer.record(23, b"two"), sealer.record(21, &[1, 0])].concat();
    let (mut wire_in, mut plain, mut flow) = (Vec::new(), Vec::new(), Flow::Open);
    for byte in wire {
        assert_eq!(flow, Flow::Open);
        wire_in.push(byte);
        flow = transport.open_into(&mut wire_in, &mut plain).unwrap();
    }
    assert_eq!((plain, flow), (b"onetwo".to_vec(), Flow::Closed));
}
