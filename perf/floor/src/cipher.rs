//! What AES-128-GCM alone costs: every byte once through it as it comes and once as it leaves, in records of TLS's
//! size. Nobody reads what comes out: the packets stay as they are, so that the same plain generator drives the floor
//! with its cipher and without.

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;

/// Most bytes of application data in one record.
const RECORD: usize = 1 << 14;
/// Records under way between two sends: as many as lie in a sender's burst.
const RECORDS: usize = 4;
const TAG: usize = 16;
const HEADER: [u8; 5] = [23, 3, 3, 0x40, 0x11];

pub struct Cipher {
    key: LessSafeKey,
    out: Vec<u8>,
}

impl Cipher {
    pub fn new() -> Result<Self, Unspecified> {
        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &[7; 16])?);
        Ok(Self { key, out: vec![0; RECORDS * (RECORD + TAG)] })
    }

    /// Costs what opening or sealing these bytes costs: both are one pass over them.
    pub fn pass(&mut self, bytes: &[u8]) {
        for (at, record) in bytes.chunks(RECORD).enumerate() {
            // The same places again for longer bursts: what is in them is of no use.
            let place = &mut self.out[at % RECORDS * (RECORD + TAG)..][..record.len() + TAG];
            let (sealed, tag) = place.split_at_mut(record.len());
            // One nonce for all would be the end of secrecy, were there a secret.
            let nonce = Nonce::assume_unique_for_key([0; 12]);
            self.key
                .seal_out_of_place_scatter(nonce, Aad::from(HEADER), record, sealed, &[], tag)
                .expect("all lengths are of this function");
        }
    }
}
