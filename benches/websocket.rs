//! Taking packets out of the WebSocket messages that a browser sends.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use derpring::proto::ws::{Step, Unframer, header};

/// One receive buffer of a worker.
const INPUT: usize = 64 * 1024;
const MASK: [u8; 4] = [0xa1, 0x5c, 0x3e, 0x77];

criterion_main!(benches);
criterion_group!(benches, unframe, wrap);

fn unframe(c: &mut Criterion) {
    let mut group = c.benchmark_group("websocket");
    for payload in [1437, 137] {
        let message = message(payload);
        let whole: Vec<u8> = message.iter().copied().cycle().take(INPUT / message.len() * message.len()).collect();
        let count = whole.len() / message.len();
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(format!("unframe, {payload} B"), |b| {
            let mut unframer = Unframer::default();
            b.iter_batched_ref(
                || whole.clone(),
                |input| assert_eq!(read(&mut unframer, black_box(input)), (count, count * payload)),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn wrap(c: &mut Criterion) {
    c.bench_function("websocket/header", |b| b.iter(|| assert_eq!(header(black_box(1437)).1, 4)));
}

/// Pieces of payload, and their bytes.
fn read(unframer: &mut Unframer, input: &mut [u8]) -> (usize, usize) {
    let (mut at, mut pieces, mut bytes) = (0, 0, 0);
    loop {
        match unframer.next(input, at) {
            Step::Data { start, end } => {
                assert_eq!(input[start], 0x5a, "unmasked");
                pieces += 1;
                bytes += end - start;
                at = end;
            }
            Step::Need => return (pieces, bytes),
            other => panic!("only messages were sent, and {other:?} came"),
        }
    }
}

/// A masked binary message.
fn message(payload: usize) -> Vec<u8> {
    let (head, len) = header(payload);
    let mut message = head[..len].to_vec();
    message[1] |= 0x80;
    message.extend_from_slice(&MASK);
    message.extend((0..payload).map(|at| 0x5a ^ MASK[at % 4]));
    message
}
