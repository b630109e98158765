//! Frames: five bytes of header (type, length of the payload), then the payload.

pub const HEADER: usize = 5;
pub const KEY: usize = 32;
/// Header, and the key with which the payload of a packet begins.
pub const PACKET_HEAD: usize = HEADER + KEY;
/// Longest frame that is taken: a packet with 64 KiB of data.
pub const MAX_FRAME: usize = PACKET_HEAD + (1 << 16);

pub type Key = [u8; KEY];

pub mod kind {
    pub const SERVER_KEY: u8 = 0x01;
    pub const CLIENT_INFO: u8 = 0x02;
    pub const SERVER_INFO: u8 = 0x03;
    pub const SEND_PACKET: u8 = 0x04;
    pub const RECV_PACKET: u8 = 0x05;
    pub const PING: u8 = 0x12;
    pub const PONG: u8 = 0x13;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of more than {MAX_FRAME} bytes")]
pub struct TooLong;

/// Length of the frame at the front of `bytes` with its header, once the whole frame is there.
pub fn whole(bytes: &[u8]) -> Result<Option<usize>, TooLong> {
    let Some(&[_, a, b, c, d]) = bytes.first_chunk() else {
        return Ok(None);
    };
    let len = HEADER + u32::from_be_bytes([a, b, c, d]) as usize;
    if len > MAX_FRAME {
        return Err(TooLong);
    }
    Ok((len <= bytes.len()).then_some(len))
}

pub fn append(out: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    out.push(kind);
    // Frames made here have a few dozen bytes.
    out.extend_from_slice(&(len as u32).to_be_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_whole_with_its_last_byte() {
        let mut bytes = Vec::new();
        append(&mut bytes, kind::PING, &[b"12345678"]);
        for len in 0..bytes.len() {
            assert_eq!(whole(&bytes[..len]), Ok(None));
        }
        assert_eq!(whole(&bytes), Ok(Some(13)));
        bytes.push(7);
        assert_eq!(whole(&bytes), Ok(Some(13)));
    }

    #[test]
    fn the_longest_frame_and_one_byte_more() {
        let head = |len: u32| [&[kind::SEND_PACKET][..], &len.to_be_bytes()].concat();
        assert_eq!(whole(&head((1 << 16) + 32)), Ok(None));
        assert_eq!(whole(&head((1 << 16) + 33)), Err(TooLong));
        assert_eq!(whole(&head(u32::MAX)), Err(TooLong));
    }
}
