//! A relay of a few threads that can be told to misbehave. Plain TCP, one thread per connection.

mod websocket;

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

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
    /// Delivers the packet to another client than the one it is for.
    Misdeliver {
        at: u64,
    },
    /// Loses what a sender sends beyond so many in a second.
    LoseAbove {
        per_second: u64,
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
    clients: Mutex<HashMap<Key, Arc<Mutex<Outgoing>>>>,
    pongs: AtomicU64,
    /// Masked WebSocket frames that came.
    masked: AtomicU64,
    logins: AtomicU64,
}

/// The sending half of a client's connection.
struct Outgoing {
    stream: TcpStream,
    websocket: bool,
}

impl FakeRelay {
    pub fn start(fault: Fault) -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").unwrap(), fault)
    }

    pub fn start_on(listener: TcpListener, fault: Fault) -> Self {
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            fault,
            secret: SecretKey::from([7; 32]),
            clients: Mutex::default(),
            pongs: AtomicU64::new(0),
            masked: AtomicU64::new(0),
            logins: AtomicU64::new(0),
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

    pub fn masked(&self) -> u64 {
        self.shared.masked.load(Ordering::SeqCst)
    }

    pub fn logins(&self) -> u64 {
        self.shared.logins.load(Ordering::SeqCst)
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
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            reader.read_line(&mut head)?;
        }
        if matches!(self.fault, Fault::Refuse) {
            return stream.write_all(b"HTTP/1.1 426 Upgrade Required\r\n\r\n");
        }
        if let Some((_, key)) = head.split_once("Sec-WebSocket-Key: ") {
            assert!(head.contains("\r\nUpgrade: websocket\r\n"), "{head}");
            assert!(head.contains("\r\nSec-WebSocket-Version: 13\r\n"), "{head}");
            assert!(head.contains("\r\nSec-WebSocket-Protocol: derp\r\n"), "{head}");
            let accept = derpring_loadgen::derp::ws::accept(key.lines().next().unwrap());
            write!(
                stream,
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: derp\r\n\r\n"
            )?;
            let stream = Outgoing { stream, websocket: true };
            return self.login(stream, &mut websocket::Unmasked::new(reader, &self.masked));
        }
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\n\r\n")?;
        self.login(Outgoing { stream, websocket: false }, &mut reader)
    }

    fn login(&self, mut stream: Outgoing, reader: &mut dyn Read) -> io::Result<()> {
        let greeting = [b"DERP\xf0\x9f\x94\x91", &self.secret.public_key().as_bytes()[..]].concat();
        write_frame(&mut stream, 0x01, &greeting)?;

        let (kind, info) = read_frame(reader)?;
        assert_eq!(kind, 0x02);
        let key: Key = info[..32].try_into().unwrap();
        let nonce: [u8; 24] = info[32..56].try_into().unwrap();
        let sealed = SalsaBox::new(&PublicKey::from(key), &self.secret);
        let json = sealed.decrypt((&nonce).into(), &info[56..]).unwrap();
        assert!(json.starts_with(b"{\"version\":2"));
        let answer = sealed.encrypt((&nonce).into(), &b"{\"version\":2}"[..]).unwrap();
        let stream = Arc::new(Mutex::new(stream));
        self.clients.lock().unwrap().insert(key, Arc::clone(&stream));
        // Counted before anybody can know of it.
        self.logins.fetch_add(1, Ordering::SeqCst);
        write_frame(&mut stream.lock().unwrap(), 0x03, &[&nonce[..], &answer].concat())?;
        self.relay(key, reader)
    }

    fn relay(&self, source: Key, reader: &mut dyn Read) -> io::Result<()> {
        let mut delayed = None;
        let (mut second, mut in_second) = (Instant::now(), 0);
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
            let client = match self.fault {
                Fault::Misdeliver { at } if number == at => {
                    let clients = self.clients.lock().unwrap();
                    clients.iter().find(|(key, _)| **key != destination).map(|(_, client)| Arc::clone(client))
                }
                _ => self.clients.lock().unwrap().get(&destination).cloned(),
            };
            // The receiver is not there yet, or no longer.
            let Some(client) = client else { continue };
            let mut client = client.lock().unwrap();
            if number == 0 {
                write_frame(&mut client, 0x12, b"pingping")?;
            }
            match self.fault {
                Fault::Corrupt { at, byte } if number == at => payload[byte] ^= 0x10,
                Fault::Lose { at, every } if number % every == at => continue,
                Fault::LoseAll => continue,
                Fault::LoseAbove { per_second } => {
                    if second.elapsed() >= Duration::from_millis(100) {
                        (second, in_second) = (Instant::now(), 0);
                    }
                    in_second += 1;
                    if in_second > per_second / 10 {
                        continue;
                    }
                }
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
        stream.lock().unwrap().stream.shutdown(std::net::Shutdown::Both)
    }
}

fn write_frame(to: &mut Outgoing, kind: u8, payload: &[u8]) -> io::Result<()> {
    let len = (payload.len() as u32).to_be_bytes();
    let frame = [&[kind][..], &len, payload].concat();
    if !to.websocket {
        return to.stream.write_all(&frame);
    }
    // In two messages: their borders mean nothing.
    let (head, tail) = frame.split_at(frame.len() / 2);
    to.stream.write_all(&[websocket::message(head), websocket::message(tail)].concat())
}

fn read_frame(reader: &mut dyn Read) -> io::Result<(u8, Vec<u8>)> {
    let mut header = [0; 5];
    reader.read_exact(&mut header)?;
    let [kind, len @ ..] = header;
    let mut payload = vec![0; u32::from_be_bytes(len) as usize];
    reader.read_exact(&mut payload)?;
    Ok((kind, payload))
}
