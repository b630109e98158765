//! The DERP login without I/O: ServerKey out, ClientInfo in, ServerInfo out.
//!
//! A peer proves its key by sealing ClientInfo with it. There is no challenge, so a recorded ClientInfo can be
//! replayed to the same server; the protocol has it so.

mod info;

use std::fmt;

use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey, X25519};
use crypto_secretbox::XSalsa20Poly1305;
use crypto_secretbox::aead::{Aead, KeyInit};
use salsa20::cipher::consts::U10;
use subtle::ConstantTimeEq;

use super::frame::{self, HEADER_LEN, MAGIC, kind};
use super::key::NodeKey;
pub use info::ClientInfo;

const NONCE_LEN: usize = 24;
const MAC_LEN: usize = 16;
const MIN_CLIENT_INFO: usize = NodeKey::LEN + NONCE_LEN;
const SERVER_KEY_LEN: usize = MAGIC.len() + NodeKey::LEN;
const SERVER_INFO: &[u8] = br#"{"version":2}"#;

/// Whole length of the frame that [`Keys::server_key_frame`] makes.
pub const SERVER_KEY_FRAME_LEN: usize = HEADER_LEN + SERVER_KEY_LEN;

/// Why a login is refused. Always the peer's doing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    #[error("peer's first frame has type {0:#04x}, not ClientInfo")]
    NotClientInfo(u8),
    #[error("peer's ClientInfo has {0} bytes")]
    Length(u32),
    #[error("peer claims the zero key")]
    ZeroKey,
    #[error("peer's ClientInfo does not open with the key that it claims")]
    Box,
    #[error("peer's ClientInfo is not what it should be: {0}")]
    Json(String),
}

/// The server's key pair.
pub struct Keys {
    private: PrivateKey,
    public: NodeKey,
}

impl Keys {
    pub fn new(private: [u8; 32]) -> Self {
        let public = NodeKey(*crypto_box::SecretKey::from(private).public_key().as_bytes());
        let Ok(private) = PrivateKey::from_private_key(&X25519, &private) else {
            unreachable!("any 32 bytes are a private key of X25519");
        };
        Self { private, public }
    }

    pub fn public(&self) -> NodeKey {
        self.public
    }

    /// What the server says first.
    pub fn server_key_frame(&self) -> [u8; SERVER_KEY_FRAME_LEN] {
        let mut out = [0; SERVER_KEY_FRAME_LEN];
        let (header, payload) = out.split_at_mut(HEADER_LEN);
        header.copy_from_slice(&frame::header(kind::SERVER_KEY, SERVER_KEY_LEN as u32));
        payload[..MAGIC.len()].copy_from_slice(&MAGIC);
        payload[MAGIC.len()..].copy_from_slice(&self.public.0);
        out
    }

    /// Opens the payload of a ClientInfo frame.
    ///
    /// # Errors
    /// The peer does not hold the key, or says nonsense with it.
    pub fn open(&self, payload: &[u8]) -> Result<Login, LoginError> {
        if payload.len() < MIN_CLIENT_INFO {
            return Err(LoginError::Length(u32::try_from(payload.len()).unwrap_or(u32::MAX)));
        }
        let key = NodeKey::from_prefix(payload);
        if key.is_zero() {
            return Err(LoginError::ZeroKey);
        }
        let (nonce, sealed) = payload[NodeKey::LEN..].split_at(NONCE_LEN);
        let shared = self.agree(&key).ok_or(LoginError::Box)?;
        let plain = shared.decrypt(nonce.into(), sealed).map_err(|_| LoginError::Box)?;
        let info = info::parse(&plain)?;
        Ok(Login { key, info, shared })
    }
}

impl Keys {
    /// The NaCl box between the server and a peer: XSalsa20-Poly1305 under HSalsa20 of what X25519 agrees on. The key
    /// agreement is by far the dearest step of a login, so it is the library's that has it in assembly. `None`: the
    /// peer's key is one of the few that agree with everybody on nothing.
    fn agree(&self, key: &NodeKey) -> Option<XSalsa20Poly1305> {
        let public = UnparsedPublicKey::new(&X25519, &key.0);
        agreement::agree(&self.private, public, (), |secret| {
            let secret: [u8; 32] = secret.try_into().map_err(|_| ())?;
            let key = salsa20::hsalsa::<U10>(&secret.into(), &[0; 16].into());
            Ok(XSalsa20Poly1305::new(&key))
        })
        .ok()
    }
}

