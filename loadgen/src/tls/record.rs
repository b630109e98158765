//! Records of TLS 1.2 and 1.3, sealed and opened in place.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::{ConnectionTrafficSecrets, ExtractedSecrets, ProtocolVersion};

use super::TlsError;

const HEADER_LEN: usize = 5;
const TAG_LEN: usize = 16;
/// Most plaintext in one record.
const MAX_PLAIN: usize = 16 * 1024;
/// Longest record body a peer may send (TLS 1.2 allows 2048 bytes of expansion).
const MAX_BODY: usize = MAX_PLAIN + 2048;
/// RFC 8446 5.5 allows about 2^24.5 full records under one AES-GCM key.
const RECORDS_PER_KEY: u64 = 1 << 24;

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;
const KEY_UPDATE: u8 = 24;
const NEW_SESSION_TICKET: u8 = 4;

/// The data phase of one connection.
pub struct RecordLayer {
    seal: Direction,
    open: Direction,
    kernel: KernelConnection<ClientConnectionData>,
    records_per_key: u64,
    owes_key_update: bool,
    closed: bool,
}

impl RecordLayer {
    pub fn new(secrets: ExtractedSecrets, kernel: KernelConnection<ClientConnectionData>) -> Result<Self, TlsError> {
        let tls13 = kernel.protocol_version() == ProtocolVersion::TLSv1_3;
        Ok(Self {
            seal: Direction::new(secrets.tx, tls13)?,
            open: Direction::new(secrets.rx, tls13)?,
            kernel,
            records_per_key: RECORDS_PER_KEY,
            owes_key_update: false,
            closed: false,
        })
    }

    /// Opens every complete record at the start of `buf`, hands its plaintext on, and returns how
    /// many bytes those records took. The rest must come again, with more behind it.
    pub fn open<E: From<TlsError>>(
        &mut self,
        buf: &mut [u8],
        mut on_plain: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<usize, E> {
        let mut at = 0;
        while let Some(&[kind, major, minor, hi, lo]) = buf[at..].first_chunk() {
            let len = usize::from(u16::from_be_bytes([hi, lo]));
            if len > MAX_BODY {
                return Err(TlsError::RecordTooLong(len).into());
            }
            let Some(body) = buf[at + HEADER_LEN..].get_mut(..len) else {
                break;
            };
            at += HEADER_LEN + len;
            if self.open.tls13 && kind == CHANGE_CIPHER_SPEC {
                continue;
            }
            let (kind, plain) = self.open.open([kind, major, minor, hi, lo], body)?;
            match kind {
                DATA => on_plain(plain)?,
                HANDSHAKE if self.open.tls13 => {
                    let key_update = handshake(plain)?;
                    if let Some(wants_reply) = key_update {
                        let secrets = self.kernel.update_rx_secret().map_err(TlsError::from)?;
                        self.open = Direction::new(secrets, true)?;
                        self.owes_key_update |= wants_reply;
                    }
                }
                // close_notify
                ALERT if plain.get(1) == Some(&0) => self.closed = true,
                ALERT => return Err(TlsError::Alert(plain.get(1).copied().unwrap_or(0)).into()),
                other => return Err(TlsError::Unexpected(other).into()),
            }
        }
        Ok(at)
    }

    /// The relay has said that nothing more comes.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// The relay waits for a record of ours to change keys: write, even if there is nothing to say.
    pub fn owes_key_update(&self) -> bool {
        self.owes_key_update
    }

    fn renew_seal(&mut self, out: &mut Vec<u8>) -> Result<(), TlsError> {
        let start = self.seal.begin(out);
        out.extend_from_slice(&[KEY_UPDATE, 0, 0, 1, 0]);
        self.seal.end(HANDSHAKE, out, start);
        self.seal = Direction::new(self.kernel.update_tx_secret()?, true)?;
        self.owes_key_update = false;
        Ok(())
    }
}

/// Appends a stream of plaintext to a buffer, as records or as it is.
pub struct StreamWriter<'a> {
    out: &'a mut Vec<u8>,
    tls: Option<&'a mut RecordLayer>,
    /// Where the plaintext of the open record begins.
    start: usize,
}

impl<'a> StreamWriter<'a> {
    pub fn new(tls: Option<&'a mut RecordLayer>, out: &'a mut Vec<u8>) -> Result<Self, TlsError> {
        let mut writer = Self { out, tls, start: 0 };
        if let Some(tls) = &mut writer.tls {
            let spent = tls.seal.tls13 && tls.seal.seq >= tls.records_per_key;
            if spent || tls.owes_key_update {
                tls.renew_seal(writer.out)?;
            }
            writer.start = tls.seal.begin(writer.out);
        }
        Ok(writer)
    }

    pub fn put(&mut self, mut bytes: &[u8]) {
        if let Some(tls) = &mut self.tls {
            loop {
                let room = MAX_PLAIN - (self.out.len() - self.start);
                let Some((now, later)) = bytes.split_at_checked(room) else {
                    break;
                };
                if later.is_empty() {
                    break;
                }
                self.out.extend_from_slice(now);
                tls.seal.end(DATA, self.out, self.start);
                self.start = tls.seal.begin(self.out);
                bytes = later;
            }
        }
        self.out.extend_from_slice(bytes);
    }

    /// Seals the last record. Without it, what was put last is not part of the stream.
    pub fn finish(self) {
        if let Some(tls) = self.tls {
            if self.out.len() > self.start {
                tls.seal.end(DATA, self.out, self.start);
            } else {
                self.out.truncate(self.start - tls.seal.prefix_len());
            }
        }
    }
}

