//! The beginning of a TLS connection, by rustls, over buffers that the caller owns.
//!
//! What makes this more than a loop around rustls: bytes behind the client's last handshake record belong to the
//! [`Transport`] that takes over, so rustls must not see them. It is therefore given one record at a time.

use std::fmt;
use std::sync::Arc;

use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{ProtocolVersion, ServerConfig};

use super::{Alert, RecordLayer, Tls12, Transport, record, tls12};
use crate::limits;

/// Why a handshake failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum HandshakeError {
    #[error("peer broke the handshake: {0}")]
    Peer(rustls::Error),
    #[error("peer's handshake is longer than {} bytes", limits::HANDSHAKE_IN_MAX)]
    TooLarge,
    #[error("our own TLS state failed: {0}")]
    Ours(rustls::Error),
}

/// What [`Handshake::advance`] has come to.
#[derive(Debug)]
pub enum Step {
    /// Send what is in `out`, then append more from the peer.
    NeedInput,
    Done(Established),
}

/// A finished handshake. What stands in the caller's `out` is still to be sent, before anything that is sealed later.
#[derive(Debug)]
pub struct Established {
    pub transport: Transport,
    pub version: TlsVersion,
    /// Data that rustls has opened already, in front of everything in `wire_in`.
    pub plain: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    V1_2,
    V1_3,
}

pub struct Handshake {
    /// `None` once finished or failed.
    conn: Option<UnbufferedServerConnection>,
    /// How much of the caller's `wire_in` rustls has seen and not yet used up: parts of a message over many records.
    seen: usize,
    plain: Vec<u8>,
}

impl Handshake {
    /// `config` must allow secrets to be extracted; without, no TLS 1.3 handshake can finish.
    ///
    /// # Errors
    /// Only ours.
    pub fn new(config: Arc<ServerConfig>) -> Result<Self, HandshakeError> {
        let conn = UnbufferedServerConnection::new(config).map_err(HandshakeError::Ours)?;
        Ok(Self { conn: Some(conn), seen: 0, plain: Vec::new() })
    }

    /// Takes what it can from the front of `wire_in` and appends what is to be sent to `out`.
    ///
    /// # Errors
    /// The connection is over; the alert that tells the peer why is in `out`.
    pub fn advance(&mut self, wire_in: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<Step, HandshakeError> {
        loop {
            let fed = self.feed(wire_in, out);
            let conn = self.conn.as_ref().ok_or_else(finished)?;
            if let Err(error) = fed {
                self.conn = None;
                return Err(error);
            }
            if !conn.is_handshaking() {
                return self.finish().map(Step::Done);
            }
            match next_record(&wire_in[self.seen..]) {
                Some(len) => self.seen += len,
                None if wire_in.len() > limits::HANDSHAKE_IN_MAX => return Err(HandshakeError::TooLarge),
                None => return Ok(Step::NeedInput),
            }
        }
    }

    /// Lets rustls work on the records that it may see, until it wants another.
    fn feed(&mut self, wire_in: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<(), HandshakeError> {
        let conn = self.conn.as_mut().ok_or_else(finished)?;
        loop {
            let UnbufferedStatus { discard, state, .. } = conn.process_tls_records(&mut wire_in[..self.seen]);
            let more = match state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    tls12::encode(&mut data, out);
                    true
                }
                // `out` is the caller's duty now.
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    true
                }
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(Ok(record)) = traffic.next_record() {
                        self.plain.extend_from_slice(record.payload);
                    }
                    true
                }
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                    return Err(HandshakeError::Peer(rustls::Error::HandshakeNotComplete));
                }
                Ok(_) => false,
                Err(error) => {
                    if is_too_old(wire_in) {
                        out.extend_from_slice(&PROTOCOL_VERSION);
                    } else {
                        let begin = out.len();
                        collect_alert(conn, out);
                        blame_ourselves(&mut out[begin..]);
                    }
                    return Err(HandshakeError::Peer(error));
                }
            };
            wire_in.drain(..discard);
            self.seen -= discard;
            if !more {
                return Ok(());
            }
        }
    }

    fn finish(&mut self) -> Result<Established, HandshakeError> {
        let conn = self.conn.take().ok_or_else(finished)?;
        let plain = std::mem::take(&mut self.plain);
        if conn.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
            let transport = Transport::Tls12(Box::new(Tls12::new(conn)));
            return Ok(Established { transport, version: TlsVersion::V1_2, plain });
        }
        let (secrets, kernel) = conn.dangerous_into_kernel_connection().map_err(HandshakeError::Ours)?;
        let records = RecordLayer::new(secrets, Some(Box::new(kernel)))
            .map_err(|fault| HandshakeError::Ours(rustls::Error::General(fault.to_string())))?;
        Ok(Established { transport: Transport::Tls13(Box::new(records)), version: TlsVersion::V1_3, plain })
    }
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshake").field("seen", &self.seen).finish_non_exhaustive()
    }
}

/// The alert protocol_version, in a record that every version of TLS reads.
const PROTOCOL_VERSION: [u8; 7] = [21, 3, 1, 0, 2, 2, 70];

/// Whether the connection begins with a ClientHello of a version below TLS 1.2. rustls misses an extension of newer
/// versions first and complains of that, which tells an old client nothing.
fn is_too_old(wire_in: &[u8]) -> bool {
    const CLIENT_HELLO: u8 = 1;
    matches!(wire_in, [22, _, _, _, _, CLIENT_HELLO, _, _, _, major, minor, ..] if (*major, *minor) < (3, 3))
}

fn finished() -> HandshakeError {
    HandshakeError::Ours(rustls::Error::General("the handshake is over".to_owned()))
}

/// Length of the record at the front of `wire`, when all of it is there. What cannot be a record is left to rustls to
/// judge, all at once.
fn next_record(wire: &[u8]) -> Option<usize> {
    let header = wire.first_chunk::<{ record::HEADER_LEN }>();
    let Some(header) = header else {
        let wrong = wire.first().is_some_and(|kind| !RECORD_KINDS.contains(kind));
        return wrong.then_some(wire.len());
    };
    let len = usize::from(u16::from_be_bytes([header[3], header[4]]));
    if !RECORD_KINDS.contains(&header[0]) || header[1] != 3 || len > MAX_RECORD_BODY {
        return Some(wire.len());
    }
    (wire.len() >= record::HEADER_LEN + len).then_some(record::HEADER_LEN + len)
}

/// change_cipher_spec to application_data.
const RECORD_KINDS: std::ops::RangeInclusive<u8> = 20..=23;
/// TLS 1.2 has the larger one.
const MAX_RECORD_BODY: usize = (1 << 14) + 2048;

/// Without a certificate to show, rustls says access_denied (which nothing else here makes it say), as if the client
/// had done wrong. The reference says internal_error, and clients try again.
fn blame_ourselves(alert: &mut [u8]) {
    const ACCESS_DENIED: u8 = 49;
    if let [21, 3, _, 0, 2, 2, description @ ACCESS_DENIED] = alert {
        *description = Alert::InternalError as u8;
    }
}

/// Only while something is queued: then rustls answers without a look at its input. With a handshake message half
/// read it would index into the empty slice, and a stranger could end the process.
fn collect_alert(conn: &mut UnbufferedServerConnection, out: &mut Vec<u8>) {
    while conn.wants_write() {
        let UnbufferedStatus { state, .. } = conn.process_tls_records(&mut []);
        match state {
            Ok(ConnectionState::EncodeTlsData(mut data)) => tls12::encode(&mut data, out),
            _ => return,
        }
    }
}
