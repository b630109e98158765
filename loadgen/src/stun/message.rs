//! The request of Tailscale's clients, and the one answer that is right.

use std::net::{IpAddr, SocketAddr};

const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const LEN: usize = 40;

/// What a transaction id is made of: the run, the socket, and the number of the request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Id {
    pub nonce: u32,
    pub source: u32,
    pub number: u32,
}

impl Id {
    fn bytes(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        for (part, number) in bytes.chunks_exact_mut(4).zip([self.nonce, self.source, self.number]) {
            part.copy_from_slice(&number.to_be_bytes());
        }
        bytes
    }
}

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AnswerError {
    #[error("it is no STUN binding success response with one address")]
    Form,
    #[error("it tells {0}, and {1} asked")]
    Address(SocketAddr, SocketAddr),
    #[error("its transaction was not asked for by this socket")]
    NotAsked,
}

pub fn request(id: Id) -> [u8; LEN] {
    let mut out = [0; LEN];
    out[..4].copy_from_slice(&[0, 1, 0, 20]);
    out[4..8].copy_from_slice(&COOKIE);
    out[8..20].copy_from_slice(&id.bytes());
    out[20..24].copy_from_slice(&[0x80, 0x22, 0, 8]);
    out[24..32].copy_from_slice(b"tailnode");
    let crc = crc32(&out[..32]) ^ 0x5354_554e;
    out[32..36].copy_from_slice(&[0x80, 0x28, 0, 4]);
    out[36..].copy_from_slice(&crc.to_be_bytes());
    out
}

/// Which request it answers. The address must be that of the socket; in the form of IPv6 it may be one of IPv4.
pub fn read(answer: &[u8], local: SocketAddr) -> Result<Id, AnswerError> {
    let (head, attribute) = answer.split_at_checked(20).ok_or(AnswerError::Form)?;
    let (bits, family) = match attribute.len() {
        12 => (8, 1),
        24 => (20, 2),
        _ => return Err(AnswerError::Form),
    };
    let right = head[..4] == [1, 1, 0, attribute.len() as u8]
        && head[4..8] == COOKIE
        && attribute[..6] == [0, 0x20, 0, bits, 0, family];
    if !right {
        return Err(AnswerError::Form);
    }
    let port = u16::from_be_bytes([attribute[6] ^ COOKIE[0], attribute[7] ^ COOKIE[1]]);
    let mut ip = [0; 16];
    for (byte, (masked, mask)) in ip.iter_mut().zip(attribute[8..].iter().zip(&head[4..])) {
        *byte = masked ^ mask;
    }
    let ip: IpAddr = if family == 1 { [ip[0], ip[1], ip[2], ip[3]].into() } else { ip.into() };
    let told = SocketAddr::new(ip.to_canonical(), port);
    // A socket that is not bound to an address has one only once it is connected, and then knows it.
    if told.ip() != local.ip().to_canonical() || told.port() != local.port() {
        return Err(AnswerError::Address(told, local));
    }
    let number = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    Ok(Id { nonce: number(8), source: number(12), number: number(16) })
}

/// CRC-32 of IEEE 802.3, by the bit: this is not what is measured.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Id = Id { nonce: 0x0001_0203, source: 0x0405_0607, number: 0x0809_0a0b };

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn the_bytes_of_tailscales_client() {
        let wanted = "000100142112a442000102030405060708090a0b802200087461696c6e6f6465802800048aabad90";
        assert_eq!(request(ID)[..], unhex(wanted));
    }

    #[test]
    fn only_the_right_answer_is_right() {
        let answer = unhex("0101000c2112a442000102030405060708090a0b002000080001eb7eea12d545");
        let local = "203.0.113.7:51820".parse().unwrap();
        assert_eq!(read(&answer, local), Ok(ID));
        let other: SocketAddr = "203.0.113.8:51820".parse().unwrap();
        assert_eq!(read(&answer, other), Err(AnswerError::Address(local, other)));
        for len in 0..answer.len() {
            assert!(read(&answer[..len], local).is_err());
        }
        for at in 0..answer.len() {
            let mut changed = answer.clone();
            changed[at] ^= 1;
            assert_ne!(read(&changed, local), Ok(ID), "byte {at}");
        }
    }
}
