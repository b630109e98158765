//! Packets in steady state.

use std::time::Duration;

use derpring::proto::frame::{HEADER_LEN, PACKET_HEAD, kind};
use derpring::tls::Transport;
use derpring::worker::egress::Bounds;
use serde::Serialize;

use crate::bed::tls::Handshaker;
use crate::bed::{Bed, Peer, packet};
use crate::{Kind, Packets};

const PAIRS: usize = 16;
/// Rounds until every buffer has found its size.
const WARM_UP: usize = 100;

#[derive(Serialize)]
pub struct Counted {
    packets: u64,
    /// What Rust code asked of the allocator in the measured turns. AWS-LC asks for nothing per record.
    allocations: u64,
    allocated_bytes: u64,
}

pub fn count(what: Packets) -> Counted {
    let (mut bed, mut flows) = flows(what);
    // The first look at each session's round-trip time; the next one comes after the end.
    bed.advance(Duration::from_secs(1));
    for _ in 0..WARM_UP {
        write(&bed, &mut flows);
        bed.turn_all();
        read(&mut flows);
    }
    let before = bed.counts().0;
    let (mut allocations, mut allocated_bytes) = (0, 0);
    for _ in 0..what.rounds {
        write(&bed, &mut flows);
        let asked = allocation_counter::measure(|| measured_turns(&mut bed));
        allocations += asked.count_total;
        allocated_bytes += asked.bytes_total;
        read(&mut flows);
    }
    let (came, sent, dropped) = bed.counts();
    let packets = came - before;
    assert_eq!(packets, (what.rounds * PAIRS * what.burst) as u64, "every packet came in a measured turn");
    assert_eq!((came, dropped), (sent, 0), "what came has left");
    Counted { packets, allocations, allocated_bytes }
}

/// A function of its own, for callgrind to find.
#[inline(never)]
fn measured_turns(bed: &mut Bed) {
    bed.turn_all();
}

struct Flow {
    from: Peer,
    to: Peer,
    sent: Vec<u8>,
    expected: Vec<u8>,
    wire: Vec<u8>,
}

fn flows(what: Packets) -> (Bed, Vec<Flow>) {
    let bounds = Bounds { packets: 512, bytes: 4 << 20, packets_min: 32 };
    let mut bed = Bed::new(if what.across { 2 } else { 1 }, bounds, usize::MAX);
    let handshaker = (what.transport == Kind::Tls13).then(Handshaker::aes128);
    let transports = || handshaker.as_ref().map_or((Transport::Plain, Transport::Plain), Handshaker::connect);
    let flows = (0..PAIRS)
        .map(|_| {
            let from = bed.login(0, usize::MAX, transports());
            let to = bed.login(usize::from(what.across), usize::MAX, transports());
            let sent = packet(&to.key, what.size);
            let mut received = sent.clone();
            received[0] = kind::RECV_PACKET;
            received[HEADER_LEN..PACKET_HEAD].copy_from_slice(&from.key.0);
            Flow { from, to, sent: sent.repeat(what.burst), expected: received.repeat(what.burst), wire: Vec::new() }
        })
        .collect();
    (bed, flows)
}

fn write(bed: &Bed, flows: &mut [Flow]) {
    for flow in flows {
        flow.wire.clear();
        flow.from.seal(&flow.sent, &mut flow.wire);
        flow.from.end.write(&flow.wire);
    }
    bed.advance(Duration::from_micros(100));
}

fn read(flows: &mut [Flow]) {
    for flow in flows {
        assert!(flow.to.read() == flow.expected, "what was sent is what came, under the sender's key");
        flow.to.consume(flow.expected.len());
    }
}
