//! A relay of a few threads that can be told to misbehave. Plain TCP, one thread per connection.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crypto_box::aead::Aead;
use crypto_box::{PublicKey, SalsaBox, SecretKey};

type Key = [u8; 32];

/// What the relay does to packet `at` of each sender, counted from 0.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    None,
    /// Flips a bit of this byte of the RecvPacket's payload: 0..32 is the source.
    Corrupt {
        at: u64,
        byte: usize,
    },
    /// Loses every packet whose number is `at` modulo `every`.
    Lose {
        at: u64,
        every: u64,
    },
    LoseAll,
    Duplicate {
        at: u64,
    },
    /// Sends the packet after the next one.
    Delay {
        at: u64,
    },
    /// Closes the sender's connection.
    Close {
        at: u64,
    },
    /// Answers the upgrade with 426.
    Refuse,
}

pub struct FakeRelay {
    pub addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    fault: Fault,
    secret: SecretKey,
    clients: Mutex<HashMap<Key, Arc<Mutex<TcpStream>>>>,
    pongs: AtomicU64,
}

impl FakeRelay {
    pub fn start(fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            fault,
            secret: SecretKey::from([7; 32]),
            clients: Mutex::default(),
            pongs: AtomicU64::new(0),
        });
        let relay = Self { addr, shared: Arc::clone(&shared) };
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&shared);
                // Clients go away whenever they like.
                std::thread::spawn(move || drop(shared.serve(stream)));
            }
        });
        relay
    }

    /// Clients that answered a ping.
    pub fn pongs(&self) -> u64 {
        self.shared.pongs.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            reader.read_line(&mut line)?;
        }
        if matches!(self.fault, Fault::Refuse) {
            return stream.write_all(b"HTTP/1.1 426 Upgrade Required\r\n\r\n");
        }
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\n\r\n")?;
        let greeting = [b"DERP\xf0\x9f\x94\x91", &self.secret.public_key().as_bytes()[..]].concat();
        write_frame(&mut stream, 0x01, &greeting)?;

        let (kind, info) = read_frame(&mut reader)?;
        assert_eq!(kind, 0x02);
        let key: Key = info[..32].try_into().unwrap();
        let nonce: [u8; 24] = info[32..56].try_into().unwrap();
        let sealed = SalsaBox::new(&PublicKey::from(key), &self.secret);
        let json = sealed.decrypt((&nonce).into(), &info[56..]).unwrap();
        assert!(json.starts_with(b"{\"version\":2"));
        let answer = sealed.encrypt((&nonce).into(), &b"{\"version\":2}"[..]).unwrap();
        let stream = Arc::new(Mutex::new(stream));
        self.clients.lock().unwrap().insert(key, Arc::clone(&stream));
        write_frame(&mut stream.lock().unwrap(), 0x03, &[&nonce[..], &answer].concat())?;
        self.relay(key, &mut reader)
    }

    fn relay(&self, source: Key, reader: &mut impl Read) -> io::Result<()> {
        let mut delayed = None;
        for number in 0.. {
            let (kind, mut payload) = read_frame(reader)?;
            if kind == 0x13 {
                assert_eq!(payload, b"pingping");
                self.pongs.fetch_add(1, Ordering::SeqCst);
                continue;
            }
            assert_eq!(kind, 0x04);
            let destination: Key = payload[..32].try_into().unwrap();
            payload[..32].copy_from_slice(&source);
            let client = Arc::clone(&self.clients.lock().unwrap()[&destination]);
            let mut client = client.lock().unwrap();
            if number == 0 {
                write_frame(&mut client, 0x12, b"pingping")?;
            }
            match self.fault {
                Fault::Corrupt { at, byte } if number == at => payload[byte] ^= 0x10,
                Fault::Lose { at, every } if number % every == at => continue,
                Fault::LoseAll => continue,
                Fault::Duplicate { at } if number == at => write_frame(&mut client, 0x05, &payload)?,
                Fault::Delay { at } if number == at => {
                    delayed = Some(payload);
                    continue;
                }
                Fault::Close { at } if number == at => break,
                _ => {}
            }
            write_frame(&mut client, 0x05, &payload)?;
            if let Some(payload) = delayed.take() {
                write_frame(&mut client, 0x05, &payload)?;
            }
        }
        // The registered half would keep the connection open.
        let stream = self.clients.lock().unwrap().remove(&source).unwrap();
        stream.lock().unwrap().shutdown(std::net::Shutdown::Both)
    }
}

fn write_frame(stream: &mut TcpStream, kind: u8, payload: &[u8]) -> io::Result<()> {
    let len = (payload.len() as u32).to_be_bytes();
    stream.write_all(&[&[kind][..], &len, payload].concat())
}

fn read_frame(reader: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut header = [0; 5];
    reader.read_exact(&mut header)?;
    let [kind, len @ ..] = header;
    let mut payload = vec![0; u32::from_be_bytes(len) as usize];
    reader.read_exact(&mut payload)?;
    Ok((kind, payload))
}