/// Key, IV and counter of one direction.
struct Direction {
    key: LessSafeKey,
    iv: [u8; 12],
    seq: u64,
    tls13: bool,
    /// TLS 1.2 with AES-GCM sends eight bytes of its nonce in each record.
    explicit_nonce: bool,
}

impl Direction {
    fn new((seq, secrets): (u64, ConnectionTrafficSecrets), tls13: bool) -> Result<Self, TlsError> {
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(rustls::Error::General("unknown cipher".into()).into()),
        };
        let key = UnboundKey::new(algorithm, key.as_ref())
            .map_err(|_| rustls::Error::General("key of the wrong length".into()))?;
        Ok(Self {
            explicit_nonce: !tls13 && algorithm != &CHACHA20_POLY1305,
            key: LessSafeKey::new(key),
            iv: iv.as_ref().try_into().expect("every IV has twelve bytes"),
            seq,
            tls13,
        })
    }

    fn prefix_len(&self) -> usize {
        HEADER_LEN + if self.explicit_nonce { 8 } else { 0 }
    }

    fn nonce(&self) -> [u8; 12] {
        let mut nonce = self.iv;
        for (byte, seq) in nonce[4..].iter_mut().zip(self.seq.to_be_bytes()) {
            *byte ^= seq;
        }
        nonce
    }

    fn tls12_aad(&self, kind: u8, plain_len: usize) -> [u8; 13] {
        let mut aad = [0; 13];
        aad[..8].copy_from_slice(&self.seq.to_be_bytes());
        aad[8..11].copy_from_slice(&[kind, 3, 3]);
        aad[11..].copy_from_slice(&(plain_len as u16).to_be_bytes());
        aad
    }

    fn open<'b>(&mut self, header: [u8; HEADER_LEN], body: &'b mut [u8]) -> Result<(u8, &'b [u8]), TlsError> {
        let mut nonce = self.nonce();
        let (kind, plain) = if self.tls13 {
            let nonce = Nonce::assume_unique_for_key(nonce);
            let inner = self.key.open_in_place(nonce, Aad::from(header), body).map_err(|_| TlsError::Unopenable)?;
            // Zeros may pad the content; the last other byte is its type.
            let end = inner.iter().rposition(|&b| b != 0).ok_or(TlsError::Unopenable)?;
            (inner[end], &inner[..end])
        } else {
            let mut body = body;
            if self.explicit_nonce {
                let (explicit, rest) = body.split_at_mut_checked(8).ok_or(TlsError::Unopenable)?;
                nonce[4..].copy_from_slice(explicit);
                body = rest;
            }
            let len = body.len().checked_sub(TAG_LEN).ok_or(TlsError::Unopenable)?;
            let aad = Aad::from(self.tls12_aad(header[0], len));
            let nonce = Nonce::assume_unique_for_key(nonce);
            let plain = self.key.open_in_place(nonce, aad, body).map_err(|_| TlsError::Unopenable)?;
            (header[0], &*plain)
        };
        self.seq += 1;
        Ok((kind, plain))
    }

    /// Leaves room for what comes before the plaintext, and returns where that begins.
    fn begin(&self, out: &mut Vec<u8>) -> usize {
        out.resize(out.len() + self.prefix_len(), 0);
        out.len()
    }

    /// Makes a record of everything behind `start`.
    fn end(&mut self, kind: u8, out: &mut Vec<u8>, start: usize) {
        let nonce = self.nonce();
        let plain_len = out.len() - start;
        let header_at = start - self.prefix_len();
        let sealed = Nonce::assume_unique_for_key(nonce);
        let tag = if self.tls13 {
            out.push(kind);
            let header = record_header(DATA, plain_len + 1 + TAG_LEN);
            out[header_at..start].copy_from_slice(&header);
            self.key.seal_in_place_separate_tag(sealed, Aad::from(header), &mut out[start..])
        } else {
            let header = record_header(kind, start - header_at - HEADER_LEN + plain_len + TAG_LEN);
            out[header_at..header_at + HEADER_LEN].copy_from_slice(&header);
            if self.explicit_nonce {
                out[header_at + HEADER_LEN..start].copy_from_slice(&nonce[4..]);
            }
            let aad = Aad::from(self.tls12_aad(kind, plain_len));
            self.key.seal_in_place_separate_tag(sealed, aad, &mut out[start..])
        };
        let tag = tag.expect("a record is far below the cipher's length limit");
        out.extend_from_slice(tag.as_ref());
        self.seq += 1;
    }
}

fn record_header(kind: u8, body_len: usize) -> [u8; HEADER_LEN] {
    let [hi, lo] = (body_len as u16).to_be_bytes();
    [kind, 3, 3, hi, lo]
}

/// Reads the handshake messages of one record: `Some(wants_reply)` for a key update. Tickets are
/// of no use to a client that never resumes.
fn handshake(mut plain: &[u8]) -> Result<Option<bool>, TlsError> {
    let mut key_update = None;
    while let Some((&[kind, a, b, c], rest)) = plain.split_first_chunk() {
        let len = u32::from_be_bytes([0, a, b, c]) as usize;
        // Relays send tickets that fit into one record.
        let (body, rest) = rest.split_at_checked(len).ok_or(TlsError::Unexpected(kind))?;
        match kind {
            NEW_SESSION_TICKET => {}
            KEY_UPDATE => key_update = Some(body == [1]),
            other => return Err(TlsError::Unexpected(other)),
        }
        plain = rest;
    }
    Ok(key_update)
}

#[cfg(test)]
mod tests;
