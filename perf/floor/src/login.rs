//! HTTP upgrade, ServerKey, ClientInfo, ServerInfo: as much of them as a client insists on.

use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey, X25519};
use aws_lc_rs::error::Unspecified;
use crypto_secretbox::XSalsa20Poly1305;
use crypto_secretbox::aead::{Aead, KeyInit};
use salsa20::cipher::consts::U10;

use crate::frame::{self, HEADER, KEY, Key, kind};

const MAGIC: &[u8] = b"DERP\xf0\x9f\x94\x91";
const SERVER_INFO: &[u8] = br#"{"version":2}"#;
const UPGRADED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n";
/// A longer request is none of a client.
const MAX_HEAD: usize = 16 << 10;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Step {
    #[default]
    Request,
    ClientInfo,
}

/// What the bytes at the front of a connection come to.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    More,
    /// So many bytes are used up; the next step follows.
    Upgraded(usize),
    LoggedIn(usize, Key),
}

#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    #[error("a request of more than {MAX_HEAD} bytes")]
    LongRequest,
    #[error(transparent)]
    LongFrame(#[from] frame::TooLong),
    #[error("another frame than ClientInfo")]
    NoClientInfo,
    #[error("a key that agrees with everybody on nothing")]
    NoKey,
}

pub struct Keys {
    secret: PrivateKey,
    public: Key,
}

impl Keys {
    pub fn random() -> Result<Self, Unspecified> {
        let secret = PrivateKey::generate(&X25519)?;
        let public = secret.compute_public_key()?.as_ref().try_into().map_err(|_| Unspecified)?;
        Ok(Self { secret, public })
    }

    /// Takes one step of the login; the answer is appended to `out`. The box in ClientInfo is not opened: that a key
    /// is claimed is enough here.
    pub fn advance(&self, step: Step, bytes: &[u8], out: &mut Vec<u8>) -> Result<Progress, LoginError> {
        match step {
            Step::Request => {
                let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
                    return if bytes.len() > MAX_HEAD { Err(LoginError::LongRequest) } else { Ok(Progress::More) };
                };
                out.extend_from_slice(UPGRADED);
                frame::append(out, kind::SERVER_KEY, &[MAGIC, &self.public]);
                Ok(Progress::Upgraded(end + 4))
            }
            Step::ClientInfo => {
                let Some(len) = frame::whole(bytes)? else {
                    return Ok(Progress::More);
                };
                let key = bytes[HEADER..len].first_chunk().filter(|_| bytes[0] == kind::CLIENT_INFO);
                let key = *key.ok_or(LoginError::NoClientInfo)?;
                self.server_info(&key, out).ok_or(LoginError::NoKey)?;
                Ok(Progress::LoggedIn(len, key))
            }
        }
    }

    fn server_info(&self, key: &Key, out: &mut Vec<u8>) -> Option<()> {
        let mut nonce = [0; 24];
        getrandom::fill(&mut nonce).expect("the kernel gave randomness before");
        let sealed = agreement::agree(&self.secret, UnparsedPublicKey::new(&X25519, key), Unspecified, |shared| {
            let shared: [u8; KEY] = shared.try_into().map_err(|_| Unspecified)?;
            let key = salsa20::hsalsa::<U10>(&shared.into(), &[0; 16].into());
            XSalsa20Poly1305::new(&key).encrypt((&nonce).into(), SERVER_INFO).map_err(|_| Unspecified)
        });
        frame::append(out, kind::SERVER_INFO, &[&nonce, &sealed.ok()?]);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use crypto_box::{PublicKey, SalsaBox, SecretKey};

    use super::*;

    #[test]
    fn an_upgrade_is_answered_at_its_last_byte() {
        let keys = Keys::random().unwrap();
        let request = b"GET /derp HTTP/1.1\r\nHost: x\r\n\r\n";
        let mut out = Vec::new();
        for len in 0..request.len() {
            assert_eq!(keys.advance(Step::Request, &request[..len], &mut out).unwrap(), Progress::More);
        }
        assert!(out.is_empty());
        assert_eq!(keys.advance(Step::Request, request, &mut out).unwrap(), Progress::Upgraded(request.len()));
        assert!(out.starts_with(UPGRADED) && out.len() == UPGRADED.len() + HEADER + MAGIC.len() + KEY);
        assert!(keys.advance(Step::Request, &[b'x'; MAX_HEAD + 1], &mut out).is_err());
    }

    #[test]
    fn server_info_opens_with_the_clients_key() {
        let keys = Keys::random().unwrap();
        let client = SecretKey::from([9; KEY]);
        let mut info = Vec::new();
        frame::append(&mut info, kind::CLIENT_INFO, &[client.public_key().as_bytes(), &[0; 60]]);
        let mut out = Vec::new();
        let done = keys.advance(Step::ClientInfo, &info, &mut out).unwrap();
        assert_eq!(done, Progress::LoggedIn(info.len(), *client.public_key().as_bytes()));
        let nonce: [u8; 24] = *out[HEADER..].first_chunk().unwrap();
        let opened =
            SalsaBox::new(&PublicKey::from(keys.public), &client).decrypt((&nonce).into(), &out[HEADER + 24..]);
        assert_eq!(opened.unwrap(), SERVER_INFO);
    }

    #[test]
    fn a_key_of_low_order_is_refused() {
        let mut info = Vec::new();
        frame::append(&mut info, kind::CLIENT_INFO, &[&[0; KEY], &[0; 60]]);
        let refused = Keys::random().unwrap().advance(Step::ClientInfo, &info, &mut Vec::new());
        assert!(matches!(refused, Err(LoginError::NoKey)));
    }

    #[test]
    fn another_frame_or_a_short_one_is_refused() {
        let keys = Keys::random().unwrap();
        for (kind, len) in [(kind::PING, 60), (kind::CLIENT_INFO, KEY - 1)] {
            let mut bytes = Vec::new();
            frame::append(&mut bytes, kind, &[&vec![1; len]]);
            let refused = keys.advance(Step::ClientInfo, &bytes, &mut Vec::new());
            assert!(matches!(refused, Err(LoginError::NoClientInfo)));
        }
    }
}
