//! What the cryptography of a TLS 1.3 handshake costs a server: X25519, a signature of ECDSA on P-256, the key schedule
//! on SHA-256, and AES-128-GCM over a server's first flight. Nothing is sent: the messages, the round trip that they
//! need, tickets and resumption are left out, so a relay with TLS pays more than this.

use aws_lc_rs::aead::{AES_128_GCM, UnboundKey};
use aws_lc_rs::agreement::{self, EphemeralPrivateKey, PrivateKey, UnparsedPublicKey, X25519};
use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};

use crate::cipher::Cipher;

/// ClientHello of rustls or Go with one key share, and ServerHello.
const HELLOS: [u8; 340] = [1; 340];
/// EncryptedExtensions, a self-signed certificate, CertificateVerify and Finished.
const FLIGHT: [u8; 900] = [2; 900];
/// What a server signs: 64 spaces, the context and the transcript's hash.
const SIGNED: usize = 64 + 34 + 32;
const HASH: usize = 32;

pub struct Handshake {
    random: SystemRandom,
    signing: EcdsaKeyPair,
    client: Vec<u8>,
}

struct Len(usize);

impl KeyType for Len {
    fn len(&self) -> usize {
        self.0
    }
}

impl Handshake {
    pub fn new() -> Result<Self, Unspecified> {
        let client = PrivateKey::generate(&X25519)?.compute_public_key()?;
        Ok(Self {
            random: SystemRandom::new(),
            signing: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)?,
            client: client.as_ref().to_vec(),
        })
    }

    /// One handshake. What it comes to is of no use but that nothing of it can be left out.
    pub fn spend(&self, cipher: &mut Cipher) -> Result<[u8; HASH], Unspecified> {
        let ours = EphemeralPrivateKey::generate(&X25519, &self.random)?;
        let _share = ours.compute_public_key()?;
        let mut transcript = Context::new(&SHA256);
        transcript.update(&HELLOS);
        let client = UnparsedPublicKey::new(&X25519, &self.client);
        let early = Salt::new(HKDF_SHA256, &[0; HASH]).extract(&[0; HASH]);
        let derived: [u8; HASH] = derive(&early, b"derived", &hash(&Context::new(&SHA256)))?;
        let secret = agreement::agree_ephemeral(ours, client, Unspecified, |shared| {
            Ok(Salt::new(HKDF_SHA256, &derived).extract(shared))
        })?;
        let hellos = hash(&transcript);
        let traffic = [derive(&secret, b"c hs traffic", &hellos)?, derive(&secret, b"s hs traffic", &hellos)?];
        for secret in &traffic {
            keys(secret)?;
        }
        let signature = self.signing.sign(&self.random, &[32; SIGNED])?;
        transcript.update(&FLIGHT[..FLIGHT.len() - HASH - signature.as_ref().len()]);
        transcript.update(signature.as_ref());
        for secret in &traffic {
            let key: [u8; HASH] = derive(&Prk::new_less_safe(HKDF_SHA256, secret), b"finished", &[])?;
            let finished = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), &hash(&transcript));
            transcript.update(finished.as_ref());
        }
        cipher.pass(&FLIGHT);
        let derived: [u8; HASH] = derive(&secret, b"derived", &hash(&Context::new(&SHA256)))?;
        let master = Salt::new(HKDF_SHA256, &derived).extract(&[0; HASH]);
        let whole = hash(&transcript);
        for label in [&b"c ap traffic"[..], b"s ap traffic"] {
            keys(&derive(&master, label, &whole)?)?;
        }
        Ok(whole)
    }
}

fn hash(transcript: &Context) -> [u8; HASH] {
    let mut out = [0; HASH];
    out.copy_from_slice(transcript.clone().finish().as_ref());
    out
}

fn derive<const N: usize>(secret: &Prk, label: &[u8], context: &[u8]) -> Result<[u8; N], Unspecified> {
    let mut out = [0; N];
    // Lengths and labels are of a few bytes, as TLS frames them.
    let head = [0, N as u8, 6 + label.len() as u8];
    secret.expand(&[&head, b"tls13 ", label, &[context.len() as u8], context], Len(N))?.fill(&mut out)?;
    Ok(out)
}

/// One direction's key, made ready, and its nonce.
fn keys(secret: &[u8; HASH]) -> Result<[u8; 12], Unspecified> {
    let secret = Prk::new_less_safe(HKDF_SHA256, secret);
    let key: [u8; 16] = derive(&secret, b"key", &[])?;
    UnboundKey::new(&AES_128_GCM, &key)?;
    derive(&secret, b"iv", &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_handshakes_come_to_the_same() {
        let (handshake, mut cipher) = (Handshake::new().unwrap(), Cipher::new().unwrap());
        assert_ne!(handshake.spend(&mut cipher).unwrap(), handshake.spend(&mut cipher).unwrap());
    }

    /// RFC 8448, section 3: the first secret that is derived from nothing.
    #[test]
    fn the_key_schedule_is_that_of_tls() {
        let early = Salt::new(HKDF_SHA256, &[0; HASH]).extract(&[0; HASH]);
        let derived: [u8; HASH] = derive(&early, b"derived", &hash(&Context::new(&SHA256))).unwrap();
        let text: String = derived.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(text, "6f2615a108c702c5678f54fc9dbab69716c076189c48250cebeac3576c3611ba");
    }
}