impl fmt::Debug for Keys {
    /// The public half only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("public", &self.public).finish_non_exhaustive()
    }
}

/// A peer that has proved its key.
pub struct Login {
    pub key: NodeKey,
    pub info: ClientInfo,
    /// Kept from opening ClientInfo: a second key agreement would cost as much as the whole rest.
    shared: XSalsa20Poly1305,
}

impl Login {
    /// The answer, for this peer alone. A nonce must never be used twice; a random one will not be.
    pub fn server_info_frame(&self, nonce: [u8; NONCE_LEN]) -> Vec<u8> {
        // XSalsa20-Poly1305 fails only beyond 2^64 bytes.
        let sealed = self.shared.encrypt((&nonce).into(), SERVER_INFO).unwrap_or_default();
        debug_assert_eq!(sealed.len(), MAC_LEN + SERVER_INFO.len());
        let len = NONCE_LEN + sealed.len();
        let mut out = Vec::with_capacity(HEADER_LEN + len);
        out.extend_from_slice(&frame::header(kind::SERVER_INFO, len as u32));
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&sealed);
        out
    }

    /// Whether the peer presented the server's own mesh key. Takes the same time wherever the two differ.
    pub fn is_mesh(&self, server: Option<&[u8; 32]>) -> bool {
        match (server, &self.info.mesh_key) {
            // The zero key means "none" on both sides.
            (Some(ours), Some(theirs)) => *ours != [0; 32] && bool::from(ours.ct_eq(theirs)),
            _ => false,
        }
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("key", &self.key).finish_non_exhaustive()
    }
}

/// Length of the payload of the ClientInfo frame that `buf` begins with, as soon as the header is there.
///
/// # Errors
/// It begins with something else, or is shorter or longer than a ClientInfo can be; nothing of it is worth waiting for.
pub fn client_info_len(buf: &[u8], max: usize) -> Result<Option<usize>, LoginError> {
    let Some(&header) = buf.first_chunk::<HEADER_LEN>() else {
        // A wrong type is known from the first byte.
        return match buf.first() {
            Some(&kind) if kind != kind::CLIENT_INFO => Err(LoginError::NotClientInfo(kind)),
            _ => Ok(None),
        };
    };
    let [kind, len @ ..] = header;
    if kind != kind::CLIENT_INFO {
        return Err(LoginError::NotClientInfo(kind));
    }
    let wire_len = u32::from_be_bytes(len);
    match usize::try_from(wire_len) {
        Ok(len) if (MIN_CLIENT_INFO..=max).contains(&len) => Ok(Some(len)),
        _ => Err(LoginError::Length(wire_len)),
    }
}

#[cfg(test)]
mod tests {
    use crypto_box::{PublicKey, SalsaBox, SecretKey};

    use super::*;
    use crate::proto::key::parse_hex32;

