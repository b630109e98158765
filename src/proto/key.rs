//! Node keys: how they are held, printed and parsed.

use std::fmt;

/// A node's public key: 32 bytes of X25519, the address of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct NodeKey(pub [u8; 32]);

impl NodeKey {
    pub const LEN: usize = 32;
    pub const ZERO: Self = Self([0; 32]);

    /// The first 32 bytes of `bytes`.
    ///
    /// # Panics
    /// When `bytes` is shorter; callers hold a length-checked frame.
    #[inline]
    pub fn from_prefix(bytes: &[u8]) -> Self {
        let mut key = [0; 32];
        key.copy_from_slice(&bytes[..32]);
        Self(key)
    }

    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }

    /// 64 lower-case hex characters ("untyped" form).
    pub fn to_hex(&self) -> String {
        to_hex(&self.0)
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nodekey:{}", self.to_hex())
    }
}

/// Lower-case hex of `bytes`.
pub fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len() * 2);
    for b in bytes {
        out.push(DIGITS[usize::from(b >> 4)] as char);
        out.push(DIGITS[usize::from(b & 15)] as char);
    }
    out
}

/// Exactly 64 hex characters of either case to 32 bytes; `None` for anything else.
pub fn parse_hex32(text: &str) -> Option<[u8; 32]> {
    let text = text.as_bytes();
    if text.len() != 64 {
        return None;
    }
    let mut out = [0; 32];
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        let hi = (pair[0] as char).to_digit(16)?;
        let lo = (pair[1] as char).to_digit(16)?;
        *byte = (hi * 16 + lo) as u8;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_takes_both_cases_and_only_the_exact_length() {
        let key = NodeKey([0xab; 32]);
        assert_eq!(parse_hex32(&key.to_hex()), Some(key.0));
        assert_eq!(parse_hex32(&key.to_hex().to_uppercase()), Some(key.0));
        assert_eq!(parse_hex32(&key.to_hex()[1..]), None);
        assert_eq!(parse_hex32(&format!("{}0", key.to_hex())), None);
        assert_eq!(parse_hex32(&"g".repeat(64)), None);
    }
}
