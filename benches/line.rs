//! The whole line that a packet follows, on the simulated network: received, opened, cut, routed, queued, sealed, sent.
//!
//! Only the workers' turns are measured; what clients do between them is not. There is no kernel here, so the figures
//! say what the relay itself spends on a packet.

mod bed;

use std::time::{Duration, Instant};

use bed::tls::Handshaker;
use bed::{Bed, Peer, packet};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use derpring::proto::frame::{HEADER_LEN, PACKET_HEAD, kind};
use derpring::tls::Transport;
use derpring::worker::egress::Bounds;

const PAIRS: usize = 16;
const PAYLOAD: usize = 1400;

criterion_main!(benches);
criterion_group!(benches, line);

fn line(c: &mut Criterion) {
    let mut group = c.benchmark_group("line");
    let handshaker = Handshaker::aes128();
    for (transport, tls) in [("plain", None), ("TLS 1.3", Some(&handshaker))] {
        for (place, workers) in [("one worker", 1), ("two workers", 2)] {
            for burst in [8, 32] {
                group.throughput(Throughput::Elements((PAIRS * burst) as u64));
                group.bench_function(format!("{transport}, {place}, {burst} frames a write"), |b| {
                    let mut relay = Relay::new(workers, tls, burst);
                    b.iter_custom(|rounds| (0..rounds).map(|_| relay.round()).sum());
                });
            }
        }
    }
    group.finish();
}

struct Relay {
    bed: Bed,
    flows: Vec<Flow>,
}

struct Flow {
    from: Peer,
    to: Peer,
    sent: Vec<u8>,
    expected: Vec<u8>,
    wire: Vec<u8>,
}

impl Relay {
    /// With two workers every packet goes from the first to the second.
    fn new(workers: u16, tls: Option<&Handshaker>, burst: usize) -> Self {
        let bounds = Bounds { packets: 512, bytes: 4 << 20, packets_min: 32 };
        let mut bed = Bed::new(workers, bounds, usize::MAX);
        let transports = || tls.map_or((Transport::Plain, Transport::Plain), Handshaker::connect);
        let flows = (0..PAIRS)
            .map(|_| {
                let from = bed.login(0, usize::MAX, transports());
                let to = bed.login(usize::from(workers) - 1, usize::MAX, transports());
                let sent = packet(&to.key, PAYLOAD);
                let mut received = sent.clone();
                received[0] = kind::RECV_PACKET;
                received[HEADER_LEN..PACKET_HEAD].copy_from_slice(&from.key.0);
                Flow { from, to, sent: sent.repeat(burst), expected: received.repeat(burst), wire: Vec::new() }
            })
            .collect();
        Self { bed, flows }
    }

    /// Every sender writes once, and all of it arrives.
    fn round(&mut self) -> Duration {
        for flow in &mut self.flows {
            flow.wire.clear();
            flow.from.seal(&flow.sent, &mut flow.wire);
            flow.from.end.write(&flow.wire);
        }
        self.bed.advance(Duration::from_micros(100));
        let begin = Instant::now();
        self.bed.turn_all();
        let took = begin.elapsed();
        for flow in &mut self.flows {
            assert!(flow.to.read() == flow.expected, "what was sent is what came, under the sender's key");
            flow.to.consume(flow.expected.len());
        }
        let (came, sent, dropped) = self.bed.counts();
        assert_eq!((came, dropped), (sent, 0));
        took
    }
}
