//! Packets to another worker: into a batch, over its inbox, and the empty batch home again.
//!
//! Both ends are on one thread, so this is the work, without what it costs to move cache lines between cores.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use derpring::mem::batch::{ConnId, Item, Parcel};
use derpring::proto::frame::PACKET_HEAD;
use derpring::worker::mailbox::{INBOX_CHAINS, Inbox, Mailbox};

criterion_main!(benches);
criterion_group!(benches, there_and_home);

fn there_and_home(c: &mut Criterion) {
    let mut group = c.benchmark_group("mailbox");
    let frame = vec![5; PACKET_HEAD + 1400];
    for packets in [1, 16, 64, 256] {
        group.throughput(Throughput::Elements(packets));
        group.bench_with_input(BenchmarkId::from_parameter(packets), &packets, |b, packets| {
            let inboxes: Arc<[Inbox]> = (0..2).map(|_| Inbox::new(INBOX_CHAINS)).collect();
            let mut sender = Mailbox::new(0, inboxes.clone());
            let mut receiver = Mailbox::new(1, inboxes);
            b.iter(|| {
                for _ in 0..*packets {
                    assert!(!sender.send_packet(parcel(), black_box(&frame)).any());
                }
                assert_eq!(sender.post(|to, _, _| assert_eq!(to, 1)).chains, 1);
                assert_eq!(read(&mut receiver, &frame), *packets);
                // A batch that goes home wakes nobody.
                receiver.post(|_, _, urgent| assert!(!urgent, "nothing was published"));
                take_home(&mut sender);
                assert!(sender.is_settled());
            });
        });
    }
    group.finish();
}

/// Reads everything, as a worker does, and returns how many packets there were.
fn read(receiver: &mut Mailbox, frame: &[u8]) -> u64 {
    let mut packets = 0;
    while let Some(chain) = receiver.receive() {
        let mut next = Some(chain);
        while let Some(mut batch) = next {
            next = batch.next.take();
            for item in &batch.items {
                let Item::Packet(parcel) = item else { panic!("only packets were sent") };
                assert_eq!(black_box(batch.frame(parcel)).len(), frame.len());
                packets += 1;
            }
            receiver.send_home(batch);
        }
    }
    packets
}

fn take_home(sender: &mut Mailbox) {
    while let Some(chain) = sender.receive() {
        let mut next = Some(chain);
        while let Some(mut batch) = next {
            next = batch.next.take();
            assert_eq!(sender.welcome(batch), 0);
        }
    }
}

fn parcel() -> Parcel {
    let to = ConnId::new(1, 0, 0);
    Parcel { to, at: 0, len: 0, queued_us: 0, disco: false, introduce: false }
}
