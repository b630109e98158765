//! Cutting frames out of what one receive has brought.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use derpring::proto::deframe::{Deframer, Step};
use derpring::proto::frame::{PACKET_HEAD, header, kind};

/// One receive buffer of a worker.
const INPUT: usize = 64 * 1024;

criterion_main!(benches);
criterion_group!(benches, deframe);

fn deframe(c: &mut Criterion) {
    let mut group = c.benchmark_group("deframe");
    for payload in [1400, 100] {
        let frame = frame(payload);
        let whole: Vec<u8> = frame.iter().copied().cycle().take(INPUT / frame.len() * frame.len()).collect();
        let count = whole.len() / frame.len();
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(format!("{payload} B, whole"), |b| {
            let mut deframer = Deframer::default();
            b.iter(|| assert_eq!(cut(&mut deframer, black_box(&whole)), (count, 0)));
        });
        // Two receives, the first of which ends inside of a frame.
        let halves = whole.split_at(whole.len() / 2 / frame.len() * frame.len() + frame.len() / 2);
        group.bench_function(format!("{payload} B, one of them straddling"), |b| {
            let mut deframer = Deframer::default();
            b.iter(|| {
                let (before, none) = cut(&mut deframer, black_box(halves.0));
                assert_eq!((none, deframer.held()), (0, frame.len() / 2));
                assert_eq!(cut(&mut deframer, black_box(halves.1)), (count - before, 1));
            });
        });
    }
    group.finish();
}

/// Frames in `input`, and how many of them began before it.
fn cut(deframer: &mut Deframer, input: &[u8]) -> (usize, usize) {
    let (mut at, mut frames, mut stitched) = (0, 0, 0);
    loop {
        match deframer.next(input, at, false) {
            Step::Frame { start, end } => {
                black_box(&input[start..end]);
                frames += 1;
                at = end;
            }
            Step::Stitched { used } => {
                let frame = deframer.take_stitched();
                black_box(&frame);
                deframer.reuse(frame);
                frames += 1;
                stitched += 1;
                at = used;
            }
            Step::Need => return (frames, stitched),
            other => panic!("only packets were sent, and {other:?} came"),
        }
    }
}

fn frame(payload: usize) -> Vec<u8> {
    let mut frame = header(kind::SEND_PACKET, (32 + payload) as u32).to_vec();
    frame.resize(PACKET_HEAD + payload, 0x5a);
    frame
}
