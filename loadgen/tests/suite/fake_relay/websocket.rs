//! The server side of a WebSocket, strict about what clients must do.

use std::io::{self, BufReader, Read};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};

/// The stream that a client's messages carry.
pub struct Unmasked<'a> {
    reader: BufReader<TcpStream>,
    masked: &'a AtomicU64,
    message: Vec<u8>,
    used: usize,
}

impl<'a> Unmasked<'a> {
    pub fn new(reader: BufReader<TcpStream>, masked: &'a AtomicU64) -> Self {
        Self { reader, masked, message: Vec::new(), used: 0 }
    }

    fn next(&mut self) -> io::Result<()> {
        let mut head = [0; 2];
        self.reader.read_exact(&mut head)?;
        assert_eq!(head[0], 0x82, "a whole binary message");
        assert!(head[1] & 0x80 != 0, "clients mask what they send");
        let len = match head[1] & 0x7f {
            126 => {
                let mut len = [0; 2];
                self.reader.read_exact(&mut len)?;
                usize::from(u16::from_be_bytes(len))
            }
            127 => panic!("relays take no message as long"),
            len => usize::from(len),
        };
        assert!(len <= 32_768, "relays take no message of {len} bytes");
        let mut mask = [0; 4];
        self.reader.read_exact(&mut mask)?;
        self.message.resize(len, 0);
        self.reader.read_exact(&mut self.message)?;
        self.message.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        self.used = 0;
        self.masked.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

impl Read for Unmasked<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.used == self.message.len() {
            self.next()?;
        }
        let count = buf.len().min(self.message.len() - self.used);
        buf[..count].copy_from_slice(&self.message[self.used..self.used + count]);
        self.used += count;
        Ok(count)
    }
}

/// A message as servers send it.
pub fn message(payload: &[u8]) -> Vec<u8> {
    let len = payload.len();
    let head = match len {
        0..=125 => vec![0x82, len as u8],
        126..=65_535 => [&[0x82, 126][..], &(len as u16).to_be_bytes()].concat(),
        _ => [&[0x82, 127][..], &(len as u64).to_be_bytes()].concat(),
    };
    [&head[..], payload].concat()
}