    const CLIENT_PRIVATE: &str = "0002030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f60";
    const CLIENT_PUBLIC: &str = "07a37cbc142093c8b755dc1b10e86cb426374ad16aa853ed0bdfc0b2b86d1c7c";
    const SERVER_PRIVATE: &str = "4042434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f60";
    const SERVER_PUBLIC: &str = "64b101b1d0be5a8704bd078f9895001fc03e8e9f9522f188dd128d9846d48466";
    /// `{"version":2,"CanAckPings":true}` under the nonce 00..17.
    const CLIENT_BOX: &str = "adae4041b70fe715a2dcf63c8ac02df1e4e99f7e03896c0d8df02f11f38281e1\
                              fd9e1b60e2040edd9003eadd2e2a72bf";
    const SERVER_BOX: &str = "173dd69dc6689c7822513773d70ae18de4e99f7e03896c0d8df02f11a2";

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
    }

    fn keys() -> Keys {
        Keys::new(parse_hex32(SERVER_PRIVATE).unwrap())
    }

    fn nonce() -> [u8; NONCE_LEN] {
        std::array::from_fn(|i| i as u8)
    }

    fn vector() -> Vec<u8> {
        [unhex(CLIENT_PUBLIC), nonce().to_vec(), unhex(CLIENT_BOX)].concat()
    }

    /// The payload that a client with the vector's key would send.
    fn sealed(json: &[u8]) -> Vec<u8> {
        let private = SecretKey::from(parse_hex32(CLIENT_PRIVATE).unwrap());
        let shared = SalsaBox::new(&PublicKey::from(parse_hex32(SERVER_PUBLIC).unwrap()), &private);
        let sealed = shared.encrypt((&nonce()).into(), json).unwrap();
        [unhex(CLIENT_PUBLIC), nonce().to_vec(), sealed].concat()
    }

    #[test]
    fn known_bytes_open_and_are_answered_with_known_bytes() {
        let login = keys().open(&vector()).unwrap();
        assert_eq!(login.key.to_hex(), CLIENT_PUBLIC);
        assert_eq!(login.info, ClientInfo { version: 2, can_ack_pings: true, ..ClientInfo::default() });
        let expected = [unhex("0300000035"), nonce().to_vec(), unhex(SERVER_BOX)].concat();
        assert_eq!(login.server_info_frame(nonce()), expected);
        assert_eq!(sealed(br#"{"version":2,"CanAckPings":true}"#), vector());
    }

    #[test]
    fn server_key_frame_is_magic_and_key() {
        let expected = unhex(&format!("010000002844455250f09f9491{SERVER_PUBLIC}"));
        assert_eq!(keys().server_key_frame().to_vec(), expected);
    }

    #[test]
    fn what_does_not_prove_the_key_is_refused() {
        for at in 0..vector().len() {
            let mut bytes = vector();
            bytes[at] ^= 1;
            assert_eq!(keys().open(&bytes).unwrap_err(), LoginError::Box, "bit in byte {at}");
        }
        for len in 0..vector().len() {
            assert!(keys().open(&vector()[..len]).is_err(), "first {len} bytes");
        }
        let mut zero = vector();
        zero[..32].fill(0);
        assert_eq!(keys().open(&zero).unwrap_err(), LoginError::ZeroKey);
        assert!(matches!(keys().open(&sealed(b"")).unwrap_err(), LoginError::Json(_)));
    }

    #[test]
    fn mesh_rights_need_both_keys_and_equality() {
        let with = |key: &str| keys().open(&sealed(format!(r#"{{"meshKey":"{key}"}}"#).as_bytes())).unwrap();
        let ours = [0xab; 32];
        assert!(with(&"AB".repeat(32)).is_mesh(Some(&ours)));
        assert!(!with(&"ab".repeat(32)).is_mesh(None));
        assert!(!with(&"ac".repeat(32)).is_mesh(Some(&ours)));
        assert!(!with(&"00".repeat(32)).is_mesh(Some(&[0; 32])));
        assert!(!keys().open(&vector()).unwrap().is_mesh(Some(&ours)));
    }

    #[test]
    fn frame_length_is_judged_at_the_header() {
        let max = 1000;
        assert_eq!(client_info_len(&[], max), Ok(None));
        assert_eq!(client_info_len(&[2, 0, 0, 0], max), Ok(None));
        assert_eq!(client_info_len(&[2, 0, 0, 0, 0x68], max), Ok(Some(0x68)));
        assert_eq!(client_info_len(&[4], max), Err(LoginError::NotClientInfo(4)));
        assert_eq!(client_info_len(&[4, 0, 0, 0, 0x68], max), Err(LoginError::NotClientInfo(4)));
        assert_eq!(client_info_len(&[2, 0, 0, 0, 55], max), Err(LoginError::Length(55)));
        assert_eq!(client_info_len(&[2, 0, 0, 3, 0xe9], max), Err(LoginError::Length(1001)));
        assert_eq!(client_info_len(&[2, 255, 255, 255, 255], max), Err(LoginError::Length(u32::MAX)));
    }
}
