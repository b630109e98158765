//! The queues in front of one peer.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use derpring::mem::chunk::ChunkPool;
use derpring::proto::frame::PACKET_HEAD;
use derpring::worker::egress::{Bounds, Dropped, Egress};

const BOUNDS: Bounds = Bounds { packets: 512, bytes: 4 << 20, packets_min: 32 };

/// Packets that one turn brings.
const BURST: usize = 32;

/// Payload bytes: a usual packet, a small one, and the largest, which takes more than one chunk.
const SIZES: [usize; 3] = [1400, 100, 65_536];

criterion_main!(benches);
criterion_group!(benches, push_and_commit, drop_oldest);

/// From the queue to what the socket takes, and the memory back.
fn push_and_commit(c: &mut Criterion) {
    let mut group = c.benchmark_group("push and commit");
    group.throughput(Throughput::Elements(BURST as u64));
    for size in SIZES {
        group.bench_with_input(BenchmarkId::from_parameter(format!("{size} B")), &size, |b, size| {
            let frame = vec![5; PACKET_HEAD + size];
            let mut pool = ChunkPool::default();
            let mut egress = Egress::default();
            b.iter(|| {
                for _ in 0..BURST {
                    assert!(!egress.push_packet(&mut pool, &BOUNDS, &frame, false, 0).any());
                }
                let mut bytes = 0;
                while let Some(mut committed) = egress.commit(&mut pool) {
                    loop {
                        bytes += pool[committed.id].len();
                        egress.push_wire(&mut pool, committed.id);
                        if !committed.continues {
                            break;
                        }
                        committed = egress.commit_rest(&mut pool, committed.from);
                    }
                }
                assert_eq!(bytes, BURST * frame.len());
                let mut packets = 0;
                egress.advance(&mut pool, bytes, |chunk| packets += chunk.packets);
                assert_eq!((packets as usize, pool.in_use()), (BURST, 0));
            });
        });
    }
    group.finish();
}

/// A full queue: each packet costs the oldest one.
fn drop_oldest(c: &mut Criterion) {
    let mut group = c.benchmark_group("drop oldest");
    group.throughput(Throughput::Elements(1));
    for size in SIZES {
        group.bench_with_input(BenchmarkId::from_parameter(format!("{size} B")), &size, |b, size| {
            let frame = vec![5; PACKET_HEAD + size];
            let mut pool = ChunkPool::default();
            let mut egress = Egress::default();
            while !egress.push_packet(&mut pool, &BOUNDS, &frame, false, 0).any() {}
            let held = egress.packets_held(&pool);
            let one = Dropped { data: 1, data_bytes: *size as u64, queued_us: Some(0), ..Dropped::default() };
            b.iter(|| assert_eq!(egress.push_packet(&mut pool, &BOUNDS, &frame, false, 0), one));
            assert_eq!(egress.packets_held(&pool), held);
        });
    }
    group.finish();
}
