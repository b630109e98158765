//! The handshake, over bytes.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};

use super::TlsError;
use super::record::RecordLayer;

/// A handshake in progress: bytes of the relay in, bytes for the relay out.
pub struct Handshake {
    conn: UnbufferedClientConnection,
    incoming: Vec<u8>,
}

/// What a completed handshake leaves.
pub struct Established {
    pub records: RecordLayer,
    /// The relay's DERP key, where its certificate chain names it.
    pub relay_key: Option<[u8; 32]>,
    /// Whatever came behind the relay's last handshake message.
    pub leftover: Vec<u8>,
}

impl Handshake {
    pub fn new(config: &Arc<ClientConfig>, name: &ServerName<'static>) -> Result<Self, TlsError> {
        Ok(Self { conn: UnbufferedClientConnection::new(Arc::clone(config), name.clone())?, incoming: Vec::new() })
    }

    /// True when the handshake is complete; what was appended to `out` must still be sent. Call it
    /// with no bytes to begin.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<bool, TlsError> {
        self.incoming.extend_from_slice(bytes);
        loop {
            let UnbufferedStatus { discard, state } = self.conn.process_tls_records(&mut self.incoming);
            let complete = match state? {
                ConnectionState::EncodeTlsData(mut data) => {
                    let mut size = 0;
                    loop {
                        let at = out.len();
                        out.resize(at + size, 0);
                        match data.encode(&mut out[at..]) {
                            Ok(written) => {
                                out.truncate(at + written);
                                break;
                            }
                            Err(EncodeError::InsufficientSize(needed)) => {
                                out.truncate(at);
                                size = needed.required_size;
                            }
                            Err(EncodeError::AlreadyEncoded) => {
                                unreachable!("each state is encoded once")
                            }
                        }
                    }
                    None
                }
                ConnectionState::TransmitTlsData(data) => {
                    data.done();
                    None
                }
                ConnectionState::BlockedHandshake => Some(false),
                ConnectionState::WriteTraffic(_) => Some(true),
                // A DERP relay speaks first only after the request.
                _ => return Err(TlsError::EarlyData),
            };
            self.incoming.drain(..discard);
            if let Some(complete) = complete {
                return Ok(complete);
            }
        }
    }

    /// Only after `feed` has returned true.
    pub fn finish(self) -> Result<Established, TlsError> {
        let relay_key = self.conn.peer_certificates().and_then(relay_key);
        let (secrets, kernel) = self.conn.dangerous_into_kernel_connection()?;
        Ok(Established { records: RecordLayer::new(secrets, kernel)?, relay_key, leftover: self.incoming })
    }
}

/// Relays append a certificate whose common name is `derpkey` and their key in hex. The name is
/// found by its encoding: attribute type 2.5.4.3, a string type, a length of 71.
fn relay_key(chain: &[CertificateDer<'_>]) -> Option<[u8; 32]> {
    const COMMON_NAME: [u8; 5] = [0x06, 0x03, 0x55, 0x04, 0x03];
    const PREFIX: &[u8] = b"derpkey";
    const LEN: usize = PREFIX.len() + 64;
    chain.iter().find_map(|certificate| {
        certificate.windows(COMMON_NAME.len() + 2 + LEN).find_map(|window| {
            let [_, len, name @ ..] = window.strip_prefix(&COMMON_NAME)? else {
                return None;
            };
            let hex = name.strip_prefix(PREFIX).filter(|_| usize::from(*len) == LEN)?;
            let mut key = [0; 32];
            for (byte, pair) in key.iter_mut().zip(hex.chunks_exact(2)) {
                *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
            }
            Some(key)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_relay_key_is_read_from_the_chain() {
        let name = format!("derpkey{}", "5a".repeat(32));
        let mut params = rcgen::CertificateParams::new(vec!["derp.test".into()]).unwrap();
        let plain = params.clone().self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let meta = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        assert_eq!(relay_key(&[plain.der().clone()]), None);
        assert_eq!(relay_key(&[plain.der().clone(), meta.der().clone()]), Some([0x5a; 32]));
    }
}
