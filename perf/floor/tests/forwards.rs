//! The floor as its clients see it. A figure of a forwarder that loses or garbles would be no floor.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const SERVER_KEY: u8 = 0x01;
const CLIENT_INFO: u8 = 0x02;
const SERVER_INFO: u8 = 0x03;
const SEND: u8 = 0x04;
const RECV: u8 = 0x05;
const PING: u8 = 0x12;
const PONG: u8 = 0x13;

struct Floor {
    process: Child,
    address: SocketAddr,
}

impl Floor {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(flags: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_derpring-floor"))
            .args(["--listen", "127.0.0.1:0"])
            .args(flags)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").expect("the line that says where").parse().unwrap();
        Self { process, address }
    }

    fn login(&self, key: u8) -> Client {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(b"GET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: DERP\r\n\r\n").unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "));
        let mut client = Client { stream, key: [key; 32] };
        assert_eq!(client.receive().0, SERVER_KEY);
        client.send(CLIENT_INFO, &[&client.key[..], &[0; 24], &[0; 48]].concat());
        assert_eq!(client.receive().0, SERVER_INFO);
        client
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Client {
    stream: TcpStream,
    key: [u8; 32],
}

impl Client {
    fn send(&mut self, kind: u8, payload: &[u8]) {
        self.stream.write_all(&frame(kind, payload)).unwrap();
    }

    fn receive(&mut self) -> (u8, Vec<u8>) {
        let mut header = [0; 5];
        self.stream.read_exact(&mut header).unwrap();
        let [kind, len @ ..] = header;
        let mut payload = vec![0; u32::from_be_bytes(len) as usize];
        self.stream.read_exact(&mut payload).unwrap();
        (kind, payload)
    }

    /// Everything before it has been dealt with once this is answered.
    fn ping(&mut self) {
        self.send(PING, b"in order");
        assert_eq!(self.receive(), (PONG, b"in order".to_vec()));
    }
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind][..], &(payload.len() as u32).to_be_bytes(), payload].concat()
}

fn packet(to: &Client, data: &[u8]) -> Vec<u8> {
    frame(SEND, &[&to.key, data].concat())
}

#[test]
fn packets_arrive_under_their_senders_key_however_they_are_cut() {
    forwards(&Floor::start());
}

#[test]
fn the_cipher_costs_and_changes_nothing() {
    forwards(&Floor::start_with(&["--cipher"]));
}

fn forwards(floor: &Floor) {
    let (mut a, mut b, mut c) = (floor.login(1), floor.login(2), floor.login(3));
    let stranger = [9; 32];
    let mut stream = Vec::new();
    stream.extend(packet(&b, b"one"));
    stream.extend(packet(&b, b"two"));
    stream.extend(frame(SEND, &[&stranger[..], b"for nobody"].concat()));
    stream.extend(packet(&c, b"three"));
    stream.extend(frame(0x77, b"an unknown frame"));
    stream.extend(packet(&b, &[7; 65536]));
    stream.extend(packet(&b, b""));
    for pieces in [usize::MAX, 40_000, 4096, 999] {
        for piece in stream.chunks(pieces.min(stream.len())) {
            a.stream.write_all(piece).unwrap();
        }
        for data in [&b"one"[..], b"two", &[7; 65536], b""] {
            assert!(b.receive() == (RECV, [&a.key, data].concat()), "pieces of {pieces}");
        }
        assert_eq!(c.receive(), (RECV, [&a.key[..], b"three"].concat()));
        a.ping();
    }
}

#[test]
fn who_does_not_read_loses_whole_packets_and_delays_nobody() {
    let floor = Floor::start();
    let (mut a, mut slow, mut b) = (floor.login(1), floor.login(2), floor.login(3));
    const PACKETS: u32 = 2_000;
    for number in 0..PACKETS {
        let data = [&number.to_be_bytes()[..], &[number as u8; 20_000]].concat();
        a.stream.write_all(&packet(&slow, &data)).unwrap();
    }
    a.ping();
    a.stream.write_all(&packet(&b, b"at once")).unwrap();
    assert_eq!(b.receive().1[32..], *b"at once");

    b.stream.write_all(&packet(&slow, b"the end")).unwrap();
    b.ping();
    // What is received is in order and whole. Room comes back, and what is sent then comes too.
    let (mut count, mut next) = (0, 0);
    loop {
        slow.stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        if slow.stream.peek(&mut [0]).is_err() {
            break;
        }
        slow.stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let (kind, payload) = slow.receive();
        assert_eq!(kind, RECV);
        if payload[32..] == *b"the end" {
            continue;
        }
        let number = u32::from_be_bytes(*payload[32..].first_chunk().unwrap());
        assert!(number >= next && payload[36..].iter().all(|byte| *byte == number as u8));
        (count, next) = (count + 1, number + 1);
    }
    assert!((200..PACKETS).contains(&count), "4 MiB waited, the rest was dropped: {count} of {PACKETS} came");
    a.stream.write_all(&packet(&slow, b"and again")).unwrap();
    assert_eq!(slow.receive().1[32..], *b"and again");
}

#[test]
fn places_are_taken_again_and_the_newest_login_of_a_key_counts() {
    let floor = Floor::start();
    let mut a = floor.login(1);
    for _ in 0..2_000 {
        drop(floor.login(2));
    }
    let mut older = floor.login(2);
    let mut newer = floor.login(2);
    a.stream.write_all(&packet(&newer, b"for the newer")).unwrap();
    assert_eq!(newer.receive().1[32..], *b"for the newer");
    assert_eq!(older.stream.read(&mut [0]).unwrap(), 0, "the older one is closed");
    drop(newer);
    a.stream.write_all(&packet(&older, b"for nobody")).unwrap();
    a.ping();
}

#[test]
fn an_address_in_use_is_an_error_that_names_it() {
    let floor = Floor::start();
    let output = Command::new(env!("CARGO_BIN_EXE_derpring-floor"))
        .args(["--listen", &floor.address.to_string()])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains(&format!("cannot listen on {}", floor.address)), "{text}");
}
