//! An established TLS 1.2 connection: rustls keeps the record layer.

use std::fmt;

use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncryptError, UnbufferedStatus};

use super::{Alert, Flow, TlsFault, record};

/// Room for one sealed record around its plaintext: header, explicit nonce, tag.
const RECORD_OVERHEAD: usize = 5 + 8 + 16;

/// Most bytes of a record behind its header.
const MAX_BODY: usize = record::MAX_PLAINTEXT + 2048;

pub struct Tls12 {
    conn: UnbufferedServerConnection,
    /// The alert that rustls wants sent; made when it first refuses something.
    alert: Vec<u8>,
}

impl Tls12 {
    /// `conn` has finished its handshake and has nothing left to send.
    pub fn new(conn: UnbufferedServerConnection) -> Self {
        Self { conn, alert: Vec::new() }
    }

    /// Opens every whole record at the front of `wire`; appends what they carried to `plain`. Returns how many bytes
    /// of `wire` are used up.
    ///
    /// # Errors
    /// The connection is over; [`Self::farewell`] has rustls' alert.
    pub fn open(&mut self, wire: &mut [u8], plain: &mut Vec<u8>) -> Result<(usize, Flow), TlsFault> {
        let (whole, refused) = whole_records(wire);
        let mut used = 0;
        loop {
            let UnbufferedStatus { mut discard, state, .. } = self.conn.process_tls_records(&mut wire[used..whole]);
            let state = match state {
                Ok(state) => state,
                Err(error) => {
                    self.collect_alert();
                    return Err(match error {
                        rustls::Error::AlertReceived(alert) => TlsFault::PeerAlert(alert.into()),
                        _ => TlsFault::Forbidden(Alert::UnexpectedMessage),
                    });
                }
            };
            match state {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(|_| TlsFault::Forbidden(Alert::BadRecordMac))?;
                        discard += record.discard;
                        plain.extend_from_slice(record.payload);
                    }
                    used += discard;
                }
                ConnectionState::PeerClosed | ConnectionState::Closed => return Ok((used + discard, Flow::Closed)),
                ConnectionState::EncodeTlsData(mut data) => {
                    // An answer that rustls owes in mid-connection, such as the refusal of a renegotiation.
                    encode(&mut data, &mut self.alert);
                    used += discard;
                }
                ConnectionState::TransmitTlsData(data) => {
                    data.done();
                    used += discard;
                }
                _ => {
                    used += discard;
                    if discard == 0 {
                        return refused.map_or(Ok((used, Flow::Open)), |alert| Err(TlsFault::Forbidden(alert)));
                    }
                }
            }
        }
    }

    /// Appends `data` to `out` as records of at most 16 KiB.
    ///
    /// # Errors
    /// `Ours`: the AEAD's record limit is reached, which in TLS 1.2 ends the connection.
    pub fn seal(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), TlsFault> {
        let records = data.len() / record::MAX_PLAINTEXT + 1;
        let mut room = data.len() + records * RECORD_OVERHEAD;
        let at = out.len();
        out.append(&mut self.alert);
        let at = at.max(out.len());
        loop {
            out.resize(at + room, 0);
            let UnbufferedStatus { state, .. } = self.conn.process_tls_records(&mut []);
            let Ok(ConnectionState::WriteTraffic(mut traffic)) = state else {
                out.truncate(at);
                return Err(TlsFault::Ours);
            };
            match traffic.encrypt(data, &mut out[at..]) {
                Ok(n) => {
                    out.truncate(at + n);
                    return Ok(());
                }
                Err(EncryptError::InsufficientSize(need)) => room = need.required_size,
                Err(EncryptError::EncryptExhausted) => {
                    out.truncate(at);
                    return Err(TlsFault::Ours);
                }
            }
        }
    }

    /// Appends the alert that rustls wants sent, or else close_notify.
    pub fn farewell(&mut self, out: &mut Vec<u8>) {
        if !self.alert.is_empty() {
            out.append(&mut self.alert);
            return;
        }
        let UnbufferedStatus { state, .. } = self.conn.process_tls_records(&mut []);
        if let Ok(ConnectionState::WriteTraffic(mut traffic)) = state {
            let at = out.len();
            out.resize(at + 64, 0);
            let n = traffic.queue_close_notify(&mut out[at..]).unwrap_or(0);
            out.truncate(at + n);
        }
    }

    fn collect_alert(&mut self) {
        while self.conn.wants_write() {
            let UnbufferedStatus { state, .. } = self.conn.process_tls_records(&mut []);
            match state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, &mut self.alert),
                _ => return,
            }
        }
    }
}

impl fmt::Debug for Tls12 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls12")
    }
}

/// Length of the whole records at the front of `wire` that rustls may see, and what is wrong with the one behind them.
///
/// Handshake records never reach rustls again. There is no renegotiation; and of a message in parts rustls would keep
/// positions in `wire`, and look there in the next call, which has other bytes or none: a stranger could end the
/// process.
fn whole_records(wire: &[u8]) -> (usize, Option<Alert>) {
    let mut whole = 0;
    while let Some(header) = wire[whole..].first_chunk::<{ record::HEADER_LEN }>() {
        if !matches!(header[0], record::ALERT | record::APPLICATION_DATA) {
            return (whole, Some(Alert::UnexpectedMessage));
        }
        let len = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if len > MAX_BODY {
            return (whole, Some(Alert::RecordOverflow));
        }
        if wire.len() - whole < record::HEADER_LEN + len {
            break;
        }
        whole += record::HEADER_LEN + len;
    }
    (whole, None)
}

pub(super) fn encode(
    data: &mut rustls::unbuffered::EncodeTlsData<'_, rustls::server::ServerConnectionData>,
    out: &mut Vec<u8>,
) {
    use rustls::unbuffered::EncodeError;
    let at = out.len();
    let mut room = 256;
    loop {
        out.resize(at + room, 0);
        match data.encode(&mut out[at..]) {
            Ok(n) => {
                out.truncate(at + n);
                return;
            }
            Err(EncodeError::InsufficientSize(need)) => room = need.required_size,
            Err(EncodeError::AlreadyEncoded) => {
                out.truncate(at);
                return;
            }
        }
    }
}
