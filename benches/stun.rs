//! One STUN request read and its answer written, without sockets: strict, of any client, refused, and what is none.

use std::hint::black_box;
use std::net::SocketAddr;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use derpring::limits::STUN_ANSWER_MAX;
use derpring::proto::stun::{Clients, Outcome, answer};

/// What Tailscale's clients send.
const TAILNODE: &[u8] = b"\x00\x01\x00\x14\x21\x12\xa4\x42\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\
    \x80\x22\x00\x08tailnode\x80\x28\x00\x04\x8a\xab\xad\x90";
/// A bare head, as most other clients send it.
const BARE: &[u8] = b"\x00\x01\x00\x00\x21\x12\xa4\x42abcdefghijkl";
/// CHANGE-REQUEST.
const CHANGE: &[u8] = b"\x00\x01\x00\x08\x21\x12\xa4\x42abcdefghijkl\x00\x03\x00\x04\x00\x00\x00\x06";

/// The length of the answer that must come, and what it is.
type Wanted = Option<(usize, Outcome)>;

const QUESTIONS: [(&str, &[u8], Clients, Wanted); 4] = [
    ("tailscale", TAILNODE, Clients::Tailscale, Some((32, Outcome::Mapped))),
    ("any", BARE, Clients::Any, Some((32, Outcome::Mapped))),
    ("refused", CHANGE, Clients::Any, Some((44, Outcome::Refused))),
    ("not tailscale", BARE, Clients::Tailscale, None),
];

criterion_main!(benches);
criterion_group!(benches, answers);

fn answers(c: &mut Criterion) {
    let mut group = c.benchmark_group("stun");
    let from: SocketAddr = "203.0.113.7:51820".parse().expect("an address");
    for (name, question, clients, wanted) in QUESTIONS {
        let mut out = [0; STUN_ANSWER_MAX];
        assert_eq!(answer(question, from, clients, &mut out), wanted);
        group.throughput(Throughput::Elements(1));
        group.bench_function(name, |b| b.iter(|| answer(black_box(question), from, clients, &mut out)));
    }
    group.finish();
}
