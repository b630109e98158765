//! The TLS 1.3 record layer (RFC 8446, section 5) of an established connection.
//!
//! Records are opened from where they were received to where their plaintext lies side by side, and sealed from there
//! to where they are sent from, or in place: the two passes of the cipher are the only ones over the bytes.
//!
//! rustls has done the handshake; it stays behind [`Rekey`] for the one thing that needs its key schedule, the key
//! update. Everything else that can follow a handshake on a server without client authentication is here: data,
//! alerts, padding, KeyUpdate in both directions, and the record limit of AES-GCM.

use std::fmt;
use std::ops::Range;

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{ConnectionTrafficSecrets, ExtractedSecrets};

use super::{Alert, TlsFault};
use crate::mem::warm::warm;

pub const HEADER_LEN: usize = 5;
/// Inner content type and AEAD tag behind the plaintext.
pub const TRAILER_LEN: usize = 1 + TAG_LEN;
/// Most application bytes in one record.
pub const MAX_PLAINTEXT: usize = 1 << 14;
/// Most bytes of a record behind its header.
pub const MAX_CIPHERTEXT: usize = MAX_PLAINTEXT + 256;
/// Most bytes of a whole record.
pub const MAX_RECORD: usize = HEADER_LEN + MAX_CIPHERTEXT;

pub const ALERT: u8 = 21;
pub const HANDSHAKE: u8 = 22;
pub const APPLICATION_DATA: u8 = 23;

const TAG_LEN: usize = 16;
const KEY_UPDATE: u8 = 24;
const KEY_UPDATE_LEN: usize = 5;
/// AES-GCM keeps its confidentiality margin for 2^24.5 full records per key (RFC 8446, 5.5); keys are changed at half
/// of 2^24, so that a peer which is slow to read never meets the limit.
const REKEY_AFTER: u64 = 1 << 23;

/// Makes the next traffic key of one direction. Implemented by rustls' key schedule.
pub trait Rekey: Send {
    fn next_rx(&mut self) -> Option<ConnectionTrafficSecrets>;
    fn next_tx(&mut self) -> Option<ConnectionTrafficSecrets>;
}

impl Rekey for KernelConnection<ServerConnectionData> {
    fn next_rx(&mut self) -> Option<ConnectionTrafficSecrets> {
        self.update_rx_secret().ok().map(|(_, secrets)| secrets)
    }

    fn next_tx(&mut self) -> Option<ConnectionTrafficSecrets> {
        self.update_tx_secret().ok().map(|(_, secrets)| secrets)
    }
}

/// What stood at the front of the bytes that [`RecordLayer::open`] was given.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// Not a whole record yet.
    Need,
    /// So many bytes of application data.
    Data { len: usize, used: usize },
    /// A record that carries nothing for the layer above.
    Control { used: usize },
    /// close_notify.
    Closed,
}

/// Both directions of one connection.
pub struct RecordLayer {
    rx: Half,
    tx: Half,
    rekey: Option<Box<dyn Rekey>>,
    rekey_after: u64,
    /// The peer asked for our next key, or our key is used up.
    key_update_due: bool,
    /// A handshake message that began in an earlier record.
    partial: [u8; KEY_UPDATE_LEN],
    partial_len: u8,
}

impl RecordLayer {
    /// Takes over a TLS 1.3 connection at the sequence numbers in `secrets`.
    ///
    /// # Errors
    /// `Ours` for a suite that TLS 1.3 does not have.
    pub fn new(secrets: ExtractedSecrets, rekey: Option<Box<dyn Rekey>>) -> Result<Self, TlsFault> {
        Ok(Self {
            rx: Half::new(secrets.rx.0, &secrets.rx.1)?,
            tx: Half::new(secrets.tx.0, &secrets.tx.1)?,
            rekey,
            rekey_after: REKEY_AFTER,
            key_update_due: false,
            partial: [0; KEY_UPDATE_LEN],
            partial_len: 0,
        })
    }

    /// Changes the number of records after which a new sending key is taken. For tests of the limit.
    pub fn set_rekey_after(&mut self, records: u64) {
        self.rekey_after = records;
    }

