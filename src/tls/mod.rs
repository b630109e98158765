//! TLS: who we are, how a connection begins, and the records that follow.
//!
//! The handshake is rustls' work, at the edge. A TLS 1.3 connection then continues on [`record::RecordLayer`], which
//! opens and seals between buffers of its caller; a TLS 1.2 connection stays with rustls. Either way the state is a
//! plain value that moves with its session from thread to thread.

pub mod handshake;
pub mod identity;
pub mod outgoing;
pub mod record;
mod tls12;

use std::fmt;

use handshake::TlsVersion;
pub use record::{Opened, RecordLayer};
pub use tls12::Tls12;

/// What stands between a session's frames and its socket.
#[derive(Debug)]
pub enum Transport {
    Plain,
    Tls13(Box<RecordLayer>),
    Tls12(Box<Tls12>),
}

/// Why a TLS connection cannot go on. All but `Ours` are the peer's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsFault {
    #[error("peer sent a record that TLS forbids: {0}")]
    Forbidden(Alert),
    #[error("peer ended the connection with alert {0}")]
    PeerAlert(u8),
    #[error("our own TLS state failed")]
    Ours,
}

/// Alert descriptions that we send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Alert {
    CloseNotify = 0,
    UnexpectedMessage = 10,
    BadRecordMac = 20,
    RecordOverflow = 22,
    DecodeError = 50,
    InternalError = 80,
}

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CloseNotify => "close_notify",
            Self::UnexpectedMessage => "unexpected_message",
            Self::BadRecordMac => "bad_record_mac",
            Self::RecordOverflow => "record_overflow",
            Self::DecodeError => "decode_error",
            Self::InternalError => "internal_error",
        })
    }
}

/// Whether the peer may still send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Open,
    /// close_notify has come; bytes behind it are ignored.
    Closed,
}

impl Transport {
    /// `None`: plain.
    pub fn version(&self) -> Option<TlsVersion> {
        match self {
            Self::Plain => None,
            Self::Tls12(_) => Some(TlsVersion::V1_2),
            Self::Tls13(_) => Some(TlsVersion::V1_3),
        }
    }
}

/// The growing forms, for the edge, where a connection sees a handful of records. Workers have buffers of their own.
impl Transport {
    /// Opens every whole record at the front of `wire`, removes them, and appends what they carried to `plain`.
    ///
    /// # Errors
    /// The peer's or our fault; `plain` then holds what came before it.
    pub fn open_into(&mut self, wire: &mut Vec<u8>, plain: &mut Vec<u8>) -> Result<Flow, TlsFault> {
        match self {
            Self::Plain => {
                plain.append(wire);
                Ok(Flow::Open)
            }
            Self::Tls13(records) => {
                let (mut used, mut at) = (0, plain.len());
                // No record carries more than it is long.
                plain.resize(at + wire.len(), 0);
                let flow = loop {
                    match records.open(&wire[used..], &mut plain[at..]) {
                        Ok(Opened::Need) => break Ok(Flow::Open),
                        Ok(Opened::Data { len, used: n }) => {
                            at += len;
                            used += n;
                        }
                        Ok(Opened::Control { used: n }) => used += n,
                        Ok(Opened::Closed) => {
                            used = wire.len();
                            break Ok(Flow::Closed);
                        }
                        Err(fault) => break Err(fault),
                    }
                };
                plain.truncate(at);
                wire.drain(..used);
                flow
            }
            Self::Tls12(conn) => {
                let (used, flow) = conn.open(wire, plain)?;
                wire.drain(..used);
                Ok(flow)
            }
        }
    }

    /// Appends `data`, sealed, to `out`.
    ///
    /// # Errors
    /// Only ours: a record limit without a way to change keys.
    pub fn seal_into(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), TlsFault> {
        match self {
            Self::Plain => out.extend_from_slice(data),
            Self::Tls13(records) => {
                for part in data.chunks(record::MAX_PLAINTEXT) {
                    if records.key_update_due() {
                        records.key_update(out)?;
                    }
                    records.seal_message(record::APPLICATION_DATA, part, out)?;
                }
            }
            Self::Tls12(conn) => conn.seal(data, out)?,
        }
        Ok(())
    }

    /// Appends the alert that tells the peer why this ends; `None` is an ordinary end (close_notify).
    /// Nothing for a plain connection, nor in answer to the peer's own alert.
    pub fn farewell(&mut self, fault: Option<TlsFault>, out: &mut Vec<u8>) {
        let alert = match fault {
            None => Alert::CloseNotify,
            Some(TlsFault::Forbidden(alert)) => alert,
            Some(TlsFault::PeerAlert(_)) => return,
            Some(TlsFault::Ours) => Alert::InternalError,
        };
        match self {
            Self::Plain => {}
            Self::Tls13(records) => {
                let level = if alert == Alert::CloseNotify { 1 } else { 2 };
                // A record that cannot be sealed leaves the peer with a bare TCP close, which it must survive anyway.
                let _ = records.seal_message(record::ALERT, &[level, alert as u8], out);
            }
            Self::Tls12(conn) => conn.farewell(out),
        }
    }
}
