//! A STUN client in bytes, which knows nothing of the server's code.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use derpring::control::sockets::Sockets;
use derpring::stats::StunResult;
use derpring::stun::{self, Clients, Stats, Stun};

use crate::relay_support::PATIENCE;

/// The 40 bytes that Tailscale's clients send.
pub const TAILNODE: [u8; 40] = *b"\x00\x01\x00\x14\x21\x12\xa4\x42\
    \x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\
    \x80\x22\x00\x08tailnode\x80\x28\x00\x04\x8a\xab\xad\x90";

/// The least that RFC 8489 knows: a head and nothing else.
pub const BARE: [u8; 20] = *b"\x00\x01\x00\x00\x21\x12\xa4\x42abcdefghijkl";

/// A server without a relay, whose counters can be seen.
pub struct Server {
    pub stun: Option<Stun>,
    pub stats: Arc<Stats>,
    pub addresses: Vec<SocketAddr>,
}

impl Server {
    pub fn start(listen: &[&str], clients: Clients) -> Self {
        let sockets = listen
            .iter()
            .map(|address| stun::open(&mut Sockets::default(), address.parse().unwrap()).unwrap())
            .collect();
        let stats = Arc::new(Stats::default());
        let stun = Stun::start(sockets, clients, stats.clone()).unwrap();
        let addresses = stun.addresses();
        Self { stun: Some(stun), stats, addresses }
    }

    /// Waits until so many datagrams have ended so.
    #[track_caller]
    pub fn expect(&self, result: StunResult, count: u64) {
        expect(&format!("{count} datagrams that are {result}"), || self.stats.count(result) == count);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stun) = self.stun.take() {
            stun.stop();
        }
    }
}

#[track_caller]
pub fn expect(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = std::time::Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "expected {what}");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

pub fn client(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Sends and waits for the answer, which must come from where the question went.
#[track_caller]
pub fn ask(client: &UdpSocket, question: &[u8], server: impl Into<SocketAddr>) -> Vec<u8> {
    let server = server.into();
    client.send_to(question, server).unwrap();
    let mut answer = [0; 2000];
    let (len, from) = client.recv_from(&mut answer).unwrap_or_else(|e| panic!("no answer from {server}: {e}"));
    assert_eq!(from, server, "the answer comes from who was asked");
    assert_eq!(answer[8..20], question[8..20], "the answer is to this question");
    answer[..len].to_vec()
}

/// The address in XOR-MAPPED-ADDRESS, which must be the first attribute.
#[track_caller]
pub fn mapped(answer: &[u8]) -> SocketAddr {
    assert_eq!((&answer[..2], &answer[20..22]), (&[1, 1][..], &[0, 0x20][..]), "{answer:02x?}");
    let plain: Vec<u8> = answer[28..].iter().zip(&answer[4..20]).map(|(byte, mask)| byte ^ mask).collect();
    let port = u16::from_be_bytes([answer[26] ^ 0x21, answer[27] ^ 0x12]);
    match (answer[23], answer[25]) {
        (8, 1) => (Ipv4Addr::from(<[u8; 4]>::try_from(&plain[..4]).unwrap()), port).into(),
        (20, 2) => (Ipv6Addr::from(<[u8; 16]>::try_from(&plain[..16]).unwrap()), port).into(),
        other => panic!("length and family {other:?}"),
    }
}

pub fn has_ipv6() -> bool {
    UdpSocket::bind("[::1]:0").is_ok()
}
