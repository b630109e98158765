//! Requests of STUN.

use std::net::{IpAddr, SocketAddr};

use derpring::limits::STUN_ANSWER_MAX;
use derpring::proto::stun::{Clients, GROWTH_MAX, Outcome, answer};

use super::Choices;

/// Whatever comes, the answer is short, belongs to the question, and tells its sender's address and no other.
///
/// The input: address and port of the sender, the datagram.
pub fn stun(data: &[u8]) {
    let mut choices = Choices(data);
    let flags = choices.byte();
    let mut ip = [0; 16];
    let given = choices.bytes(if flags & 1 == 0 { 4 } else { 16 });
    ip[..given.len()].copy_from_slice(given);
    let ip: IpAddr = if flags & 1 == 0 { [ip[0], ip[1], ip[2], ip[3]].into() } else { ip.into() };
    let from = SocketAddr::from((ip, choices.word() as u16));
    let question = choices.0;

    let ask = |clients| {
        let mut out = [0xee; STUN_ANSWER_MAX];
        let (len, outcome) = answer(question, from, clients, &mut out)?;
        assert!(out[len..].iter().all(|byte| *byte == 0xee), "written behind the answer");
        Some((out[..len].to_vec(), outcome))
    };
    let (strict, any) = (ask(Clients::Tailscale), ask(Clients::Any));
    if strict.is_some() {
        assert_eq!(strict, any, "Tailscale's clients have the same answer from everybody");
        assert!(question.windows(8).any(|bytes| bytes == b"tailnode"));
    }
    let Some((answer, outcome)) = any else { return };
    assert!(answer.len() <= question.len() + GROWTH_MAX, "{} bytes for {}", answer.len(), question.len());
    assert_eq!(answer[4..20], question[4..20], "cookie and transaction");
    assert_eq!(usize::from(u16::from_be_bytes([answer[2], answer[3]])), answer.len() - 20);
    assert_eq!(answer.len() % 4, 0);
    match outcome {
        Outcome::Mapped => {
            assert_eq!(answer[..2], [1, 1]);
            assert_eq!(mapped(&answer), SocketAddr::new(ip.to_canonical(), from.port()));
        }
        Outcome::Refused => assert_eq!((&answer[..2], &answer[20..22]), (&[1, 0x11][..], &[0, 9][..])),
    }
}

fn mapped(answer: &[u8]) -> SocketAddr {
    let mut plain: Vec<u8> = answer[28..].iter().zip(&answer[4..20]).map(|(byte, mask)| byte ^ mask).collect();
    let port = u16::from_be_bytes([answer[26], answer[27]]) ^ 0x2112;
    plain.truncate(usize::from(answer[23]) - 4);
    let ip: IpAddr = match <[u8; 4]>::try_from(plain.as_slice()) {
        Ok(ip) => ip.into(),
        Err(_) => <[u8; 16]>::try_from(plain.as_slice()).expect("four bytes or sixteen").into(),
    };
    assert_eq!(answer[25], if ip.is_ipv4() { 1 } else { 2 });
    SocketAddr::new(ip, port)
}