    /// Opens the record at the front of `wire` to the front of `out`, which is at least as long as `wire` or as
    /// [`MAX_CIPHERTEXT`]. What `out` holds behind the application data is no more than scrap.
    ///
    /// # Errors
    /// The connection is over; [`super::Transport::farewell`] makes the alert that says so.
    #[inline]
    pub fn open(&mut self, wire: &[u8], out: &mut [u8]) -> Result<Opened, TlsFault> {
        let Some(header) = wire.first_chunk::<HEADER_LEN>() else {
            return Ok(Opened::Need);
        };
        let len = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if header[0] != APPLICATION_DATA {
            return Err(TlsFault::Forbidden(Alert::UnexpectedMessage));
        }
        if len > MAX_CIPHERTEXT {
            return Err(TlsFault::Forbidden(Alert::RecordOverflow));
        }
        if len < TRAILER_LEN {
            return Err(TlsFault::Forbidden(Alert::BadRecordMac));
        }
        let used = HEADER_LEN + len;
        let Some(record) = wire.get(..used) else {
            return Ok(Opened::Need);
        };
        let (sealed, tag) = record[HEADER_LEN..].split_at(len - TAG_LEN);
        let inner = out.get_mut(..sealed.len()).ok_or(TlsFault::Ours)?;
        self.rx.open(header, sealed, tag, inner)?;
        if inner.len() > MAX_PLAINTEXT + 1 {
            return Err(TlsFault::Forbidden(Alert::RecordOverflow));
        }
        // The content type is the last byte that is not padding.
        let Some(end) = inner.iter().rposition(|&b| b != 0) else {
            return Err(TlsFault::Forbidden(Alert::UnexpectedMessage));
        };
        let content = inner[end];
        if content == APPLICATION_DATA && self.partial_len == 0 {
            return Ok(Opened::Data { len: end, used });
        }
        self.control(content, &inner[..end])
            .map(|closed| if closed { Opened::Closed } else { Opened::Control { used } })
    }

    /// Seals `buf[start..end]` as one record of application data, in place; the record is what is returned.
    ///
    /// `buf` has [`HEADER_LEN`] bytes before `start` and [`TRAILER_LEN`] behind `end`, and `end - start` is at most
    /// [`MAX_PLAINTEXT`].
    ///
    /// # Errors
    /// Only ours: the AEAD refused.
    #[inline]
    pub fn seal_in_place(&mut self, buf: &mut [u8], start: usize, end: usize) -> Result<Range<usize>, TlsFault> {
        self.seal_typed(APPLICATION_DATA, buf, start, end)
    }

    /// Seals `plain` as one record of application data; `record` is [`HEADER_LEN`] and [`TRAILER_LEN`] longer, and
    /// `plain` at most [`MAX_PLAINTEXT`].
    ///
    /// # Errors
    /// Only ours: the AEAD refused.
    #[inline]
    pub fn seal(&mut self, plain: &[u8], record: &mut [u8]) -> Result<(), TlsFault> {
        debug_assert!(plain.len() <= MAX_PLAINTEXT && record.len() == HEADER_LEN + plain.len() + TRAILER_LEN);
        let (header, body) = record.split_at_mut(HEADER_LEN);
        header.copy_from_slice(&record_header(plain.len()));
        let (sealed, trailer) = body.split_at_mut(plain.len());
        self.tx.seal_apart(header, plain, sealed, trailer)
    }

    /// Asks for what [`Self::open`] reads first. The key schedule lies behind a pointer that the library does not show.
    #[inline]
    pub fn warm_rx(&self) {
        warm(&self.rx);
    }

    /// The same for sealing.
    #[inline]
    pub fn warm_tx(&self) {
        warm(&self.tx);
    }

    /// Whether [`Self::key_update`] must come before the next record of data.
    #[inline]
    pub fn key_update_due(&self) -> bool {
        self.key_update_due || self.tx.seq >= self.rekey_after
    }

