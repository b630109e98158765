//! The TLS 1.3 record layer, as a worker uses it: open from where the record was received, seal where queued frames
//! lie, or from where they were opened.

#[path = "bed/tls.rs"]
mod tls;

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use derpring::tls::record::{HEADER_LEN, MAX_PLAINTEXT, TRAILER_LEN};
use derpring::tls::{Opened, RecordLayer, Transport};
use tls::Handshaker;

/// Records that are prepared at a time: all of them lie in the cache, as what was just received does.
const BATCH: u64 = 16;

/// One packet of a usual tunnel in its record, and a full record.
const SIZES: [usize; 2] = [1443, MAX_PLAINTEXT];

criterion_main!(benches);
criterion_group!(benches, open, seal);

fn open(c: &mut Criterion) {
    let mut group = c.benchmark_group("open");
    for size in SIZES {
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(format!("{size} B"), |b| {
            let (mut relay, mut client) = pair();
            let plain = plain(size);
            b.iter_custom(|records| {
                in_batches(records, |batch| {
                    let wire: Vec<_> = (0..batch).map(|_| sealed(&mut client, &plain)).collect();
                    let mut opened = vec![0; wire.iter().map(Vec::len).sum()];
                    let begin = Instant::now();
                    for (at, record) in wire.iter().enumerate() {
                        let used = record.len();
                        let opened = &mut opened[at * size..];
                        assert_eq!(relay.open(record, opened), Ok(Opened::Data { len: size, used }));
                    }
                    let took = begin.elapsed();
                    assert!(opened[..wire.len() * size].chunks(size).all(|opened| opened == plain));
                    took
                })
            });
        });
    }
    group.finish();
}

fn seal(c: &mut Criterion) {
    let mut group = c.benchmark_group("seal");
    for size in SIZES {
        group.throughput(Throughput::Bytes(size as u64));
        let plain = plain(size);
        group.bench_function(format!("{size} B"), |b| {
            let (mut relay, mut client) = pair();
            let room = [vec![0; HEADER_LEN], plain.clone(), vec![0; TRAILER_LEN]].concat();
            b.iter_custom(|records| {
                in_batches(records, |batch| {
                    let mut wire = vec![room.clone(); batch as usize];
                    let begin = Instant::now();
                    for record in &mut wire {
                        let range = relay.seal_in_place(record, HEADER_LEN, HEADER_LEN + size);
                        assert_eq!(range, Ok(0..record.len()));
                    }
                    let took = begin.elapsed();
                    assert_opens(&mut client, &wire, &plain);
                    took
                })
            });
        });
        group.bench_function(format!("{size} B apart"), |b| {
            let (mut relay, mut client) = pair();
            b.iter_custom(|records| {
                in_batches(records, |batch| {
                    let frames = vec![plain.clone(); batch as usize];
                    let mut wire = vec![vec![0; HEADER_LEN + size + TRAILER_LEN]; batch as usize];
                    let begin = Instant::now();
                    for (frames, record) in frames.iter().zip(&mut wire) {
                        assert_eq!(relay.seal(frames, record), Ok(()));
                    }
                    let took = begin.elapsed();
                    assert_opens(&mut client, &wire, &plain);
                    took
                })
            });
        });
    }
    group.finish();
}

fn assert_opens(client: &mut RecordLayer, wire: &[Vec<u8>], plain: &[u8]) {
    let mut opened = vec![0; plain.len() + HEADER_LEN + TRAILER_LEN];
    for record in wire {
        assert_eq!(client.open(record, &mut opened), Ok(Opened::Data { len: plain.len(), used: record.len() }));
        assert!(opened[..plain.len()] == *plain);
    }
}

/// Time that `f` reports for `all`, in batches.
fn in_batches(all: u64, mut f: impl FnMut(u64) -> Duration) -> Duration {
    let mut took = Duration::ZERO;
    let mut left = all;
    while left > 0 {
        let batch = left.min(BATCH);
        took += f(batch);
        left -= batch;
    }
    took
}

fn sealed(client: &mut RecordLayer, plain: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    client.seal_message(derpring::tls::record::APPLICATION_DATA, plain, &mut wire).expect("the client's records");
    wire
}

fn plain(size: usize) -> Vec<u8> {
    (0..size).map(|at| at as u8).collect()
}

/// The relay's end and the client's.
fn pair() -> (RecordLayer, RecordLayer) {
    let (Transport::Tls13(relay), Transport::Tls13(client)) = Handshaker::aes128().connect() else {
        panic!("the suite is of TLS 1.3");
    };
    (*relay, *client)
}
