//! One worker's replica of who is connected where.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use derpring::mem::batch::{ConnId, Join};
use derpring::proto::key::NodeKey;
use derpring::worker::directory::{Change, Directory};

/// Peers of a small relay, and of a region's.
const PEERS: [u32; 2] = [1_000, 100_000];

criterion_main!(benches);
criterion_group!(benches, directory);

fn directory(c: &mut Criterion) {
    let mut group = c.benchmark_group("directory");
    group.throughput(Throughput::Elements(1));
    for peers in PEERS {
        let mut directory = Directory::default();
        for n in 0..peers {
            assert_eq!(directory.join(&join(n)).1, Change::First);
        }
        // Neighbours in this order are not neighbours in memory.
        let mut order = (0..peers).map(|n| n.wrapping_mul(2_654_435_761) % peers).cycle();
        let mut next = || order.next().expect("a cycle never ends");
        group.bench_function(format!("find one of {peers}"), |b| {
            b.iter(|| {
                let n = next();
                let found = directory.find(black_box(&key(n))).expect("everybody is here");
                assert_eq!(directory.peer(found).active().slot(), n);
            });
        });
        group.bench_function(format!("miss among {peers}"), |b| {
            b.iter(|| assert_eq!(directory.find(black_box(&key(peers + next()))), None));
        });
        group.bench_function(format!("join and depart among {peers}"), |b| {
            b.iter(|| {
                let join = join(peers);
                let (peer, change) = directory.join(&join);
                assert_eq!((change, directory.keys()), (Change::First, peers as usize + 1));
                assert_eq!(directory.depart(&join.key, join.conn), (peer, Change::First));
                directory.forget(peer);
            });
        });
        assert_eq!(directory.keys(), peers as usize);
    }
    group.finish();
}

fn key(n: u32) -> NodeKey {
    let mut key = [0x40; 32];
    key[..4].copy_from_slice(&n.to_be_bytes());
    NodeKey(key)
}

fn join(n: u32) -> Join {
    Join { key: key(n), conn: ConnId::new(0, n, 0), stamp: u64::from(n), ip: [0; 16], port: 0, flags: 1 }
}