    /// Appends a KeyUpdate and moves to the next sending key.
    ///
    /// # Errors
    /// Only ours: no next key can be made.
    pub fn key_update(&mut self, out: &mut Vec<u8>) -> Result<(), TlsFault> {
        self.seal_message(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0], out)?;
        let next = self.rekey.as_mut().and_then(|r| r.next_tx()).ok_or(TlsFault::Ours)?;
        self.tx = Half::new(0, &next)?;
        self.key_update_due = false;
        Ok(())
    }

    /// Appends one record of the given inner content type; `message` is at most [`MAX_PLAINTEXT`] bytes.
    ///
    /// # Errors
    /// Only ours: the AEAD refused.
    pub fn seal_message(&mut self, content: u8, message: &[u8], out: &mut Vec<u8>) -> Result<(), TlsFault> {
        let at = out.len();
        out.extend_from_slice(&[0; HEADER_LEN]);
        out.extend_from_slice(message);
        out.extend_from_slice(&[0; TRAILER_LEN]);
        let buf = &mut out[at..];
        self.seal_typed(content, buf, HEADER_LEN, HEADER_LEN + message.len()).map(drop)
    }

    #[inline]
    fn seal_typed(&mut self, content: u8, buf: &mut [u8], start: usize, end: usize) -> Result<Range<usize>, TlsFault> {
        debug_assert!(end - start <= MAX_PLAINTEXT);
        let record = &mut buf[start - HEADER_LEN..end + TRAILER_LEN];
        let (header, body) = record.split_at_mut(HEADER_LEN);
        header.copy_from_slice(&record_header(end - start));
        let inner_len = body.len() - TAG_LEN;
        let (inner, tag) = body.split_at_mut(inner_len);
        inner[inner_len - 1] = content;
        self.tx.seal(header, inner, tag)?;
        Ok(start - HEADER_LEN..end + TRAILER_LEN)
    }

    /// Anything but plain data. `Ok(true)`: close_notify.
    #[cold]
    fn control(&mut self, content: u8, message: &[u8]) -> Result<bool, TlsFault> {
        const CLOSE_NOTIFY: u8 = 0;
        const USER_CANCELED: u8 = 90;
        match (content, message) {
            (HANDSHAKE, [_, ..]) => self.handshake_message(message).map(|()| false),
            // Nothing may come between the parts of a handshake message.
            _ if self.partial_len != 0 => Err(TlsFault::Forbidden(Alert::UnexpectedMessage)),
            (ALERT, [_, CLOSE_NOTIFY]) => Ok(true),
            (ALERT, [_, USER_CANCELED]) => Ok(false),
            (ALERT, [_, description]) => Err(TlsFault::PeerAlert(*description)),
            (ALERT, _) => Err(TlsFault::Forbidden(Alert::DecodeError)),
            _ => Err(TlsFault::Forbidden(Alert::UnexpectedMessage)),
        }
    }

    /// KeyUpdate is the only message that a client may still send. It may be cut over records, and ends its record:
    /// what follows is under the next key.
    fn handshake_message(&mut self, message: &[u8]) -> Result<(), TlsFault> {
        let have = usize::from(self.partial_len);
        if have + message.len() > KEY_UPDATE_LEN {
            return Err(TlsFault::Forbidden(Alert::UnexpectedMessage));
        }
        self.partial[have..have + message.len()].copy_from_slice(message);
        let have = have + message.len();
        const HEAD: [u8; 4] = [KEY_UPDATE, 0, 0, 1];
        let known = have.min(HEAD.len());
        if self.partial[..known] != HEAD[..known] {
            return Err(TlsFault::Forbidden(Alert::UnexpectedMessage));
        }
        self.partial_len = have as u8;
        if have < KEY_UPDATE_LEN {
            return Ok(());
        }
        self.partial_len = 0;
        let requested = match self.partial[4] {
            0 => false,
            1 => true,
            _ => return Err(TlsFault::Forbidden(Alert::DecodeError)),
        };
        let next = self.rekey.as_mut().and_then(|r| r.next_rx()).ok_or(TlsFault::Ours)?;
        self.rx = Half::new(0, &next)?;
        self.key_update_due |= requested;
        Ok(())
    }
}

/// The header of a record that carries `len` bytes.
#[inline]
fn record_header(len: usize) -> [u8; HEADER_LEN] {
    let [high, low] = ((len + TRAILER_LEN) as u16).to_be_bytes();
    [APPLICATION_DATA, 3, 3, high, low]
}

impl fmt::Debug for RecordLayer {
    /// Sequence numbers only: keys are never printed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordLayer")
            .field("rx_seq", &self.rx.seq)
            .field("tx_seq", &self.tx.seq)
            .finish_non_exhaustive()
    }
}

/// One direction: key, nonce base, number of the next record.
struct Half {
    key: LessSafeKey,
    iv: [u8; aead::NONCE_LEN],
    seq: u64,
}

impl Half {
    fn new(seq: u64, secrets: &ConnectionTrafficSecrets) -> Result<Self, TlsFault> {
        let (algorithm, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&aead::AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&aead::AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&aead::CHACHA20_POLY1305, key, iv),
            _ => return Err(TlsFault::Ours),
        };
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| TlsFault::Ours)?;
        let iv = iv.as_ref().try_into().map_err(|_| TlsFault::Ours)?;
        Ok(Self { key: LessSafeKey::new(key), iv, seq })
    }

    #[inline]
    fn nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, seq) in nonce[4..].iter_mut().zip(self.seq.to_be_bytes()) {
            *byte ^= seq;
        }
        self.seq += 1;
        Nonce::assume_unique_for_key(nonce)
    }

    #[inline]
    fn open(&mut self, aad: &[u8], sealed: &[u8], tag: &[u8], out: &mut [u8]) -> Result<(), TlsFault> {
        let nonce = self.nonce();
        self.key
            .open_separate_gather(nonce, Aad::from(aad), sealed, tag, out)
            .map_err(|_| TlsFault::Forbidden(Alert::BadRecordMac))
    }

    #[inline]
    fn seal(&mut self, aad: &[u8], inner: &mut [u8], tag: &mut [u8]) -> Result<(), TlsFault> {
        let nonce = self.nonce();
        let made = self.key.seal_in_place_separate_tag(nonce, Aad::from(aad), inner).map_err(|_| TlsFault::Ours)?;
        tag.copy_from_slice(made.as_ref());
        Ok(())
    }

    /// `trailer` takes the content type and the tag.
    #[inline]
    fn seal_apart(&mut self, aad: &[u8], plain: &[u8], out: &mut [u8], trailer: &mut [u8]) -> Result<(), TlsFault> {
        let nonce = self.nonce();
        self.key
            .seal_out_of_place_scatter(nonce, Aad::from(aad), plain, out, &[APPLICATION_DATA], trailer)
            .map_err(|_| TlsFault::Ours)
    }
}
